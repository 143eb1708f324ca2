"""Load a run's network, write it, and have a fresh process check it before it is put in place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from exporting import classifiers, graphs, hugging_face
from exporting.checking import check
from exporting.loading import Trained, load
from exporting.options import FILES, Options
from exporting.writing import require, whole_file, whole_folder
from utils import UserError, one_line_warnings

Write = Callable[[Trained, Path, str], dict[str, Any]]
# What writes each format, which returns what its check has to know.
WRITERS: dict[str, Write] = {
    "hf": hugging_face.write,
    "timm": classifiers.write,
    "torchvision": classifiers.write,
    "onnx": graphs.write,
    "pt2": graphs.write,
}
PACKAGES = {
    "hf": [("transformers", "5")],
    "timm": [("timm", "")],
    "torchvision": [("torchvision", "")],
    "onnx": [("onnx", ""), ("onnxscript", "")],
    "pt2": [],
}
# What a run of each kind can be written as, beside a graph.
OWN_FORMS: dict[str, tuple[str, ...]] = {
    "vision": ("timm", "torchvision"), "language": ("hf",), "table": (),
}  # fmt: skip
CHECKED_BY = {"onnx": "onnxruntime"}


def export(options: Options, checkpoint: Path) -> None:
    """Write an export, and say how far its outputs are from the network's.

    Args:
        options: the command line.
        checkpoint: whose network is written.

    Raises:
        UserError: the network has no such form, a package is missing, the target cannot be written,
            or the fresh process gets other outputs. Nothing is written then.
    """
    to, target = options.to, options.target
    for package, oldest in PACKAGES[to]:
        require(package, oldest, f"--to {to}")
    if options.check and to in CHECKED_BY:
        _require_for_check(CHECKED_BY[to], to)
    trained = load(checkpoint, options.ema, options.activation, tokenizer_flags(options))
    kind = trained.config.KIND
    if to not in (forms := (*OWN_FORMS[kind], *FILES)):
        *others, last = forms
        raise UserError(
            f"--to {to}: {checkpoint} is of a {kind} model; take {', '.join(others)} or {last}"
        )
    place = whole_file if to in FILES else whole_folder
    with place(target) as temporary:
        with one_line_warnings():
            wanted = WRITERS[to](trained, temporary, to)
        said = check(trained, temporary, to, wanted) if options.check else "not checked"
    print(f"Wrote {target}: {said}")


def tokenizer_flags(options: Options) -> list[str] | None:
    """Return the flags that say where a run's tokenizer is now; None of a form that has none."""
    if options.to in FILES:
        return None
    places = {"tokenizer": options.tokenizer, "data_path": options.data_path}
    return [word for name, place in places.items() if place for word in (f"--{name}", place)]


def _require_for_check(package: str, to: str) -> None:
    try:
        require(package, flag=f"the check of --to {to}")
    except UserError as error:
        raise UserError(f"{error}, or give --no_check") from None
