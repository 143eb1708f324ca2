"""Measure what an activation costs beside the usual ones, in turn, round after round."""

import torch

from batteries.profile.found import Cost, CostRow
from batteries.profile.subject import Subject
from benchmarks import activations, tables, training
from benchmarks.arms import Arm
from benchmarks.memory import memory_of
from benchmarks.names import BASELINES

ROUNDS = 7
NETWORK, BATCH, IMAGE_SIZE = "resnet20", 32, 16
ELEMENTS = 2**20


def cost(arm: Arm, device: torch.device, rounds: int = ROUNDS, elements: int = ELEMENTS) -> Cost:
    """Measure training steps of a small ResNet, and the activation alone in fp32.

    Args:
        arm: the activation; ReLU, GELU and SiLU are measured beside it.
        device: where.
        rounds: how often each is measured.
        elements: numbers in the input of the activation alone.
    """
    arms = list(dict.fromkeys([*map(Arm, BASELINES), arm]))
    setup = training.Setup(NETWORK, "eager", "fp32", BATCH, IMAGE_SIZE)
    steps = training.measure_setup(setup, arms, rounds, device)
    memory = {each: memory_of(setup, each, device) for each in arms}
    cell = activations.Cell(str(device), "fp32", elements)
    with activations.runner(compares_plain=False) as run:
        alone = activations.measure_cell(cell, arms, rounds, run)
    rows = tuple(
        CostRow(
            label=Subject.of(each).label,
            step_ms=steps[each]["step_ms"],
            step_ms_q1=steps[each]["step_ms_q1"],
            step_ms_q3=steps[each]["step_ms_q3"],
            step_over_gelu=steps[each]["over_GELU"],
            kept_bytes=memory[each]["saved_bytes"],
            peak_bytes=memory[each]["peak_bytes"],
            alone_us=alone[each]["both_us"],
            alone_us_q1=alone[each]["both_us_q1"],
            alone_us_q3=alone[each]["both_us_q3"],
            alone_over_gelu=alone[each]["both_over_GELU"],
            alone_tensors=alone[each]["saved_tensors"],
        )
        for each in (*(a for a in arms if a != arm), arm)
    )
    network = f"ResNet-20, {BATCH} images of {IMAGE_SIZE} px, fp32, eager"
    return Cost(network, elements, rounds, tables.machine(device), rows)
