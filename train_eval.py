"""Train, evaluate and save any task in one loop, on one device or several.

The order of things: `fit` trains epoch after epoch, `train_epoch` makes the steps of one and
evaluates where it is due, `train_step` makes one step of the optimizer. training/objective.py
computes a batch's loss; training/task.py says what a task and a loader are.

A run goes on exactly where it was interrupted: `state_dict` holds everything that the rest of the
training depends on. Nothing in a training step waits for the device: sums stay on it and are read
once per LOG_STEPS, or where these take long, every few seconds.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any, Generic

import torch
from torch import Tensor, nn

from cli.run import RunConfig
from cli.training import TrainingConfig
from run_folder.checkpoint import save_checkpoint
from run_folder.folder import RunFolder
from run_folder.result_lines import Record
from training import evaluation, further_tests, processes, sharding
from training.common_draws import Rows
from training.diagnostics.recorder import StatsRecorder
from training.evaluation import Diverged
from training.live_progress import LiveProgress
from training.objective import Objective
from training.optimization import build_optimizer, make_gradients
from training.optimizers import averages, evaluated_weights, keep_evaluated_weights
from training.random_state import random_state, set_random_state
from training.run_log import RunLog, costs
from training.schedule import Plateau, Schedule
from training.state import Place, SaveInterval, State
from training.task import Batch, D, Loader, Task, in_groups, size_of_batch
from training.weight_average import EMA, Averaging, WeightAverage, skipped_by
from utils import Progress, is_main, mixed_seed, rank, world_size
from zilu.replacement.gradual import Gradual

LOG_STEPS = 50
# GradScaler halves its scale, 2^16 at first, at every step that it skips.
SMALLEST_SCALE = 2.0**-16
SAVE = 1  # the number of its flag
NEVER = 2**62  # a step that no run reaches


class Stopped(Exception):
    """Say that the training was asked to stop, and that its state is saved."""


class Trainer(Generic[D]):
    """Train and evaluate a network, and write what a run leaves into its folder.

    Args:
        objective: the network with its task, on the device.
        data: the loaders; it is trained on `train` and evaluated on `val`, if any, and `test`.
        config: how to train.
        run: when to save.
        folder: gets results, metrics, predictions and checkpoints.
        settings: plain values stored in every checkpoint, to rebuild the network from.
        stats: records the activations meanwhile; None for nothing.
        gradual: mixes the old activations into the new ones, less with every step; None for none.
        rows: of a batch, for layers that draw for all processes; None where each draws for itself.
        stop_requested: asked after every step, and every batch of an evaluation.
    """

    def __init__(
        self,
        objective: Objective,
        data: D,
        config: TrainingConfig,
        run: RunConfig,
        folder: RunFolder,
        settings: dict[str, Any],
        stats: StatsRecorder | None = None,
        stop_requested: Callable[[], bool] = lambda: False,
        gradual: Gradual | None = None,
        rows: Rows | None = None,
    ):
        self.gradual, self.rows = gradual, rows
        self.objective, self.data, self.config, self.folder = objective, data, config, folder
        self.settings, self.stats, self.stop_requested = settings, stats, stop_requested
        self.model: nn.Module = objective.model
        self.task: Task = objective.task
        self.device = objective.device
        self.log = RunLog(self.task, folder)
        self.save_interval = SaveInterval.parse(run.save_interval)

        self.schedule = Schedule.of(config, len(data.train))
        self.steps_per_epoch = self.schedule.steps_per_epoch
        self.total_steps = self.schedule.total_steps
        planned = {"steps": self.steps_per_epoch, "total_steps": self.total_steps}
        planned |= {"epochs": config.num_epochs}
        self.live = LiveProgress(folder, self.task.counted, planned)
        self.optimizer = build_optimizer(self.model, config)
        self.plateau = Plateau(config.lr_step, config.lr_gamma)
        # Otherwise the gradients of the first batch are memory of a CUDA graph, which the next
        # batch of the same step writes over.
        self.keeps_gradients = objective.uses_cuda_graphs and config.grad_accum_steps > 1
        if self.keeps_gradients:
            make_gradients(self.model)
        uses_fp16 = objective.amp_dtype is torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=uses_fp16)
        self.average: WeightAverage | None = None
        if config.ema is not None:
            samples = data.train.batch_size * config.grad_accum_steps
            averaging = Averaging.of(config, samples, self.schedule.warmup)
            self.average = WeightAverage(self.model, averaging, self.scaler.is_enabled())
        self.replicas = processes.replicated(objective, self.device)
        self.agreement = processes.Agreement()

        self.state, self.is_resumed = State(), False
        self.totals = evaluation.zero_sums(self.device)  # this rank's, of the epoch so far
        self.first_bad_step = torch.full((), NEVER, device=self.device)
        self.loss_is_asked = True  # after the first step, of a run that goes on too
        self.clock = self.saved_at = time.perf_counter()

    # --- the loop ---

    def fit(self) -> None:
        """Train to the end, from the step that the state is at.

        Raises:
            Diverged: a loss is NaN or infinite; what was saved before stays.
            Stopped: `stop_requested`; the state is saved.
        """
        self.clock = time.perf_counter()
        self._set_activations()
        if not self.is_resumed:
            self._save()  # results that follow always have a checkpoint to go on from
        try:
            while self.state.step < self.total_steps or self._evaluation_due():
                self.train_epoch()
        except Stopped:
            self._save()
            raise
        # What follows is all made anew by a run that goes on: its end has been saved.
        for ending, weights in self._evaluated():
            with weights:
                self._test_at_the_end(ending)
        self.model.eval()
        keep_evaluated_weights(self.optimizer)
        self.log.end(self.state.records)
        self.live.end()

    def train_epoch(self) -> None:
        """Train the rest of the epoch; evaluate and save where it is due."""
        state, place, loader = self.state, self.state.place, self.data.train
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.clock = time.perf_counter()
        if self._evaluation_due():  # the run was interrupted in this evaluation
            self._evaluate_splits()
        self.model.train()
        progress = Progress(f"Epoch {place.epoch:03d}", self.steps_per_epoch, place.steps)
        accumulated = self.config.grad_accum_steps
        epoch = in_groups(loader.batches(place.epoch, place.steps * accumulated), accumulated)
        left = self.total_steps - state.step  # none after an interruption in the last evaluation
        self.live.restart()
        for batches in self.live.batches(islice(epoch, left)):
            self._record_stats(batches)
            self.totals = self.totals + self.train_step(batches)
            progress.advance(self._log_text())
            self.live.step(place.epoch, place.steps, state.step)
            self._save_or_stop()
            if self._evaluation_due():
                self._evaluate_splits()
                self.live.restart()
                self.model.train()
        progress.close()
        if place.steps == self.steps_per_epoch:
            state.place = Place(place.epoch + 1)
            self.totals = evaluation.zero_sums(self.device)
        finished = state.step == self.total_steps
        if finished or (state.place.epoch - 1) % self.save_interval.epochs == 0:
            self._save()

    def train_step(self, batches: list[Batch]) -> Tensor:
        """Make one step of the optimizer on all of `batches`; return the sum of their sums.

        They follow those that the epoch has had.
        """
        self._set_learning_rate()
        state, sizes = self.state, self._sizes(batches)
        totals = evaluation.zero_sums(self.device)
        finite = torch.ones((), dtype=torch.bool, device=self.device)
        for number, (batch, size) in enumerate(zip(batches, sizes, strict=True), 1):
            last = number == len(batches)
            with (
                sharding.synchronised(self.replicas, self.model, now=last),
                self.objective.stand_in(batch) as inputs,
                self.rows.of_batch(size) if self.rows else nullcontext(),
            ):
                full = size == self.data.train.batch_size and self.objective.has_data
                loss, sums = self.replicas(inputs, full)
                # The ranks' gradients are averaged, not added: hence their number.
                share = len(batch[0]) * world_size() / sum(sizes)
                self.scaler.scale(loss * share).backward()
                totals = totals + sums.detach() * self.objective.has_data
            finite = finite & loss.detach().isfinite()
        sharding.unscale_and_clip(self.model, self.optimizer, self.scaler, self.config)
        self.scaler.step(self.optimizer)
        if self.average is not None:
            skipped = skipped_by(self.scaler, self.optimizer)
            self.average.after_step(state.step, state.place.steps, skipped)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=not self.keeps_gradients)
        state.step += 1
        state.place.steps += 1
        self._set_activations()
        bad_step = torch.where(finite, NEVER, state.step)
        self.first_bad_step = torch.minimum(self.first_bad_step, bad_step)
        return totals

    def evaluate(self, loader: Loader, label: str, may_diverge: bool = False) -> dict[str, float]:
        """Return the metrics over all of `loader`; `label` names the split.

        Raises:
            Diverged: the loss is NaN or infinite, and may not be.
            Stopped: the training was asked to stop.
        """
        stop = self._stop_if_requested
        return evaluation.evaluate(self.objective, loader, label, stop, may_diverge)

    def _evaluated(self) -> list[tuple[str, AbstractContextManager[None]]]:
        """Return contexts with the weights that are evaluated, and how their results' names end."""
        found: list[tuple[str, AbstractContextManager[None]]]
        found = [("", evaluated_weights(self.optimizer))]
        if self.average is not None:
            found.append((EMA, self.average.evaluated()))
        return found

    def _set_activations(self) -> None:
        """Set how far the network has come to its new activations, for what follows this step."""
        if self.gradual is not None:
            self.gradual.set(self.schedule.replaced(self.state.step))

    def _set_learning_rate(self) -> None:
        rate = self.plateau.factor * self.schedule.rate(self.state.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)

    def _sizes(self, batches: list[Batch]) -> list[int]:
        """Return the samples, over all ranks, in each of the next batches of the epoch."""
        first = self.state.place.steps * self.config.grad_accum_steps
        return [size_of_batch(self.data.train, first + n) for n in range(len(batches))]

    def _record_stats(self, batches: list[Batch]) -> None:
        """Look at the activations before a step whose turn it is, on its first batch.

        An epoch's short last batch is left out: a process may have no sample of it.
        """
        step, sizes = self.state.step, self._sizes(batches)
        if self.stats is None or step % self.stats.interval:
            return
        if sizes[0] == size_of_batch(self.data.train, 0):
            epoch, scale = self.state.place.epoch, self.scaler.get_scale()
            self.stats.before_step(step, epoch, batches[0], sum(sizes), scale)

    def _log_text(self) -> str:
        if self.state.step % LOG_STEPS == 0:
            self._check_losses()  # not by time: a run that diverges ends at the same step again
        elif not self.loss_is_asked:
            return ""
        return self.task.describe(self._training_metrics())

    def _training_metrics(self) -> dict[str, float]:
        metrics = self.task.metrics(processes.total(self.totals).tolist(), self.data.train)
        self.live.read(metrics, self.state.place.steps)
        self.loss_is_asked = False
        return metrics

    def _check_losses(self) -> None:
        """Read the first bad step from the device, and whether fp16 still makes any step."""
        state = self.state
        if self.scaler.is_enabled() and self.scaler.get_scale() < SMALLEST_SCALE:
            raise Diverged(
                f"in epoch {state.place.epoch}, by step {state.step}, the gradients are "
                "NaN or infinite at every fp16 scale; every step is skipped"
            )
        step = -processes.total(-self.first_bad_step, largest=True).item()
        if step < NEVER:
            raise Diverged(
                f"in epoch {state.place.epoch}, step {step}, the training loss is NaN or infinite"
            )

    # --- evaluations ---

    def _evaluation_due(self) -> bool:
        """Return whether an evaluation is due after this step, and has not been made."""
        state = self.state
        if state.step == (state.records[-1]["step"] if state.records else 0):
            return False
        return (
            state.step == self.total_steps
            or state.place.steps == self.steps_per_epoch
            or state.step % (self.config.eval_interval or math.inf) == 0
        )

    def _evaluate_splits(self) -> None:
        """Evaluate what the training has come to, and write it down."""
        self._check_losses()
        state, place = self.state, self.state.place
        self.live.evaluation(place.epoch, place.steps, state.step)
        ended = place.steps == self.steps_per_epoch
        record: Record = {"epoch": place.epoch, "step": state.step}
        record |= {} if ended else {"partial": True}
        train = record["train"] = self._training_metrics()
        self._tick("train_seconds")
        processes.share_buffers(self.model)
        try:
            for ending, weights in self._evaluated():
                with weights:
                    record |= self._split_metrics(ending)
        finally:
            self._tick("eval_seconds")
        if ended and self.config.scheduler == "plateau" and state.step > self.schedule.warmup:
            self.plateau.end_epoch(record.get("val", train)["loss"])
        first = self.optimizer.param_groups[0]
        record["lr"] = first["lr"] / first.get("lr_scale", 1.0)
        record["seconds"] = place.train_seconds + place.eval_seconds
        record |= costs(
            self.task,
            self.model,
            self.device,
            self.objective.amp_dtype,
            train["count"],
            place.train_seconds,
        )
        self.log.add(record)
        if self.stats is not None:
            self.stats.write_channels(state.step, place.epoch)
        state.records.append(record)

    def _split_metrics(self, ending: str) -> dict[str, dict[str, float]]:
        """Return the metrics of the splits whose turn it is, by their names with `ending`.

        The dead channels are those of the validation split, or of the test split without one; of
        averaged weights none are counted, and their loss may be no number.
        """
        data, found = self.data, {}
        splits = {"val": data.val} if data.val is not None else {}
        if self.task.test_each_epoch or self.state.step == self.total_steps:
            splits["test"] = data.test
        counted = None if ending else ("test" if data.val is None else "val")
        for name, loader in splits.items():
            label = name.title() + ending.replace("_", " ").upper()
            channels = self._counting_channels(loader) if name == counted else nullcontext()
            try:
                with channels:
                    found[name + ending] = self.evaluate(loader, label, bool(ending))
            except Diverged as error:
                where = f"after epoch {self.state.place.epoch} (step {self.state.step})"
                raise Diverged(f"{where} {error}") from None
        return found

    def _counting_channels(self, loader: Loader) -> Any:
        return nullcontext() if self.stats is None else self.stats.counting_channels(loader)

    def _test_at_the_end(self, ending: str) -> None:
        """Write predictions for the test split, and test on the further test sets."""
        stop = self._stop_if_requested
        evaluation.write_predictions(self.objective, self.data.test, self.folder, stop, ending)
        for name, test in self.data.also.items():
            arrays, result = further_tests.tested(self.objective, test, name, stop)
            if arrays:
                self.folder.write_predictions(arrays, f"{ending}_also_{name}")
            self.log.add_also(self.state.records[-1], name, ending, result)

    def _tick(self, name: str) -> None:
        """Add the time since the last call to one of the place's."""
        now = time.perf_counter()
        setattr(self.state.place, name, getattr(self.state.place, name) + now - self.clock)
        self.clock = now

    # --- stopping and going on ---

    def _save_or_stop(self) -> None:
        """Save after a step where an interval is over; stop where it is asked for."""
        time_is_over = self._stop_if_requested()
        if time_is_over or self.state.step % self.save_interval.steps == 0:
            self._save()

    def _stop_if_requested(self) -> bool:
        """Return whether it is time for a save, by the main process's clock.

        Raises:
            Stopped: a process was asked to stop.
        """
        unsaved_seconds = time.perf_counter() - self.saved_at
        time_is_over = unsaved_seconds >= self.save_interval.seconds
        asks = is_main() and self.live.asks_for_loss()
        flags = self.stop_requested(), is_main() and time_is_over, asks
        stop, save, loss = self.agreement.exchange(*flags)
        self.loss_is_asked |= loss
        if stop:
            raise Stopped
        return save

    def _save(self) -> None:
        """Write a checkpoint, unless the training has diverged."""
        self._check_losses()
        self._tick("train_seconds")
        content = sharding.put_away(self)
        if is_main():
            content |= {"settings": self.settings, "result_lengths": self.folder.result_lengths()}
            save_checkpoint(self.folder.checkpoint, content)
        processes.wait_for_all()  # torchrun stops the others as soon as one has ended
        self.agreement.withdraw(SAVE)  # sent before this save, it would ask for another
        self.clock = self.saved_at = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the training depends on; every rank must call it."""
        state = self.state
        own = {"random": random_state(self.device), "totals": self.totals.cpu()}
        return self._weights() | {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "plateau": vars(self.plateau),
            **({"ema": self.average.state_dict()} if self.average is not None else {}),
            **self._old_activations(),
            "step": state.step,
            "place": vars(state.place),
            "records": state.records,
            "ranks": processes.gathered(own),
        }

    def _old_activations(self) -> dict[str, Any]:
        """Return what the network is until its old activations are replaced."""
        if self.gradual is None or self.gradual.is_over:
            return {}
        replaced = self.schedule.replaced(self.state.step)
        return {"gradual": {"t": replaced, "old": self.gradual.old_state()}}

    def _weights(self) -> dict[str, Any]:
        """Return the network's state, and the weights that are trained where others count.

        The state is what an evaluation, and a run that starts from this one, are to have.
        """
        if not averages(self.optimizer):
            return {"model": self.model.state_dict()}
        named = self.model.named_parameters(remove_duplicate=False)  # tied ones by all their names
        trained = {name: parameter.detach().clone() for name, parameter in named}
        with evaluated_weights(self.optimizer):
            state = {name: value.clone() for name, value in self.model.state_dict().items()}
        return {"model": state, "trained_weights": trained}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from `saved`, which `state_dict` returned on the main process."""
        self.model.load_state_dict(saved["model"] | saved.get("trained_weights", {}))
        if self.gradual is not None and "gradual" in saved:
            self.gradual.load_old_state(saved["gradual"]["old"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.scaler.is_enabled() and saved["scaler"]:
            self.scaler.load_state_dict(saved["scaler"])
        vars(self.plateau).update(saved["plateau"])
        if self.average is not None and "ema" in saved:
            self.average.load_state_dict(saved["ema"])
        self.state = State(saved["step"], Place(**saved["place"]), saved["records"])
        self.is_resumed = True
        ranks = saved["ranks"]
        if len(ranks) == world_size():
            self.totals = ranks[rank()]["totals"].to(self.device)
            set_random_state(ranks[rank()]["random"], self.device)
            return
        # Another number of processes: the sums go to the main one. The others have as many zeros,
        # since an evaluation that was interrupted adds them up before any step.
        summed = sum(each["totals"] for each in ranks).to(self.device)
        self.totals = summed if is_main() else torch.zeros_like(summed)
        set_random_state(ranks[0]["random"], self.device)
        if self.rows is None:  # each process is to draw something else
            drawn = int(torch.randint(2**62, ()))
            torch.manual_seed(mixed_seed("dropout", drawn, rank()))
