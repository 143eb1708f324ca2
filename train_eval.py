"""The one loop: training, evaluation, checkpoints, for any task on any device.

A task says how a batch becomes a loss and metrics; a loader yields batches; the loop does the
rest: mixed precision, compilation, clipping, the learning rate, the results files. Nothing in a
training step waits for the device: metrics add up on it and are read once per LOG_STEPS.
"""

import math
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor, nn

from optimization import Plateau, build_optimizer, lr_factor, schedule_length
from runs.folder import RunFolder
from utils import Progress, peak_flops, peak_memory_bytes

LOG_STEPS = 50
# GradScaler halves its scale, 2^16 at first, at every step that it skips.
SMALLEST_SCALE = 2.0**-16


class Task(Protocol):
    """How a batch becomes a loss and metrics."""

    unit: str  # what is counted, "images"

    def __call__(self, model: nn.Module, batch: tuple) -> tuple[Tensor, Tensor]:
        """The loss to minimise, a mean over the batch's samples, and a vector of sums over them."""

    def metrics(self, sums: list[float], loader: "Loader") -> dict[str, float]:
        """Sums over what was read of `loader` to metrics, "loss" and "count" among them."""

    def describe(self, metrics: dict[str, float]) -> str:
        """The metrics as they stand in a line of results."""

    def score(self, metrics: dict[str, float]) -> float:
        """What the best epoch has most of."""

    def flops(self, model: nn.Module) -> float | None:
        """Floating point operations of a training step per unit counted, where known."""


class Loader(Protocol):
    batch_size: int

    def __len__(self) -> int:
        """Batches in an epoch; the last may be smaller."""

    def batches(self, epoch: int):
        """The batches of one epoch, on the device: a pure function of the epoch."""


@dataclass(frozen=True)
class Options:
    """How to train. `amp_dtype` None is full precision, `compile_mode` None is eager.

    A step of the optimizer takes `grad_accum_steps` batches. `eval_interval` counts steps; None is
    after each epoch only. The test split is evaluated then too, or else once, at the end.
    """

    num_epochs: int
    max_steps: int | None
    grad_accum_steps: int
    eval_interval: int | None
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


class Diverged(Exception):
    """The loss became NaN or infinite."""


# --- the loop ---


def in_groups(batches: Iterable[tuple], size: int) -> Iterator[list[tuple]]:
    """Lists of `size` batches; the last may be shorter."""
    batches = iter(batches)
    while group := list(islice(batches, size)):
        yield group


def compiled(function, mode: str):
    if mode == "reduce-memory":
        # Half of what backward would keep is recomputed instead: a small CNN kept 28 instead of
        # 56 MB for 5 % more time. The setting is read when the function is first called.
        from torch._functorch import config

        config.activation_memory_budget = 0.5
        mode = "default"
    return torch.compile(function, mode=mode, dynamic=False)


class Trainer:
    """Trains and evaluates `model` on `task`."""

    def __init__(self, model: nn.Module, task: Task, device: torch.device, options: Options):
        self.model, self.task, self.device, self.options = model, task, device, options
        mode = options.compile_mode
        self._compute = compiled(self._forward, mode) if mode else self._forward

    def _forward(self, batch: tuple) -> tuple[Tensor, Tensor]:
        dtype = self.options.amp_dtype
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            return self.task(self.model, batch)

    def _loss_and_sums(self, batch: tuple, loader: Loader) -> tuple[Tensor, Tensor]:
        # The last batch may be smaller. Compiling a second time for it would take longer than it
        # does, so it runs uncompiled.
        if len(batch[0]) < loader.batch_size:
            return self._forward(batch)
        torch.compiler.cudagraph_mark_step_begin()  # reduce-overhead may reuse its buffers now
        return self._compute(batch)

    def _zero_sums(self) -> Tensor:
        # fp64 holds the sums of any epoch exactly enough; MPS has none. One dimension: a tensor of
        # none would not decide the type of what is added to it.
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        return torch.zeros(1, dtype=dtype, device=self.device)

    @torch.no_grad()
    def evaluate(self, loader: Loader, label: str) -> dict[str, float]:
        """The metrics over all of `loader`.

        Raises:
            Diverged: the loss is NaN or infinite.
        """
        self.model.eval()
        totals = self._zero_sums()
        progress = Progress(label, len(loader))
        for batch in loader.batches(0):
            totals = totals + self._loss_and_sums(batch, loader)[1]
            progress.advance()
        progress.close()
        metrics = self.task.metrics(totals.tolist(), loader)
        if not math.isfinite(metrics["loss"]):
            raise Diverged(f"the {label.lower()} loss is {metrics['loss']}")
        return metrics

    def fit(self, data, folder: RunFolder, settings: dict) -> None:
        """Train on `data.train`, evaluate on `data.val` (may be None) and `data.test`, and write
        results, metrics and checkpoints into `folder`.

        Args:
            settings: plain values stored in every checkpoint, to rebuild the model from.

        Raises:
            Diverged: a loss is NaN or infinite; what was saved before stays.
        """
        self.start(len(data.train))
        records, epoch = [], 0
        while self.step < self.total_steps:
            epoch += 1
            for record in self._epoch(epoch, data):
                records.append(record)
                self._write(record, folder)
            self._save(folder, records, settings)
        for line in summary(self.task, records, self.options.test_each_epoch):
            print(line)
            folder.add_result(line)

    def start(self, batches: int) -> None:
        """Make the optimizer and everything else that a training step changes."""
        options = self.options
        self.steps_per_epoch, self.total_steps, self.warmup = schedule_length(options, batches)
        self.optimizer = build_optimizer(self.model, options)
        self.plateau = Plateau(options.lr_step, options.lr_gamma)
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=options.amp_dtype is torch.float16
        )
        self.step = 0
        self.first_bad_step = torch.full((), -1, device=self.device)

    def _epoch(self, epoch: int, data) -> Iterator[dict]:
        """Train an epoch; a record for every evaluation, the last at its end."""
        started, evaluating = time.perf_counter(), 0.0
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        for train, ended in self._train(epoch, data.train):
            train_seconds = time.perf_counter() - started - evaluating
            record = {"epoch": epoch, "step": self.step}
            record |= {} if ended else {"partial": True}
            record |= {"train": train} | self._evaluations(epoch, data)
            if ended and self.options.scheduler == "plateau" and self.step > self.warmup:
                self.plateau.end_epoch(record.get("val", train)["loss"])
            seconds = time.perf_counter() - started
            evaluating = seconds - train_seconds
            yield record | self._costs(seconds, train["count"] / train_seconds)

    def _evaluations(self, epoch: int, data) -> dict:
        """The metrics of the splits whose turn it is."""
        results = {}
        try:
            if data.val is not None:
                results["val"] = self.evaluate(data.val, "Val")
            if self.options.test_each_epoch or self.step == self.total_steps:
                results["test"] = self.evaluate(data.test, "Test")
        except Diverged as error:
            raise Diverged(f"after epoch {epoch} (step {self.step}) {error}") from None
        return results

    def _costs(self, seconds: float, rate: float) -> dict:
        """What a record says besides the results, `rate` being units per second of training."""
        costs = {
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": seconds,
            f"{self.task.unit}_per_second": rate,
            "peak_memory_bytes": peak_memory_bytes(self.device),
        }
        flops = self.task.flops(self.model)
        peak = peak_flops(self.device, self.options.amp_dtype)
        if flops and peak:
            costs["mfu"] = rate * flops / peak
        if sigmas := learned_sigmas(self.model):
            costs["sigma"] = sigmas
        return costs

    def _train(self, epoch: int, loader: Loader) -> Iterator[tuple[dict[str, float], bool]]:
        """Train an epoch. Wherever it is time to evaluate, yields the metrics since it began, and
        whether it has ended.
        """
        options = self.options
        self.model.train()
        totals = self._zero_sums()
        progress = Progress(f"Epoch {epoch:03d}", self.steps_per_epoch)
        groups = in_groups(loader.batches(epoch), options.grad_accum_steps)
        for done, group in enumerate(groups, 1):
            totals = totals + self._train_step(group, loader)
            text = ""
            if self.step % LOG_STEPS == 0:
                self._check_losses(epoch)
                text = self.task.describe(self.task.metrics(totals.tolist(), loader))
            progress.advance(text)
            if self.step == self.total_steps:
                break
            if done < self.steps_per_epoch and self.step % (options.eval_interval or math.inf) == 0:
                self._check_losses(epoch)
                yield self.task.metrics(totals.tolist(), loader), False
                self.model.train()
        progress.close()
        self._check_losses(epoch)
        yield self.task.metrics(totals.tolist(), loader), done == self.steps_per_epoch

    def _train_step(self, batches: list[tuple], loader: Loader) -> Tensor:
        """One step of the optimizer on all of `batches`; returns their sums."""
        self._set_learning_rate()
        totals = self._zero_sums()
        samples = sum(len(batch[0]) for batch in batches)
        finite = torch.ones((), dtype=torch.bool, device=self.device)
        for batch in batches:
            loss, sums = self._loss_and_sums(batch, loader)
            self.scaler.scale(loss * (len(batch[0]) / samples)).backward()
            totals = totals + sums.detach()
            finite = finite & loss.detach().isfinite()
        if self.options.clip_grad_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        is_first_bad = (self.first_bad_step < 0) & ~finite
        self.first_bad_step = torch.where(is_first_bad, self.step, self.first_bad_step)
        return totals

    def _set_learning_rate(self) -> None:
        options = self.options
        factor = self.plateau.factor * lr_factor(
            self.step,
            options.scheduler,
            self.total_steps,
            self.steps_per_epoch,
            self.warmup,
            options.lr_step,
            options.lr_gamma,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = options.lr * factor

    def _check_losses(self, epoch: int) -> None:
        """Read the first bad step from the device, and whether fp16 still makes any step."""
        if self.scaler.is_enabled() and self.scaler.get_scale() < SMALLEST_SCALE:
            raise Diverged(
                f"in epoch {epoch}, by step {self.step}, the gradients are NaN or infinite "
                "whatever their fp16 scale; every step is skipped"
            )
        step = self.first_bad_step.item()
        if step >= 0:
            raise Diverged(f"in epoch {epoch}, step {step}, the training loss is NaN or infinite")

    def _write(self, record: dict, folder: RunFolder) -> None:
        line = result_line(self.task, record)
        folder.add_result(line)
        folder.add_metrics(record)
        rate = f"{record[f'{self.task.unit}_per_second']:,.0f} {self.task.unit}/s"
        if "mfu" in record:
            rate += f" ({100 * record['mfu']:.1f} % of the device's peak)"
        memory = record["peak_memory_bytes"] / 2**30
        print(f"{line} | {rate}, {memory:.2f} GiB", flush=True)

    def _save(self, folder: RunFolder, records: list[dict], settings: dict) -> None:
        content = {
            "settings": settings,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "plateau": vars(self.plateau),
            "step": self.step,
            "records": records,
        }
        temporary = folder.checkpoint.with_suffix(".tmp")
        torch.save(content, temporary)
        os.replace(temporary, folder.checkpoint)


def learned_sigmas(model: nn.Module) -> dict[str, float]:
    """Every learnable sigma by the path of its module."""
    modules = model.named_modules()
    return {path: m.sigma.item() for path, m in modules if getattr(m, "learnable", False)}


# --- lines of results ---


def moment(record: dict) -> str:
    """When a record was made: `epoch 001`, or inside an epoch `step 000500`."""
    return f"step {record['step']:06d}" if "partial" in record else f"epoch {record['epoch']:03d}"


def result_line(task: Task, record: dict) -> str:
    """A line of results; time and training metrics count from the epoch's start."""
    parts = [f"[{moment(record).capitalize()}] Time: {record['seconds']:.4f}s"]
    return " | ".join([*parts, *split_results(task, record, ("train", "val", "test"))])


def split_results(task: Task, record: dict, splits: tuple[str, ...]) -> list[str]:
    return [f"[{s.title()}] {task.describe(record[s])}" for s in splits if s in record]


def summary(task: Task, records: list[dict], test_each_epoch: bool) -> list[str]:
    """The headline: the final epoch; then the best ones, labelled with how they were chosen."""

    def best(split: str) -> dict:
        return max(records, key=lambda record: task.score(record[split]))

    def line(label: str, record: dict) -> str:
        results = split_results(task, record, ("val", "test"))
        return " | ".join([f"[Summary] {label}: {moment(record)}", *results])

    lines = [line("Final", records[-1])]
    if "val" in records[-1]:
        lines.append(line("Best validation", best("val")))
    if test_each_epoch:
        lines.append(line("Best test (chosen on the test set)", best("test")))
    return lines
