"""Whole training steps per activation, on batches that lie ready, as the programs train."""

import argparse
import functools
from dataclasses import dataclass

from benchmarks import language, tables, vision
from benchmarks.activations import Unit, units
from benchmarks.names import MODES, PRECISIONS, TRAINED
from benchmarks.timing import in_rounds, quartiles, ratio, repeats_for, saved_bytes, timed
from utils import set_arithmetic
from zilu.names import kernel_mode

BASELINES = ("ReLU", "GELU")
SAMPLE_SECONDS = 0.2


@dataclass(frozen=True)
class Setup:
    """What all activations of a table have in common."""

    model: str
    mode: str
    precision: str
    batch_size: int


def measure(args: argparse.Namespace, device) -> None:
    """Measure, print, and save training.md and .csv in --output_dir."""
    folder = tables.ReportFolder(args.output_dir)
    set_arithmetic(device, deterministic=False)
    wanted = units(args.activations or TRAINED, BASELINES, args.learn_sigma)
    report, rows = tables.Report(), []
    report.add(heading(args, device))
    for model in args.models:
        batch_size = args.batch_size or (8 if model == "gpt" else 128)
        for precision in args.precisions:
            for mode in args.modes:
                setup = Setup(model, mode, precision, batch_size)
                found = measure_setup(setup, wanted, args, device)
                report.add(table(found, setup))
                machine = tables.machine_columns(device)
                rows += [row | machine for row in found.values()]
    folder.save("training", report, rows)


def measure_setup(setup: Setup, wanted: list[Unit], args, device) -> dict[Unit, dict]:
    """A row for each unit."""
    import torch

    # Every trainer's step is the same code to the compiler, which gives up after 8 of them.
    torch.compiler.reset()
    torch._dynamo.config.recompile_limit = max(8, 4 * len(wanted))
    batch = ready_batch(setup, device)
    trainers = {unit: build(setup, unit, args.sigma, device) for unit in wanted}
    steps = {unit: functools.partial(step, trainers[unit], batch) for unit in wanted}
    for run in steps.values():
        run()  # compiles
    gelu = functools.partial(timed, steps[Unit("GELU")], device)
    repeats = repeats_for(gelu, SAMPLE_SECONDS)
    samples = {u: functools.partial(timed, run, device, repeats) for u, run in steps.items()}
    times = in_rounds(samples, args.rounds)
    counts = {"rounds": args.rounds, "repeats": repeats}
    return {
        unit: identity(setup, unit, args.sigma)
        | counts
        | speed(times, unit)
        | {"saved_bytes": step_bytes(trainers[unit], batch)}
        for unit in wanted
    }


def build(setup: Setup, unit: Unit, sigma: float, device):
    """A trainer as the programs build it."""
    flags = (*MODES[setup.mode], *PRECISIONS[setup.precision])
    if unit.has_sigma:
        flags += ("--sigma", repr(sigma), *["--learn_sigma"] * unit.learned)
    if setup.model == "gpt":
        return language.build(unit.activation, device, flags)
    return vision.build(setup.model, unit.activation, device, flags)


def ready_batch(setup: Setup, device) -> tuple:
    import torch

    if setup.model == "gpt":
        return language.ready_batch(setup, device)
    images = torch.randn(setup.batch_size, 3, 32, 32, device=device)
    targets = torch.randint(10, (setup.batch_size,), device=device)
    return images.to(memory_format=torch.channels_last), targets


def step(trainer, batch: tuple) -> None:
    trainer.train_step([batch], language.ReadyBatches(len(batch[0])))


def step_bytes(trainer, batch: tuple) -> int:
    """Bytes that a step's forward keeps for its backward, beside parameters and the batch."""
    ignored = (*trainer.model.parameters(), *trainer.model.buffers(), *batch)
    return saved_bytes(lambda: trainer.objective(batch, full=True), ignored)


# --- rows and text ---


def identity(setup: Setup, unit: Unit, sigma: float) -> dict:
    return {
        "arm": unit.label,
        "activation": unit.activation,
        "sigma": sigma if unit.has_sigma else "",
        "learned": unit.learned,
        "kernels": kernel_mode() if unit.has_sigma else "",
        **vars(setup),
    }


def speed(times: dict[Unit, list[float]], unit: Unit) -> dict:
    low, middle, high = (1e3 * x for x in quartiles(times[unit]))
    ratios = {f"over_{name}": ratio(times[unit], times[Unit(name)]) for name in BASELINES}
    return {"step_ms": middle, "step_ms_q1": low, "step_ms_q3": high} | ratios


def heading(args: argparse.Namespace, device) -> str:
    return "\n".join(
        [
            "# Training steps per activation",
            "",
            f"- {tables.machine(device)}",
            f"- n = {args.rounds} rounds; ZILU_KERNELS={kernel_mode()}; σ = {args.sigma:g}",
            "- ms: median (quartiles) of a step. ÷ GELU, ÷ ReLU: median of the ratios within the "
            "rounds. Saved: MiB kept for backward, beside parameters and the batch.",
        ]
    )


def table(found: dict[Unit, dict], setup: Setup) -> str:
    rows = [
        {
            "activation": unit.label,
            "ms": tables.with_spread(row["step_ms_q1"], row["step_ms"], row["step_ms_q3"]),
            **{f"÷ {name}": f"{row[f'over_{name}']:.3f}" for name in BASELINES},
            "saved, MiB": tables.figure(row["saved_bytes"] / 2**20),
        }
        for unit, row in found.items()
    ]
    title = f"{setup.model}, {setup.mode}, {setup.precision}, batch {setup.batch_size}"
    return f"\n## {title}\n\n{tables.markdown(rows)}"
