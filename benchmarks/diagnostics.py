"""What `--stats` adds to training: its numbers of all activations against a training step."""

import argparse
import functools

from benchmarks import tables, training
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
    print(f"\nn = {args.rounds} rounds; ms: median (quartiles)")


def row(setup: training.Setup, args: argparse.Namespace, device) -> dict[str, str]:
    from diagnostics.watch import Watch

    trainer = training.build(setup, Unit(args.activation), args.sigma, device)
    kind = type(create_activation(args.activation))
    watch = Watch(trainer.model, activation_sites(trainer.model, kind), device)
    batch = training.ready_batch(setup, device)
    arms = {
        "step": functools.partial(training.step, trainer, batch),
        "statistics": lambda: watch.measure(trainer.objective, batch, len(batch[0])),
    }
    for arm in arms.values():
        arm()  # compiles
    times = in_rounds(
        {n: functools.partial(timed, a, device) for n, a in arms.items()}, args.rounds
    )
    share = ratio(times["statistics"], times["step"]) / EVERY
    return {
        "model": f"{setup.model}, {setup.mode}, {setup.precision}, batch {setup.batch_size}",
        **{
            f"{name}, ms": tables.with_spread(*quartiles([1e3 * s for s in seconds]))
            for name, seconds in times.items()
        },
        f"--stats {EVERY} adds": f"{share:.1%}",
    }
