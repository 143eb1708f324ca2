"""Measure what `--stats` adds to training steps and to evaluations.

To steps it adds numbers of every activation site, to evaluations the count of dead channels.
"""

import functools
from collections.abc import Iterator

import torch

from benchmarks import tables, training
from benchmarks.arms import Arm
from benchmarks.timing import Call, in_rounds, quartiles, ratio, timed
from benchmarks.trainers import ready_step
from training.diagnostics.recorder import StatsRecorder
from training.model_text import activation_sites
from training.task import Batch

EVERY = 100  # steps, of which one is looked at


def measure(setups: list[training.Setup], arm: Arm, rounds: int, device: torch.device) -> None:
    """Measure and print a row for each setup, with the arm's activation in the network."""
    print(tables.markdown([row(setup, arm, rounds, device) for setup in setups]))
    print(
        f"\nn = {rounds} rounds; {arm.activation}; ms: median (quartiles). Evaluation: the "
        "time of a batch's with the count of dead channels over that without."
    )


def row(setup: training.Setup, arm: Arm, rounds: int, device: torch.device) -> dict[str, str]:
    calls = calls_of(setup, arm, device)
    for call in calls.values():
        call()  # compiles
    samples = {name: functools.partial(timed, call, device) for name, call in calls.items()}
    times = in_rounds(samples, rounds)
    added = ratio(times["statistics"], times["step"]) / EVERY
    return {
        "model": setup.title,
        **{
            f"{name}, ms": tables.with_spread(*quartiles([1e3 * s for s in times[name]]))
            for name in ("step", "statistics")
        },
        f"--stats {EVERY} adds": f"{added:.1%}",
        "evaluation": f"{ratio(times['channels'], times['evaluation']):.2f}",
    }


def calls_of(setup: training.Setup, arm: Arm, device: torch.device) -> dict[str, Call]:
    """Return what is timed: a step, its statistics, an evaluation without and with channels."""
    batch = training.ready_batch(setup, device)
    trainer = training.build(setup, arm, batch, device)
    objective = trainer.objective
    sites = activation_sites(trainer.model, type(arm.build()))
    stats = StatsRecorder(objective, sites, device, trainer.folder, EVERY)

    def step() -> None:
        trainer.model.train()
        ready_step(trainer)

    def statistics() -> None:
        trainer.model.train()
        stats.watch.measure(objective, batch, samples=len(batch[0]))

    @torch.no_grad()
    def evaluation() -> None:
        trainer.model.eval()
        objective(batch, full=True)

    def channels() -> None:
        with stats.counting_channels(OneBatch(batch)):
            evaluation()

    return {
        "step": step, "statistics": statistics, "evaluation": evaluation, "channels": channels,
    }  # fmt: skip


class OneBatch:
    """Yield a split that is one batch."""

    def __init__(self, batch: Batch):
        self.batch = batch
        self.batch_size = self.num_samples = len(batch[0])

    def __len__(self) -> int:
        return 1

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        yield self.batch
