"""The states of the global random generators, to go on drawing where a run stopped."""

import random

import numpy
import torch


def random_state(device: torch.device) -> dict:
    """Of Python's, NumPy's and torch's global generators; of CUDA's the one of `device`.

    Plain values and tensors on the CPU, which a checkpoint can hold.
    """
    kind, keys, *rest = numpy.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": [kind, keys.tolist(), *rest],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict, device: torch.device) -> None:
    """Let all of them go on from `state`. One that it lacks, as on another device, is left as is.

    Args:
        state: what `random_state` gave.
    """
    random.setstate(state["python"])
    numpy.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
