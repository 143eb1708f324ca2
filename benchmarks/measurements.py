"""Make the measurements that benchmark.py was asked for, one after another."""

import torch

from benchmarks import (
    activations,
    diagnostics,
    gated_products,
    host_time,
    language,
    memory,
    reading,
    tables,
    training,
    vision,
)
from benchmarks.arms import Arm, to_compare
from benchmarks.names import (
    ACTIVATIONS,
    BASELINES,
    GATED,
    REMEMBERED,
    TRAINED,
    TRAINING_BASELINES,
)
from benchmarks.options import Options
from training.devices import make_current, resolve_device

ROUNDS = 15  # of activations one by one, which take microseconds
FEW_ROUNDS = 5  # of what takes seconds


def measure(options: Options) -> None:
    """Make the measurements that are asked for, or that of the activations one by one."""
    devices = list(dict.fromkeys(map(resolve_device, options.device)))
    make_current(devices[0])
    if not options.chosen:
        measure_activations(options, devices)
        return
    if options.glu:
        measure_gated_products(options, devices)
    measure_training(options, devices[0])
    if {*options.chosen} <= {"glu", "training", "memory"}:
        return
    print(tables.machine(devices[0]))
    measure_calls_and_stats(options, devices[0])
    measure_vision(options, devices[0])
    measure_language(options, devices[0])


def compared(
    options: Options,
    names: tuple[str, ...],
    baselines: tuple[str, ...] = BASELINES,
    from_output: bool = False,
    plain: bool = False,
) -> list[Arm]:
    """Return the arms to compare: the activations asked for, else `names`, and the baselines."""
    return to_compare(
        options.activations or names, baselines, options.sigma, options.learn_sigma, from_output,
        plain, options.activation_args,
    )  # fmt: skip


def measure_activations(options: Options, devices: list[torch.device]) -> None:
    arms = compared(
        options, ACTIVATIONS, from_output=options.from_output, plain=options.compare_plain
    )
    where = (devices, options.dtypes, options.sizes)
    plan = activations.Plan(arms, *where, options.sigma, options.rounds or ROUNDS)
    activations.measure(plan, options.output_dir)


def measure_gated_products(options: Options, devices: list[torch.device]) -> None:
    where = (devices, options.dtypes, options.sizes)
    rounds = options.rounds or ROUNDS
    gated_products.measure(compared(options, GATED), *where, rounds, options.output_dir)


def measure_training(options: Options, device: torch.device) -> None:
    """Measure the time of training steps, and what they keep in memory."""
    setups, rounds, folder = setups_of(options), options.rounds or FEW_ROUNDS, options.output_dir
    if options.training:
        arms = compared(options, TRAINED, TRAINING_BASELINES, options.from_output)
        training.measure(setups, arms, options.sigma, rounds, device, folder)
    if options.memory:
        arms = compared(options, REMEMBERED, from_output=True)
        limit = int(options.memory_gib * memory.GIB) if options.memory_gib else None
        memory.measure(setups, arms, options.sigma, device, limit, folder)


def setups_of(options: Options) -> list[training.Setup]:
    """Return the networks asked for, in each mode and precision."""
    return training.setups(
        options.models, options.modes, options.precisions, options.batch_size, options.resize
    )


def measure_calls_and_stats(options: Options, device: torch.device) -> None:
    if options.host_time:
        arms = compared(options, ACTIVATIONS, from_output=options.from_output)
        host_time.measure(arms, options.rounds or ROUNDS, device)
    if options.stats:
        arm = Arm.of(options.activation or "ReLU", options.sigma, options.activation_args)
        diagnostics.measure(setups_of(options), arm, options.rounds or FEW_ROUNDS, device)


def measure_vision(options: Options, device: torch.device) -> None:
    size, rounds = options.batch_size or 128, options.rounds or FEW_ROUNDS
    if options.pipeline:
        vision.measure_pipeline(size, rounds, device)
    if options.reading:
        reading.measure(size, rounds, device)
    if options.loop:
        activation = options.activation or "ReLU"
        vision.measure_loop(
            options.model, activation, size, rounds, device, options.activation_args
        )


def measure_language(options: Options, device: torch.device) -> None:
    size, rounds = options.batch_size or 8, options.rounds or FEW_ROUNDS
    if options.tokenizing:
        from benchmarks import tokenizing  # loads datasets and transformers, which take seconds

        assert options.text is not None, "Options.check asks for it"
        tokenizing.measure(options.text, options.data_path, rounds)
    if options.language:
        activation = options.activation or "GELU"
        language.measure_training(activation, size, rounds, device, options.activation_args)
