"""Understand the flags and the args.txt of the code that was published with the paper.

That is github.com/mingikang31/ZiLU-Activation. Most of its flags are called as ours are.
"""

from collections.abc import Iterable
from typing import Any

from utils import UserError

# Its names of flags that are called otherwise here.
RENAMED = {"compile": "use_compiled", "measure_tail_index": "stats"}

DATASETS = {"imagenet1k": "imagenet"}

# Its flags that have no effect here, each with the reason.
WITHOUT_EFFECT = {
    "ddp": "start the program with torchrun for several GPUs",
    "pin_memory": "batches are made on the device, or pinned where that helps",
    "persistent_workers": "workers live as long as the run",
    "prefetch_factor": "batches are made ahead as far as memory allows",
}
FLAGS = (*RENAMED, *WITHOUT_EFFECT)

# What its args.txt says of a run beside the flags.
FACTS = frozenset(("total_params", "trainable_params", "num_classes", "img_size"))

TAIL_INDEX_STEPS = "100"  # the tail index is part of --stats, which wants a number of steps
ON = ("true", "yes", "on", "1")


def translated(texts: dict[str, Any]) -> dict[str, Any]:
    """Return flags with its names and values as ours; one note names those without effect.

    Raises:
        UserError: a flag is given by both names.
    """
    found = {}
    for name, value in texts.items():
        ours = RENAMED.get(name, name)
        if ours in found or (ours != name and ours in texts):
            raise UserError(f"--{name} is another name of --{ours}: give one of them")
        if name in WITHOUT_EFFECT:
            continue
        found[ours] = value
        if name == "measure_tail_index":
            found[ours] = TAIL_INDEX_STEPS if str(value).lower() in ON else None
    if str(found.get("dataset")).lower() in DATASETS:
        found["dataset"] = DATASETS[str(found["dataset"]).lower()]
    _note(name for name in texts if name in WITHOUT_EFFECT)
    return {name: value for name, value in found.items() if value is not None}


def of_file(content: dict[str, Any]) -> dict[str, Any]:
    """Return the flags of its args.txt, which is known by what only that says.

    There, None stands for a flag without a value.
    """
    if not FACTS & content.keys():
        return content
    kept = {name: value for name, value in content.items() if name not in FACTS}
    return {name: value for name, value in kept.items() if value != "None"}


def _note(names: Iterable[str]) -> None:
    reasons = [f"--{name} has no effect here: {WITHOUT_EFFECT[name]}" for name in names]
    if reasons:
        print(f"Note: {'; '.join(reasons)}")
