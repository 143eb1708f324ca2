"""Turn a configuration into data, network and loop: what all programs do once torch is loaded.

A subclass says what is its own (tasks/vision.py, language.py, table.py, inr.py); nothing here knows
of images or text.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic

import torch
from torch import nn

from cli.args_file import args_text
from cli.config import C
from cli.parser import Command
from run_folder.checkpoint import load_checkpoint
from run_folder.folder import RunFolder
from train_eval import Stopped, Trainer
from training import (
    activation,
    common_draws,
    custom_activation,
    initial_weights,
    log_sinks,
    processes,
    resuming,
    sharding,
    test_only,
)
from training.devices import (
    amp_dtype,
    check_compiler,
    device_description,
    enough_memory,
    enough_memory_for_model,
    make_current,
    own_device,
    resolve_device,
    set_arithmetic,
)
from training.diagnostics.recorder import StatsRecorder
from training.environment import environment, package_versions
from training.evaluation import Diverged
from training.initial_weights import InitialWeights, scale
from training.model_text import activation_sites, describe_model
from training.objective import Objective
from training.optimization import check_optimizer, notes
from training.optimizers import settings_text
from training.run_log import report_divergence
from training.session import Session
from training.task import D, Task
from utils import UserError, is_main, mixed_seed, rank, torchrun_id, world_size
from zilu.replacement.gradual import Gradual

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11


class Program(Generic[C, D]):
    """Train and evaluate what a configuration asks for.

    Args:
        config: complete and checked as far as that needs no torch.

    Attributes:
        config: the same.
        custom: the user's own activation; None for one by name.
        device: this process's, with its arithmetic chosen.
        start: what the weights that the run started from decide, from the keys of STARTS: in a
            checkpoint too, as these weights need not be there any more.
        gradual: mixes old activations into the network's; None for none.
        DRAWS_BY_ROWS: what is dropped at random is little for each sample, so that every process
            can draw for all of a batch.
    """

    STARTS: ClassVar[tuple[str, ...]] = ()
    DRAWS_BY_ROWS: ClassVar[bool] = False

    def __init__(self, config: C):
        self.config = config
        self.check()
        self.custom = custom_activation.loaded(config.model)
        self.start: dict[str, Any] = {}
        self.gradual: Gradual | None = Gradual() if config.training.gradual_length else None
        run, training = config.run, config.training
        self.device = own_device(resolve_device(run.device))
        make_current(self.device)
        set_arithmetic(self.device, run.deterministic)
        if training.use_compiled:
            check_compiler()
        self.amp_dtype = amp_dtype(training, self.device)
        self.precision = str(self.amp_dtype or "float32").removeprefix("torch.")
        with enough_memory(self.device):
            self.kernels = activation.backend(
                self.config.model, self.device, self.amp_dtype, self.activation()
            )

    # --- what a program says of its own ---

    def load_data(self, settings: dict[str, Any]) -> D:
        """Return the loaders; `settings` are a checkpoint's, or empty in training."""
        raise NotImplementedError

    def initial_weights(self) -> InitialWeights | None:
        """Return the weights that the run starts from; None where it starts untrained."""
        return initial_weights.read(self.config)

    def start_of(self, weights: InitialWeights) -> dict[str, Any]:
        """Return what the weights decide, by STARTS."""
        return {}

    def put_weights(self, model: nn.Module, data: D, weights: InitialWeights) -> None:
        """Copy the weights into the network."""
        initial_weights.put_into(model, weights)

    def build_model(self, data: D) -> nn.Module:
        """Return the network in its initial state.

        It depends on the init seed, not on the activation.
        """
        raise NotImplementedError

    def task(self, data: D) -> Task:
        """Return the loop's task."""
        raise NotImplementedError

    def resolved(self, data: D) -> dict[str, Any]:
        """Return what automatic flags came to, for args.txt."""
        raise NotImplementedError

    def settings(self, data: D) -> dict[str, Any]:
        """Return what a checkpoint needs besides the flags, to rebuild the network."""
        raise NotImplementedError

    def measured_with(self) -> str:
        """Return how an evaluation was made, for test_results.txt."""
        raise NotImplementedError

    @classmethod
    def tested_config(
        cls, command: Command[C], settings: dict[str, Any], taken: dict[str, Any]
    ) -> C:
        """Return the configuration for --test_only of a checkpoint.

        Args:
            command: the command line.
            settings: the checkpoint's.
            taken: the flags that it decides.

        Raises:
            UserError: the command contradicts the checkpoint.
        """
        raise NotImplementedError

    # Not every program has something to do at these:

    def check(self) -> None:
        """Refuse flags that contradict each other.

        Raises:
            UserError: with the remedy.
        """
        self.config.check()

    def check_training(self, model: nn.Module, data: D) -> None:
        """Refuse what could not be trained, before the run folder is touched."""

    def check_data(self, data: D, settings: dict[str, Any], path: Path) -> None:
        """Refuse data that the checkpoint's network cannot be evaluated on."""

    def finish(self, model: nn.Module, data: D) -> None:
        """Do what follows training or evaluation."""

    # --- training ---

    @classmethod
    def train(cls, session: Session[C]) -> int:
        """Train, and fill the run folder; return the exit code, DIVERGED if the run diverged.

        Raises:
            Interrupted: by a signal; what has been done is saved.
        """
        command, folder, signals = session.command, session.folder, session.signals
        with processes.joined(command.config.run.device):
            mine = resuming.find(command.config.run, folder) if is_main() else None
            saved, path = processes.from_main(mine) or (None, None)
            config = command.config
            if saved:
                config = resuming.resumed_config(command, saved, path)
            command.check_code(config)
            program = cls(config)
            custom_activation.check_source(program.custom, saved["settings"] if saved else {}, path)
            with enough_memory(program.device):
                trainer = program.trainer(folder, saved, path, lambda: signals.requested)
            with signals.deferred(), log_sinks.following(folder, program.config.run.sinks):
                try:
                    with enough_memory(program.device):
                        trainer.fit()
                except Diverged as error:
                    return report_divergence(error, folder)
                except Stopped:
                    raise signals.interruption(saved=True) from None
            print(f"Results: {folder.path}")
            if is_main() or sharding.is_sharded(trainer.model):
                program.finish(trainer.model, trainer.data)
        return 0

    def trainer(
        self,
        folder: RunFolder,
        saved: dict[str, Any] | None,
        path: Path | None,
        stop_requested: Callable[[], bool],
    ) -> Trainer[D]:
        """Return the trainer in the state to go on from, with the run folder prepared.

        Args:
            folder: the run's.
            saved: the checkpoint at `path` to go on from, or None.
            path: where it is.
            stop_requested: asked for a reason to stop.
        """
        self._print_notes()
        check_optimizer(self.config.training, self.device)
        weights = self._begin(saved["settings"] if saved else None)
        data = self._loaded({})
        model = self.network(data, weights)
        self.check_training(model, data)
        self.text = describe_model(model, self.activation_type(), self.config.training.decay)
        rows = common_draws.made_common(model) if self.DRAWS_BY_ROWS else None
        sharding.prepare(model, self.config.training, self.device)
        facts = package_versions(self.config) | environment(self.device)
        facts |= {"processes": world_size(), "torchrun": torchrun_id()}
        settings = {"kind": self.config.KIND, "args": self.config.values(), "environment": facts}
        settings |= self.settings(data)
        settings |= {"init_from_sha256": weights.digest} if weights else {}
        settings |= self._activation_source() | self.start
        objective = self.objective(model, data)
        training, run = self.config.training, self.config.run
        sites = activation_sites(model, self.activation_type())
        of = (objective, sites, self.device, folder)
        trainer = Trainer(
            objective, data, training, run, folder, settings,
            StatsRecorder(*of, run.stats) if run.stats else None,
            stop_requested, self.gradual, rows,
        )  # fmt: skip
        for note in notes(model, trainer.optimizer):
            print(note)
        # Every further process is to drop other activations, unless it draws for all samples.
        others = [rank()] if rank() and rows is None else []
        torch.manual_seed(mixed_seed("dropout", run.seed, *others))
        if saved and path:
            resuming.take_state(trainer, saved, settings, path)
        if not saved or path != folder.checkpoint:
            folder.clear()
        if saved and (path != folder.checkpoint or resuming.earlier_length(saved, settings)):
            resuming.bring_along(saved | {"settings": settings}, path, folder)
        if saved:
            self._go_on(folder, trainer, saved, facts)
        elif not folder.described():
            self._describe(folder, trainer, facts)
        return trainer

    def _begin(self, settings: dict[str, Any] | None) -> InitialWeights | None:
        """Find out what the start decides: from the weights, or from a checkpoint's `settings`."""
        if settings is not None:
            self.start = {name: settings[name] for name in self.STARTS if name in settings}
            return None
        weights = self.initial_weights()
        if weights is not None:
            self.start = self.start_of(weights)
        return weights

    def _go_on(
        self, folder: RunFolder, trainer: Trainer[D], saved: dict[str, Any], facts: dict[str, Any]
    ) -> None:
        """Bring the files of the run to where `saved` is, and note that it goes on."""
        note = resuming.note(saved, trainer.settings, folder)
        if not folder.described():
            self._describe(folder, trainer, facts)
        training = self.config.training
        length = {"num_epochs": training.num_epochs, "max_steps": training.max_steps}
        folder.resume(
            saved["result_lengths"], trainer.log.lines_of(saved["records"]), note,
            length | {"total_steps": trainer.total_steps},
        )  # fmt: skip

    def _describe(self, folder: RunFolder, trainer: Trainer[D], facts: dict[str, Any]) -> None:
        """Write args.txt and model.txt: what is known before training."""
        run, training, model = self.config.run, self.config.training, self.config.model
        has_sigma = self.custom.takes("sigma") if self.custom else model.has_sigma
        for note in trainer.schedule.notes():
            print(note)
        resolved = {
            "output_dir": str(folder.path),
            "device": str(self.device),
            "sigma": model.sigma if has_sigma else None,
            "init_seed": run.weights_seed,
            "data_seed": run.order_seed,
            **self.resolved(trainer.data),
            "total_steps": trainer.total_steps,
            "warmup_steps": trainer.schedule.warmup,
            **({"replacing_steps": replacing} if (replacing := trainer.schedule.replacing) else {}),
            "amp_dtype": str(self.amp_dtype or "off").removeprefix("torch."),
            "compile_mode": training.compile_mode if training.use_compiled else "off",
            "kernels": self.kernels,
        }
        if training.has_library_optimizer:
            settings = settings_text(trainer.optimizer, training.optimizer)
            resolved |= {"optimizer_args": settings}
        digest = trainer.settings.get("init_from_sha256")
        resolved |= {"init_from_sha256": digest} if digest else {}
        resolved |= self._activation_source()
        own = custom_activation.files(self.custom, self.activation())
        folder.describe(args_text(self.config, resolved, facts), self.text, own)

    def _activation_source(self) -> dict[str, Any]:
        return {"activation_source": self.custom.source.record()} if self.custom else {}

    def _loaded(self, settings: dict[str, Any]) -> D:
        """Return the loaders, and print what they are of."""
        data = self.load_data(settings)
        print(data.description)
        for name, test in data.also.items():
            print(f"Also {name}: {test.description}")
        return data

    # --- evaluation alone ---

    @classmethod
    def test(cls, session: Session[C]) -> int:
        """Evaluate a checkpoint, or the network that training would start with; return 0."""
        if world_size() > 1:
            raise UserError("--test_only is for one process; start it without torchrun")
        command, folder = session.command, session.folder
        path = test_only.checkpoint_path(command.config, folder)
        if path is None:
            cls._test_start(command, folder)
        else:
            home = folder if "output_dir" in command.given else RunFolder(path.parent)
            cls._test_checkpoint(command, path, home)
        return 0

    @classmethod
    def _test_checkpoint(cls, command: Command[C], path: Path, home: RunFolder) -> None:
        checkpoint = load_checkpoint(path)
        program = cls.of_checkpoint(command, path, checkpoint)
        program._print_notes()
        data = program._loaded(checkpoint["settings"])
        with enough_memory(program.device):
            model = program.trained_network(data, path, checkpoint)
        objective = program.objective(model, data)
        what = test_only.described(path, checkpoint)
        program._add_test_results(home, objective, data, what, checkpoint.get("ema"))
        program.finish(model, data)

    @classmethod
    def _test_start(cls, command: Command[C], folder: RunFolder) -> None:
        """Evaluate the network that training would start with: a pretrained one, or untrained."""
        config = command.config
        command.check_code(config)
        program = cls(config)
        program._print_notes()
        initial = program._begin(None)
        program.gradual = Gradual() if initial and program.compares(initial) else None
        source = initial.source if initial else config.values()["init_from"]
        weights = f"pretrained ({source})" if source else "untrained"
        print(f"Note: no --checkpoint, and none in {folder.path}: this is the {weights} network")
        data = program._loaded({})
        with enough_memory(program.device):
            model = program.network(data, initial)
        objective = program.objective(model, data)
        what = f"{weights} {config.model.model}, "
        if program.gradual is not None:
            program._add_test_results(folder, objective, data, what + "its own activations")
            program.gradual.set(1)
        program._add_test_results(folder, objective, data, what + config.model.activation)
        program.finish(model, data)

    @classmethod
    def of_checkpoint(cls, command: Command[C], path: Path, checkpoint: dict[str, Any]) -> Self:
        """Return the program for the network of a checkpoint, which decides most flags.

        Args:
            command: the command line.
            path: where the checkpoint is.
            checkpoint: its content.

        Raises:
            UserError: the command contradicts it, or another source of the activation trained it.
        """
        settings = checkpoint["settings"]
        taken = test_only.tested_values(command, settings, path)
        config = cls.tested_config(command, settings, taken)
        command.check_code(config)
        program = cls(config)
        custom_activation.check_source(program.custom, settings, path)
        program._begin(settings)
        program.gradual = Gradual() if "gradual" in checkpoint else None
        return program

    def trained_network(self, data: D, path: Path, checkpoint: dict[str, Any]) -> nn.Module:
        """Return the network of the checkpoint at `path`, with the weights that it trained.

        Raises:
            UserError: the data do not fit it, or it does not fit into memory.
        """
        self.check_data(data, checkpoint["settings"], path)
        model = self.network(data)
        with resuming.fitting_weights(path):
            model.load_state_dict(checkpoint["model"])
        if self.gradual is not None:
            self.gradual.load_old_state(checkpoint["gradual"]["old"])
            self.gradual.set(checkpoint["gradual"]["t"])
        return model

    def compares(self, weights: InitialWeights) -> bool:
        """Return whether --test_only shows the weights with the activations before, too."""
        return False

    def _add_test_results(
        self,
        home: RunFolder,
        objective: Objective,
        data: D,
        what: str,
        average: dict[str, Any] | None = None,
    ) -> None:
        """Evaluate on all test sets, and print and write their lines."""
        measured = f"{what} | {self.measured_with()}, {self.precision}"
        try:
            with enough_memory(self.device):
                for line in test_only.lines(objective, data, average, measured):
                    print(line.partition("\n")[0])
                    home.add_test_result(line)
        except Diverged as error:
            raise UserError(f"{what}: {error}; these weights give no numbers") from None

    # --- what the flags come to ---

    def network(self, data: D, weights: InitialWeights | None = None) -> nn.Module:
        """Return the network on its device; it starts from `weights`, where there are any.

        Raises:
            UserError: it does not fit into memory, or the weights do not fit it.
        """
        with enough_memory_for_model(self.device):
            if self.gradual is not None:
                self.gradual.set(1)  # the new activations are tried out as they will be
            with custom_activation.blamed(self.custom):
                model = self.build_model(data)
            if weights is not None:
                print(f"Starting from {weights.source}, its {weights.remark}")
                self.put_weights(model, data, weights)
            if self.gradual is not None:
                self.gradual.set(0)
                self.gradual.to(self.device)
            return model.to(sharding.first_device(self.config.training, self.device))

    def objective(self, model: nn.Module, data: D) -> Objective:
        """Return the network with its task, in the configuration's precision."""
        training = self.config.training
        mode = training.compile_mode if training.use_compiled else None
        return Objective(model, self.task(data), self.device, self.amp_dtype, mode)

    def activation(self) -> Callable[[], nn.Module]:
        """Return the factory that makes each activation of the network."""
        return activation.factory(self.config, self.custom)

    def scale_weights(self, model: nn.Module) -> None:
        """Scale the initial weights as --init_gain or --rescale_init ask for."""
        scale(model, self.config.model, self.activation())

    def activation_type(self) -> type[nn.Module]:
        """Return the class of the network's activations."""
        return type(self.activation()())

    def _print_notes(self) -> None:
        print(f"Device: {device_description(self.device)}")
        training = self.config.training
        if training.compile_mode != "default" and not training.use_compiled:
            print("Note: --compile_mode has no effect without --use_compiled")
        for note in activation.notes(self.config.model, self.custom):
            print(note)
