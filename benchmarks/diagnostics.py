"""What `--stats` adds: its numbers of all activations to training steps, its count of dead channels
to evaluations."""

import argparse
import functools
from collections.abc import Callable
from dataclasses import replace

from benchmarks import language, tables, training
from benchmarks.activations import Unit
from benchmarks.timing import in_rounds, quartiles, ratio, timed
from utils import activation_sites, set_arithmetic
from zilu import create_activation

EVERY = 100  # steps, of which one is looked at


def measure(args: argparse.Namespace, device) -> None:
    """Measure and print."""
    set_arithmetic(device, deterministic=False)
    rows = []
    for model in args.models:
        batch_size = args.batch_size or (8 if model == "gpt" else 128)
        for precision in args.precisions:
            for mode in args.modes:
                setup = training.Setup(model, mode, precision, batch_size)
                rows.append(row(setup, args, device))
    print(tables.markdown(rows))
    print(
        f"\nn = {args.rounds} rounds; {args.activation}; ms: median (quartiles). Evaluation: the "
        "time of a batch's with the count of dead channels over that without."
    )


def row(setup: training.Setup, args: argparse.Namespace, device) -> dict[str, str]:
    arms = arms_of(setup, args, device)
    for arm in arms.values():
        arm()  # compiles
    times = in_rounds(
        {n: functools.partial(timed, a, device) for n, a in arms.items()}, args.rounds
    )
    added = ratio(times["statistics"], times["step"]) / EVERY
    return {
        "model": f"{setup.model}, {setup.mode}, {setup.precision}, batch {setup.batch_size}",
        **{
            f"{name}, ms": tables.with_spread(*quartiles([1e3 * s for s in times[name]]))
            for name in ("step", "statistics")
        },
        f"--stats {EVERY} adds": f"{added:.1%}",
        "evaluation": f"{ratio(times['channels'], times['evaluation']):.2f}",
    }


def arms_of(setup: training.Setup, args: argparse.Namespace, device) -> dict[str, Callable]:
    import torch

    from training.diagnostics.watch import Watch

    trainer = training.build(setup, Unit(args.activation), args.sigma, device)
    kind = type(create_activation(args.activation))
    watch = Watch(trainer.model, activation_sites(trainer.model, kind), device)
    trainer.watch, trainer.options = watch, replace(trainer.options, stats_interval=EVERY)
    batch = training.ready_batch(setup, device)

    def step() -> None:
        trainer.model.train()
        training.step(trainer, batch)

    def statistics() -> None:
        trainer.model.train()
        watch.measure(trainer.objective, batch, len(batch[0]))

    @torch.no_grad()
    def evaluation() -> None:
        trainer.model.eval()
        trainer.objective(batch, True)

    def channels() -> None:
        with trainer.looking_at_channels(OneBatch(batch)):
            evaluation()

    return {
        "step": step, "statistics": statistics, "evaluation": evaluation, "channels": channels,
    }  # fmt: skip


class OneBatch(language.ReadyBatches):
    def __init__(self, batch: tuple):
        super().__init__(len(batch[0]))
        self.batch = batch

    def batches(self, epoch: int):
        yield self.batch
