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
# Its --augment jittered colours too, which ours leaves to --color_jitter; `auto` does as it did.
JITTER = "augment_jitter"
FLAGS = (*RENAMED, *WITHOUT_EFFECT, JITTER)

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
        if name in WITHOUT_EFFECT or name == JITTER:
            continue
        found[ours] = value
        if name == "measure_tail_index":
            found[ours] = TAIL_INDEX_STEPS if _is_on(value) else None
    if str(found.get("dataset")).lower() in DATASETS:
        found["dataset"] = DATASETS[str(found["dataset"]).lower()]
    if JITTER in texts:
        found["color_jitter"] = _jitter(texts)
    _note(name for name in texts if name in WITHOUT_EFFECT)
    return {name: value for name, value in found.items() if value is not None}


def of_file(content: dict[str, Any]) -> dict[str, Any]:
    """Return the flags of its args.txt, which is known by what only that says.

    There, None stands for a flag without a value, and what is augmented has its colours jittered.
    """
    if not FACTS & content.keys():
        return content
    kept = {name: value for name, value in content.items() if name not in FACTS}
    kept = {name: value for name, value in kept.items() if value != "None"}
    if _is_on(kept.get("augment")) and not {JITTER, "color_jitter"} & kept.keys():
        print("Note: the run jittered colours too: --color_jitter is on (--no-color_jitter)")
        kept["color_jitter"] = "true"
    return kept


def _jitter(texts: dict[str, Any]) -> str:
    """Return the value of --color_jitter that --augment_jitter stands for.

    Raises:
        UserError: both are given, or `auto` has no --augment to follow.
    """
    if "color_jitter" in texts:
        raise UserError(f"--{JITTER} is another name of --color_jitter: give one of them")
    wanted = str(texts[JITTER])
    if wanted.lower() != "auto":
        return wanted
    if "augment" not in texts:
        raise UserError(
            f"--{JITTER} auto follows the --augment beside it; add that, or give --color_jitter"
        )
    return str(_is_on(texts["augment"])).lower()


def _is_on(value: Any) -> bool:
    return str(value).lower() in ON


def _note(names: Iterable[str]) -> None:
    reasons = [f"--{name} has no effect here: {WITHOUT_EFFECT[name]}" for name in names]
    if reasons:
        print(f"Note: {'; '.join(reasons)}")
