"""What both programs do: flags to data, model and task, to the loop, to a run folder; and the
evaluation of a checkpoint alone.

A program (vision_main.py, language_main.py) says what is its own; nothing here knows of images or
text. torch is imported inside the functions: flags are checked before it is loaded.
"""

import argparse
import functools
import os
import re
import sys
from contextlib import contextmanager
from pathlib import Path

import cli
import models
from run_folder.folder import RunFolder
from training import processes, resuming
from training.signals import TRY_AGAIN, Interrupted, StopSignals
from utils import UserError, device_description, environment
from zilu.names import FUSED_NAMES, kernel_mode

# What a checkpoint decides about the precision, unless one of them is given.
PRECISION_FLAGS = ("use_amp", "amp_dtype")


class Program:
    """What one program has of its own. `settings` are those that its checkpoints hold."""

    name: str  # of the file
    kind: str  # of its models, "vision"
    flags: tuple[cli.Flag, ...]
    model_flags: tuple[str, ...]  # what a checkpoint decides: --test_only refuses other values
    data_flags: tuple[str, ...]  # what it decides unless --test_only evaluates on other data
    test_each_epoch: bool  # or once, at the end

    def check(self, args: argparse.Namespace) -> None:
        """Refuse flags that cannot be together. Called before torch is loaded."""
        raise NotImplementedError

    def load_data(self, args: argparse.Namespace, device, settings: dict, prepared):
        """Loaders train, val, test, and a description; `settings` is empty but in --test_only,
        `prepared` is what prepare_data returned."""
        raise NotImplementedError

    def build_model(self, args: argparse.Namespace, data):
        """The network in its initial state, which depends on the init seed, not the activation."""
        raise NotImplementedError

    def task(self, args: argparse.Namespace, data):
        """The task of train_eval.py."""
        raise NotImplementedError

    def resolved(self, args: argparse.Namespace, data) -> dict:
        """What its automatic arguments came to, for args.txt."""
        raise NotImplementedError

    def settings(self, args: argparse.Namespace, data) -> dict:
        """What a checkpoint needs besides the flags, to rebuild the model: its "model_options"."""
        raise NotImplementedError

    def measure(self, args: argparse.Namespace) -> str:
        """How the evaluation was done, for test_results.txt."""
        raise NotImplementedError

    # Not every program has something to do at these:

    def prepare_data(self, args: argparse.Namespace):
        """Whatever of the data can be found missing, or made ready, before torch is loaded."""

    def initial_weights(self, args: argparse.Namespace) -> str:
        """What `build_model` gives: untrained, or the name of what it starts from."""
        return "untrained"

    def check_training(self, args: argparse.Namespace, model, data) -> None:
        """Refuse what could not be trained, before the run folder is touched."""

    def adopt(
        self, args: argparse.Namespace, given: set[str], settings: dict, other_data: bool
    ) -> None:
        """Take from a checkpoint's settings what model_flags and data_flags do not cover."""

    def check_data(self, data, settings: dict, path: Path) -> None:
        """Refuse data that the checkpoint's network cannot be evaluated on."""

    def finish(self, args: argparse.Namespace, model, data) -> None:
        """Whatever follows training or evaluation."""


def main(program: Program, description: str, argv: list[str] | None = None) -> int:
    """Run `program`; the exit code."""
    args, given = cli.parse(program.name, description, program.flags, argv)
    cli.check_run_flags(args)
    folder = run_folder(program, args)
    if args.test_only:
        return test_only(program, args, given, folder)
    return supervised(program, args, given, folder)


def supervised(
    program: Program, args: argparse.Namespace, given: set[str], folder: RunFolder
) -> int:
    """Train, with the folder to itself and an ear for signals; the exit code."""
    if not processes.is_main():
        # One process speaks for all; errors are everyone's.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    with StopSignals() as signals:
        try:
            with folder.locked():
                try:
                    return train(program, args, given, folder, signals)
                except Interrupted as signal:
                    marked = not resuming.is_cleaning_up(signal) and folder.mark_unfinished()
                    if not marked:
                        raise
                    print(f"Interrupted by {signal}; {folder.path} goes on with --resume")
                    return TRY_AGAIN
        except Interrupted as signal:
            print(f"Interrupted by {signal}, before anything was done")
            return TRY_AGAIN


def run_folder(program: Program, args: argparse.Namespace) -> RunFolder:
    """--output_dir, or the folder of the run to resume, or one with a name made of the flags."""
    path = args.output_dir or cli.default_output_dir(args, program.flags)
    if args.resume not in (None, cli.AUTO) and args.output_dir is None:
        path = resuming.checkpoint_meant(args.resume).parent
    return RunFolder(path, writes=processes.is_main())


def check(program: Program, args: argparse.Namespace) -> None:
    """Refuse flags that contradict each other.

    Raises:
        UserError: with the remedy.
    """
    cli.check_together(args)
    with user_errors():
        kernel_mode()
    program.check(args)


@contextmanager
def user_errors():
    """Turns a ValueError of models/, which knows nothing of users, into a UserError."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from None


# --- what flags come to ---


def seed_of(args: argparse.Namespace, name: str) -> int:
    """`--init_seed` or `--data_seed`, which are --seed where they are not given."""
    own = getattr(args, name)
    return args.seed if own is None else own


def activation_factory(args: argparse.Namespace):
    from models.activation import create_activation

    return functools.partial(
        create_activation, args.activation, args.sigma, args.learn_sigma, args.inplace
    )


def activation_type(args: argparse.Namespace) -> type:
    """The class of what activation_factory makes."""
    return type(activation_factory(args)())


def scale_weights(args: argparse.Namespace, model) -> None:
    """Scale the initial weights as --init_gain or --rescale_init ask for."""
    from models.init_gain import unit_gain
    from models.rescale import rescale_around_activations

    if args.init_gain == "unit":
        unit_gain(model, activation_factory(args))
    if args.rescale_init is not None:
        rescale_around_activations(model, args.rescale_init)


def build_options(args: argparse.Namespace, device, test_each_epoch: bool):
    from train_eval import Options, SaveInterval
    from utils import check_compiler, resolve_amp_dtype

    if args.use_compiled:
        check_compiler(device)
    return Options(
        num_epochs=args.num_epochs,
        max_steps=args.max_steps,
        grad_accum_steps=args.grad_accum_steps,
        eval_interval=args.eval_interval,
        save_interval=SaveInterval.parse(args.save_interval),
        test_each_epoch=test_each_epoch,
        amp_dtype=resolve_amp_dtype(device, args.amp_dtype) if args.use_amp else None,
        compile_mode=args.compile_mode if args.use_compiled else None,
        stats_interval=args.stats,
        tensorboard=args.tensorboard,
        clip_grad_norm=args.clip_grad_norm,
        optimizer=args.optimizer,
        lr=args.lr,
        weight_decay=args.weight_decay,
        momentum=args.momentum,
        betas=(args.beta1, args.beta2),
        scheduler=args.scheduler,
        warmup=args.warmup,
        lr_step=args.lr_step,
        lr_gamma=args.lr_gamma,
    )


def build_watch(args: argparse.Namespace, model, device):
    """What --stats looks at the activations with; None without."""
    if args.stats is None:
        return None
    from training.diagnostics.watch import Watch
    from utils import activation_sites

    return Watch(model, activation_sites(model, activation_type(args)), device)


def prepare(program: Program, args: argparse.Namespace):
    """The device, ready, and the loop's options."""
    from utils import resolve_device, set_arithmetic

    device = processes.own_device(resolve_device(args.device))
    set_arithmetic(device, args.deterministic)
    options = build_options(args, device, program.test_each_epoch)
    kernels_path(args, device)  # built before the first step is timed
    print(f"Device: {device_description(device)}")
    if args.sigma != 1 and not cli.has_sigma(args):
        print(f"Note: {args.activation} has no sigma; --sigma {args.sigma:g} is ignored")
    return device, options


def kernels_path(args: argparse.Namespace, device) -> str | None:
    """How the activation is computed outside torch.compile, if it has kernels: `fused` or `plain`.
    What is missing is built now.

    Raises:
        UserError: ZILU_KERNELS asks for what there is not.
    """
    if args.activation not in FUSED_NAMES:
        return None
    from zilu import kernels

    try:
        return kernels.backend(device.type)
    except RuntimeError as error:
        raise UserError(str(error)) from None


def built_model(program: Program, args: argparse.Namespace, data, device):
    """The network on its device.

    Raises:
        UserError: it does not fit into memory.
    """
    try:
        return program.build_model(args, data).to(device)
    except (RuntimeError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else "no memory"
        if not isinstance(error, MemoryError) and not re.search("memory|alloc|overflow", reason):
            raise
        raise UserError(
            f"the model does not fit into the memory of {device} ({reason}); take a smaller one"
        ) from None


# --- training ---


def train(
    program: Program, args: argparse.Namespace, given: set[str], folder: RunFolder, signals
) -> int:
    """Train, and fill the run folder; the exit code, 3 if the run diverged.

    Raises:
        Interrupted: by a signal; whatever has been done is saved.
    """
    resuming.check_restart(args, folder)
    folder.claim(args.resume is not None)
    with processes.joined():
        mine = resuming.find(args, folder) if processes.is_main() else None
        saved, path = processes.from_main(mine) or (None, None)
        if saved:
            resuming.take_flags(program.kind, program.flags, args, given, saved["settings"])
        check(program, args)
        if args.resume is None:
            folder.check_free(args.overwrite)
        trainer, data, settings = ready(program, args, saved, path, folder)
        code = fit(trainer, data, settings, saved, folder, signals)
        if code == 0 and processes.is_main():
            program.finish(args, trainer.model, data)
    return code


def ready(program: Program, args, saved: dict | None, path: Path | None, folder: RunFolder):
    """A trainer, its data and the settings for checkpoints; the run folder as it is to be. `saved`
    is the checkpoint at `path`, if there is one to go on from."""
    prepared = program.prepare_data(args)
    import torch

    from train_eval import Trainer
    from utils import mixed_seed

    device, options = prepare(program, args)
    data = program.load_data(args, device, {}, prepared)
    print(data.description)
    model = built_model(program, args, data, device)
    program.check_training(args, model, data)
    watch = build_watch(args, model, device)
    trainer = Trainer(model, program.task(args, data), device, options, watch)

    facts = models.package_version(args.model) | environment(device)
    facts |= {"processes": processes.world_size(), "torchrun": processes.torchrun_id()}
    settings = {"kind": program.kind, "args": vars(args), "environment": facts}
    settings |= program.settings(args, data)
    # Every further process is to drop other activations.
    others = [processes.rank()] if processes.rank() else []
    torch.manual_seed(mixed_seed("dropout", args.seed, *others))
    if saved:
        resuming.take_weights(model, saved, settings, path)
    if not saved or path != folder.checkpoint:
        folder.clear()
        resuming.bring_along(saved, folder)
    if not folder.described():
        resolved = resolved_arguments(program, args, data, options, device, folder)
        describe(args, resolved, facts, model, folder)
    if saved:
        note = resuming.note(saved, facts)
        folder.resume(saved["result_lengths"], trainer.result_lines(saved), note)
    return trainer, data, settings


def fit(trainer, data, settings: dict, saved: dict | None, folder: RunFolder, signals) -> int:
    """Train to the end; the exit code, 3 if the run diverged.

    Raises:
        Interrupted: by a signal.
    """
    from train_eval import Diverged, Stopped

    try:
        with signals.deferred():
            trainer.fit(data, folder, settings, saved, lambda: signals.requested)
    except Diverged as error:
        return report_divergence(error, folder)
    except Stopped:
        interruption = signals.interruption()
        interruption.saved = True
        raise interruption from None
    print(f"Results: {folder.path}")
    return 0


def describe(args, resolved: dict, facts: dict, model, folder: RunFolder) -> None:
    """Write what is known before training."""
    from utils import describe_model

    if resolved["warmup_steps"] >= resolved["total_steps"]:
        print(f"Note: the warm-up ({args.warmup}) is longer than the whole training")
    model_text = describe_model(model, activation_type(args))
    folder.describe(cli.args_text(args, resolved, facts), model_text)


def resolved_arguments(program: Program, args, data, options, device, folder: RunFolder) -> dict:
    """What the automatic and derived arguments came to, for args.txt."""
    from training.optimization import schedule_length

    _, total_steps, warmup = schedule_length(options, len(data.train))
    return {
        "output_dir": str(folder.path),
        "device": str(device),
        "sigma": args.sigma if cli.has_sigma(args) else None,
        "init_seed": seed_of(args, "init_seed"),
        "data_seed": seed_of(args, "data_seed"),
        **program.resolved(args, data),
        "total_steps": total_steps,
        "warmup_steps": warmup,
        "amp_dtype": str(options.amp_dtype or "off").removeprefix("torch."),
        "compile_mode": options.compile_mode or "off",
        "kernels": kernels_path(args, device),
    }


def report_divergence(error: Exception, folder: RunFolder) -> int:
    folder.add_result(f"[Diverged] {error}")
    folder.add_metrics({"diverged": str(error)})
    if processes.is_main():
        print(
            f"error: the run diverged: {error}; try a lower --lr or more --warmup", file=sys.stderr
        )
    return 3


# --- evaluation alone ---


def test_only(program: Program, args, given: set[str], folder: RunFolder) -> int:
    """Evaluate a checkpoint, or the untrained network, on the whole test set."""
    if processes.world_size() > 1:
        raise UserError("--test_only is for one process; start it without torchrun")
    from run_folder.checkpoint import load_checkpoint
    from train_eval import Diverged, Trainer

    path = checkpoint_path(args, folder)
    settings = {}
    if path:
        checkpoint = load_checkpoint(path)
        settings = checkpoint["settings"]
        adopt_settings(program, args, given, settings, path)
    check(program, args)
    prepared = program.prepare_data(args)
    device, options = prepare(program, args)
    what = str(path or f"{program.initial_weights(args)} {args.model}, {args.activation}")
    if path is None:
        weights = program.initial_weights(args)
        print(f"Note: no --checkpoint, and none in {folder.path}: this is the {weights} network")
    data = program.load_data(args, device, settings, prepared)
    print(data.description)
    if path:
        program.check_data(data, settings, path)
    model = built_model(program, args, data, device)
    if path:
        resuming.load_weights(model, checkpoint["model"], path)
    task = program.task(args, data)
    trainer = Trainer(model, task, device, options)
    try:
        result = task.describe(trainer.evaluate(data.test, "Test"))
    except Diverged as error:
        raise UserError(f"{what}: {error}; these weights give no numbers") from None
    precision = str(options.amp_dtype or "float32").removeprefix("torch.")
    line = f"[Test] {result} | {what} | {program.measure(args)}, {precision} | {data.description}"
    print(line)
    home = folder if "output_dir" in given or path is None else RunFolder(path.parent)
    home.add_test_result(line)
    program.finish(args, model, data)
    return 0


def checkpoint_path(args: argparse.Namespace, folder: RunFolder) -> Path | None:
    """--checkpoint, or the run folder's (which --config RUN/args.txt names too), or None.

    Raises:
        UserError: the run folder holds a run that left no checkpoint.
    """
    if args.checkpoint is not None:
        return Path(args.checkpoint)
    if args.output_dir is None and Path(args.config or "").name == RunFolder.ARGS:
        folder = RunFolder(Path(args.config).parent)
    if folder.checkpoint.exists():
        return folder.checkpoint
    if (folder.path / RunFolder.ARGS).exists():
        raise UserError(f"{folder.path} holds a run that left no checkpoint; give --checkpoint")
    return None


def adopt_settings(
    program: Program, args: argparse.Namespace, given: set[str], settings: dict, path: Path
) -> None:
    """Take model, shapes, data and precision from the checkpoint.

    Raises:
        UserError: a given flag says otherwise, or the checkpoint is not of this program.
    """
    # Checkpoints of before there was a second kind do not say theirs.
    if settings.get("kind", "vision") != program.kind or "model_options" not in settings:
        raise UserError(f"--checkpoint {path}: not a checkpoint of a {program.kind} model")
    # Those of before there was a choice of norms have what auto stands for.
    saved = {"norm": "auto"} | settings["args"] | settings["model_options"]
    for name in program.model_flags:
        wanted = getattr(args, name)
        if name in given and wanted not in ("auto", saved[name]):
            raise UserError(
                f"--{name} {wanted} contradicts the checkpoint, which has {saved[name]}; "
                f"leave out --{name}"
            )
        setattr(args, name, saved[name])
    if not given & set(PRECISION_FLAGS):
        args.use_amp, args.amp_dtype = saved["use_amp"], saved["amp_dtype"]
    other_data = "dataset" in given and args.dataset != saved["dataset"]
    program.adopt(args, given, settings, other_data)
    if other_data:
        return
    for name in program.data_flags:
        if name not in given:
            setattr(args, name, saved[name])
