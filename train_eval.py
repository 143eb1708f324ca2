"""The one loop: training, evaluation, checkpoints, for any task on any device or several.

objective.py makes a batch's loss, and says what a task and a loader are; the loop does the rest:
accumulation, clipping, the learning rate, evaluations, the results files, and going on exactly
where an interrupted run was. Nothing in a training step waits for the device: metrics add
up on it and are read once per LOG_STEPS.
"""

import contextlib
import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from run_folder.checkpoint import save_checkpoint
from run_folder.folder import RunFolder, metrics_line
from run_folder.result_lines import result_line, summary
from training import processes
from training.diagnostics.board import Board
from training.diagnostics.watch import Watch, channel_counts
from training.objective import Loader, Objective, Task, in_groups, size_of_batch
from training.optimization import Plateau, build_optimizer, lr_factor, schedule_length
from training.random_state import random_state, set_random_state
from utils import Progress, mixed_seed, peak_flops, peak_memory_bytes

LOG_STEPS = 50
# GradScaler halves its scale, 2^16 at first, at every step that it skips.
SMALLEST_SCALE = 2.0**-16
NEVER = 2**62  # a step that no run reaches


@dataclass(frozen=True)
class SaveInterval:
    """How often to save: after so many epochs, steps or seconds, whichever is over first."""

    epochs: float = math.inf
    steps: float = math.inf
    seconds: float = math.inf

    @classmethod
    def parse(cls, text: str) -> "SaveInterval":
        """`1ep`, `500` steps, `10min`, or several of them: `1ep,10min`."""
        every = {}
        for part in text.split(","):
            count, unit = re.fullmatch(r"([0-9.]+)(ep|min|)", part).groups()
            name = {"ep": "epochs", "": "steps", "min": "seconds"}[unit]
            every[name] = float(count) * (60 if unit == "min" else 1)
        return cls(**every)


@dataclass(frozen=True)
class Options:
    """How to train. `amp_dtype` None is full precision, `compile_mode` None is eager.

    A step of the optimizer takes `grad_accum_steps` batches. `eval_interval` counts steps; None is
    after each epoch only. The test split is evaluated then too, or else once, at the end.
    `stats_interval` counts steps too; None is never.
    """

    num_epochs: int
    max_steps: int | None
    grad_accum_steps: int
    eval_interval: int | None
    save_interval: SaveInterval
    test_each_epoch: bool
    amp_dtype: torch.dtype | None
    compile_mode: str | None
    clip_grad_norm: float
    optimizer: str
    lr: float
    weight_decay: float
    momentum: float
    betas: tuple[float, float]
    scheduler: str
    warmup: str
    lr_step: int
    lr_gamma: float
    stats_interval: int | None = None
    tensorboard: bool = False


class Diverged(Exception):
    """The loss became NaN or infinite."""


class Stopped(Exception):
    """The training was asked to stop, and its state is saved."""


# --- the loop ---


@dataclass
class Place:
    """How far an epoch has come: in steps, and in seconds of training and evaluation."""

    epoch: int = 1
    steps: int = 0
    train_seconds: float = 0.0
    eval_seconds: float = 0.0


@dataclass
class State:
    """What a run is besides weights, optimizer and random generators."""

    step: int = 0
    place: Place = field(default_factory=Place)
    records: list[dict] = field(default_factory=list)  # of every evaluation


class Trainer:
    """Trains and evaluates `model` on `task`; `watch` looks at its activations meanwhile."""

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        device: torch.device,
        options: Options,
        watch: Watch | None = None,
    ):
        self.model, self.task, self.device, self.options = model, task, device, options
        self.watch = watch
        self.objective = Objective(
            model, task, device.type, options.amp_dtype, options.compile_mode
        )
        self.agreement = processes.Agreement()
        self.stop_requested: Callable[[], bool] = lambda: False
        self._clock = self._saved_at = time.perf_counter()

    def _zero_sums(self) -> Tensor:
        # fp64 holds the sums of any epoch exactly enough; MPS has none. One dimension: a tensor of
        # none would not decide the type of what is added to it.
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        return torch.zeros(1, dtype=dtype, device=self.device)

    def _metrics(self, sums: Tensor, loader: Loader) -> dict[str, float]:
        return self.task.metrics(processes.total(sums).tolist(), loader)

    @torch.no_grad()
    def evaluate(self, loader: Loader, label: str) -> dict[str, float]:
        """The metrics over all of `loader`.

        Raises:
            Diverged: the loss is NaN or infinite.
            Stopped: the training was asked to stop.
        """
        self.model.eval()
        totals = self._zero_sums()
        progress = Progress(label, len(loader))
        for number, batch in enumerate(loader.batches(0)):
            full = size_of_batch(loader, number) == loader.batch_size
            totals = totals + self._loss_and_sums(self.objective, batch, full)[1]
            progress.advance()
            self._stop_if_requested()
        progress.close()
        metrics = self._metrics(totals, loader)
        if not math.isfinite(metrics["loss"]):
            raise Diverged(f"the {label.lower()} loss is {metrics['loss']}")
        return metrics

    def _loss_and_sums(self, objective, batch: tuple, full: bool) -> tuple[Tensor, Tensor]:
        if len(batch[0]):
            return objective(batch, full)
        # An empty share. The other ranks wait for this one's gradients all the same: those of an
        # input of zeros, times zero; in evaluation mode it leaves no trace in norms or dropout.
        was_training = self.model.training
        self.model.eval()
        nothing = tuple(part.new_zeros(1, *part.shape[1:]) for part in batch)
        with self.watch.ignoring() if self.watch else nullcontext():
            loss, sums = objective(nothing, False)
        self.model.train(was_training)
        return loss * 0, sums * 0

    def fit(
        self,
        data,
        folder: RunFolder,
        settings: dict,
        saved: dict | None = None,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        """Train on `data.train`, evaluate on `data.val` (may be None) and `data.test`, and write
        results, metrics and checkpoints into `folder`.

        Args:
            settings: plain values stored in every checkpoint, to rebuild the model from.
            saved: the checkpoint to go on from; its weights are in the model already.
            stop_requested: asked after every step, and every batch of an evaluation.

        Raises:
            Diverged: a loss is NaN or infinite; what was saved before stays.
            Stopped: `stop_requested`; the state is saved.
        """
        self.start(data.train)
        self.folder, self.settings, self.stop_requested = folder, settings, stop_requested
        self._clock = time.perf_counter()
        if saved is None:
            self._save()  # results that follow always have a checkpoint to go on from
        else:
            self._restore(saved)
        self.board = self._open_board()
        try:
            self._train(data)
            self._write_predictions(data.test)
        except Stopped:
            self._save()
            raise
        self.model.eval()
        lines = "\n".join(summary(self.task, self.state.records, self.options.test_each_epoch))
        print(lines)
        folder.add_result(lines)  # at once: where there is a summary, the run is whole

    def start(self, loader: Loader) -> None:
        """Make the optimizer and everything else that a training step changes."""
        options = self.options
        lengths = schedule_length(options, len(loader))
        self.steps_per_epoch, self.total_steps, self.warmup = lengths
        self.optimizer = build_optimizer(self.model, options)
        self.plateau = Plateau(options.lr_step, options.lr_gamma)
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=options.amp_dtype is torch.float16
        )
        self.replicas = processes.replicated(self.objective, self.device)
        self.state = State()
        self.totals = self._zero_sums()  # this rank's, of the epoch so far
        self.first_bad_step = torch.full((), NEVER, device=self.device)

    def _train(self, data) -> None:
        """Train to the end, from wherever the state is."""
        state, options = self.state, self.options
        while state.step < self.total_steps or self._evaluation_due():
            for _ in self._epoch(data.train):
                self._evaluate_all(data)
            epoch_ended = state.place.steps == self.steps_per_epoch
            if epoch_ended:
                state.place, self.totals = Place(state.place.epoch + 1), self._zero_sums()
            finished = state.step == self.total_steps
            if finished or (state.place.epoch - 1) % options.save_interval.epochs == 0:
                self._save()

    def _epoch(self, loader: Loader) -> Iterator[None]:
        """Train the rest of the epoch; yields wherever it is time to evaluate."""
        state, place = self.state, self.state.place
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._clock = time.perf_counter()
        if self._evaluation_due():  # it was interrupted there
            yield
        self.model.train()
        progress = Progress(f"Epoch {place.epoch:03d}", self.steps_per_epoch, place.steps)
        accumulated = self.options.grad_accum_steps
        batches = loader.batches(place.epoch, place.steps * accumulated)
        for group in in_groups(batches, accumulated):
            self._look_at_sites(group, loader)
            self.totals = self.totals + self.train_step(group, loader)
            progress.advance(self._log_text(loader))
            self._save_or_stop()
            if self._evaluation_due():
                yield
                self.model.train()
            if state.step == self.total_steps:
                break
        progress.close()

    def _evaluation_due(self) -> bool:
        """Whether this step's evaluation is to be made, and has not been."""
        state = self.state
        if state.step == (state.records[-1]["step"] if state.records else 0):
            return False
        return (
            state.step == self.total_steps
            or state.place.steps == self.steps_per_epoch
            or state.step % (self.options.eval_interval or math.inf) == 0
        )

    def _log_text(self, loader: Loader) -> str:
        if self.state.step % LOG_STEPS:
            return ""
        self._check_losses()
        return self.task.describe(self._metrics(self.totals, loader))

    def train_step(self, batches: list[tuple], loader: Loader) -> Tensor:
        """One step of the optimizer on all of `batches`, which follow those that the epoch has
        had; returns their sums."""
        self._set_learning_rate()
        state, sizes = self.state, self._sizes(batches, loader)
        totals = self._zero_sums()
        finite = torch.ones((), dtype=torch.bool, device=self.device)
        for number, (batch, size) in enumerate(zip(batches, sizes, strict=True), 1):
            with processes.synchronised(self.replicas, number == len(batches)):
                loss, sums = self._backward(batch, size == loader.batch_size, sum(sizes))
            totals = totals + sums
            finite = finite & loss.isfinite()
        if self.options.clip_grad_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.place.steps += 1
        bad_step = torch.where(finite, NEVER, state.step)
        self.first_bad_step = torch.minimum(self.first_bad_step, bad_step)
        return totals

    def _sizes(self, batches: list[tuple], loader: Loader) -> list[int]:
        """Samples, over all ranks, in each of `batches`, which follow those the epoch has had."""
        first = self.state.place.steps * self.options.grad_accum_steps
        return [size_of_batch(loader, first + number) for number in range(len(batches))]

    def _backward(self, batch: tuple, full: bool, samples: int) -> tuple[Tensor, Tensor]:
        """Add this batch's gradients to a step's that has `samples` over all ranks."""
        loss, sums = self._loss_and_sums(self.replicas, batch, full)
        # The ranks' gradients are averaged, not added: hence their number.
        share = len(batch[0]) * processes.world_size() / samples
        self.scaler.scale(loss * share).backward()
        return loss.detach(), sums.detach()

    def _set_learning_rate(self) -> None:
        options = self.options
        factor = self.plateau.factor * lr_factor(
            self.state.step,
            options.scheduler,
            self.total_steps,
            self.steps_per_epoch,
            self.warmup,
            options.lr_step,
            options.lr_gamma,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = options.lr * factor

    def _check_losses(self) -> None:
        """Read the first bad step from the device, and whether fp16 still makes any step."""
        if self.scaler.is_enabled() and self.scaler.get_scale() < SMALLEST_SCALE:
            raise Diverged(
                f"in epoch {self.state.place.epoch}, by step {self.state.step}, the gradients are "
                "NaN or infinite whatever their fp16 scale; every step is skipped"
            )
        step = -processes.total(-self.first_bad_step, largest=True).item()
        if step < NEVER:
            raise Diverged(
                f"in epoch {self.state.place.epoch}, step {step}, the training loss is NaN or "
                "infinite"
            )

    # --- looking into the network ---

    def _look_at_sites(self, batches: list[tuple], loader: Loader) -> None:
        """Before a step on `batches` whose turn it is: at the first of them. Not where that is an
        epoch's short last batch, of which a process may have nothing."""
        state, interval = self.state, self.options.stats_interval
        if interval is None or state.step % interval:
            return
        sizes = self._sizes(batches, loader)
        if sizes[0] == size_of_batch(loader, 0):
            scale = self.scaler.get_scale()
            sites = self.watch.measure(self.objective, batches[0], sum(sizes), scale)
            self._add_stats({"sites": sites})

    @contextlib.contextmanager
    def looking_at_channels(self, loader: Loader) -> Iterator[None]:
        """While an evaluation of `loader` lasts; afterwards they are in `channels`. Compiled code
        cannot be looked at: there, a pass of its own follows."""
        if self.options.stats_interval is None:
            yield
            return
        if self.options.compile_mode is None:
            with self.watch.channels() as living:
                yield
        else:
            yield
            with torch.no_grad(), self.watch.channels() as living:
                for batch in loader.batches(0):
                    self._loss_and_sums(self.objective, batch, False)
        self.channels = channel_counts(living)

    def _add_stats(self, numbers: dict) -> None:
        record = {"step": self.state.step, "epoch": self.state.place.epoch, **numbers}
        self.folder.add_stats(record)
        if self.board is not None:
            self.board.add(record)

    def _open_board(self) -> Board | None:
        if not self.options.tensorboard or not processes.is_main():
            return None
        return Board(self.folder.path / RunFolder.TENSORBOARD, self.state.step)

    # --- evaluations ---

    def _evaluate_all(self, data) -> None:
        """Evaluate where a training has come to, and write it down."""
        self._check_losses()
        state, place = self.state, self.state.place
        ended = place.steps == self.steps_per_epoch
        record = {"epoch": place.epoch, "step": state.step}
        record |= {} if ended else {"partial": True}
        record |= {"train": self._metrics(self.totals, data.train)}
        self._tick("train_seconds")
        processes.share_buffers(self.model)
        try:
            record |= self._evaluations(data)
        finally:
            self._tick("eval_seconds")
        if ended and self.options.scheduler == "plateau" and state.step > self.warmup:
            self.plateau.end_epoch(record.get("val", record["train"])["loss"])
        record |= self._costs(record["train"]["count"])
        self._write(record)
        if self.options.stats_interval is not None:
            self._add_stats({"channels": self.channels})
        state.records.append(record)

    def _evaluations(self, data) -> dict:
        """The metrics of the splits whose turn it is."""
        results = {}
        try:
            if data.val is not None:
                with self.looking_at_channels(data.val):
                    results["val"] = self.evaluate(data.val, "Val")
            if self.options.test_each_epoch or self.state.step == self.total_steps:
                watched = self.looking_at_channels(data.test)
                with nullcontext() if data.val is not None else watched:
                    results["test"] = self.evaluate(data.test, "Test")
        except Diverged as error:
            where = f"after epoch {self.state.place.epoch} (step {self.state.step})"
            raise Diverged(f"{where} {error}") from None
        return results

    def _write_predictions(self, loader: Loader) -> None:
        """What the final network says of every sample of `loader`, in its order."""
        self.model.eval()
        parts = []
        for batch in loader.batches(0):
            part = self.objective.predictions(batch) if len(batch[0]) else {}
            parts.append({name: tensor.cpu() for name, tensor in part.items()})
            self._stop_if_requested()
        if (ranks := processes.gathered(parts)) is None:
            return
        # A batch's shares, in the order of the ranks, are the batch.
        in_order = [part for of_batch in zip(*ranks, strict=True) for part in of_batch if part]
        self.folder.write_predictions(
            {name: torch.cat([part[name] for part in in_order]).numpy() for name in in_order[0]}
        )

    def _tick(self, name: str) -> None:
        """Add the time since the last call to one of the place's."""
        now = time.perf_counter()
        setattr(self.state.place, name, getattr(self.state.place, name) + now - self._clock)
        self._clock = now

    def _costs(self, count: int) -> dict:
        """What a record says besides the results, after training on `count` units."""
        place = self.state.place
        rate = count / place.train_seconds
        memory = torch.tensor(peak_memory_bytes(self.device))
        costs = {
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": place.train_seconds + place.eval_seconds,
            f"{self.task.unit}_per_second": rate,
            "peak_memory_bytes": int(processes.total(memory, largest=True)),
        }
        flops = self.task.flops(self.model)
        peak = peak_flops(self.device, self.options.amp_dtype)
        if flops and peak:
            costs["mfu"] = rate * flops / (peak * processes.world_size())
        if sigmas := learned_sigmas(self.model):
            costs["sigma"] = sigmas
        return costs

    def _write(self, record: dict) -> None:
        line = result_line(self.task, record)
        self.folder.add_result(line)
        self.folder.add_metrics(record)
        rate = f"{record[f'{self.task.unit}_per_second']:,.0f} {self.task.unit}/s"
        if "mfu" in record:
            rate += f" ({100 * record['mfu']:.1f} % of the device's peak)"
        memory = record["peak_memory_bytes"] / 2**30
        print(f"{line} | {rate}, {memory:.2f} GiB", flush=True)

    # --- stopping and going on ---

    def _save_or_stop(self) -> None:
        """After a step: save where an interval is over, stop where it is asked for."""
        interval = self.options.save_interval
        time_is_over = self._stop_if_requested()
        if time_is_over or self.state.step % interval.steps == 0:
            self._save()

    def _stop_if_requested(self) -> bool:
        """Whether it is time for a save, by the main process's clock."""
        unsaved_seconds = time.perf_counter() - self._saved_at
        time_is_over = unsaved_seconds >= self.options.save_interval.seconds
        stop, save = self.agreement.exchange(
            self.stop_requested(), processes.is_main() and time_is_over
        )
        if stop:
            raise Stopped
        return save

    def _save(self) -> None:
        """Write everything that the rest of the training depends on."""
        self._check_losses()
        self._tick("train_seconds")
        rank = {"random": random_state(self.device), "totals": self.totals.cpu()}
        ranks = processes.gathered(rank)
        if processes.is_main():
            state = self.state
            content = {
                "settings": self.settings,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "plateau": vars(self.plateau),
                "step": state.step,
                "place": vars(state.place),
                "records": state.records,
                "ranks": ranks,
                "result_lengths": self.folder.result_lengths(),
            }
            save_checkpoint(self.folder.checkpoint, content)
        processes.wait_for_all()  # torchrun stops the others as soon as one has ended
        self._clock = self._saved_at = time.perf_counter()

    def _restore(self, saved: dict) -> None:
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.scaler.is_enabled() and saved["scaler"]:
            self.scaler.load_state_dict(saved["scaler"])
        vars(self.plateau).update(saved["plateau"])
        self.state = State(saved["step"], Place(**saved["place"]), saved["records"])
        ranks, rank = saved["ranks"], processes.rank()
        if len(ranks) == processes.world_size():
            self.totals = ranks[rank]["totals"].to(self.device)
            set_random_state(ranks[rank]["random"], self.device)
            return
        # Another number of processes: the sums go to the main one, dropout draws something new.
        if processes.is_main():
            self.totals = sum(each["totals"] for each in ranks).to(self.device)
        set_random_state(ranks[0]["random"], self.device)
        drawn = int(torch.randint(2**62, ()))
        torch.manual_seed(mixed_seed("dropout", drawn, rank))

    def result_lines(self, saved: dict) -> dict[str, list[str]]:
        """What stood in the result files, by name, when a checkpoint was made."""
        records = saved["records"]
        return {
            RunFolder.RESULTS: [result_line(self.task, record) for record in records],
            RunFolder.METRICS: [metrics_line(record) for record in records],
        }


def learned_sigmas(model: nn.Module) -> dict[str, float]:
    """Every learnable sigma by the path of its module."""
    modules = model.named_modules()
    return {path: m.sigma.item() for path, m in modules if getattr(m, "learnable", False)}
