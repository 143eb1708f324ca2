"""Load an export, and compare its outputs: a program for a process without this project.

It reads a request as JSON from standard input, and prints an answer. Modules of the project cannot
be imported here, even where they are installed.
"""

import importlib
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Case = tuple[Tensor, Tensor]  # an input, and the output that is expected
GENERATED = 4  # tokens
NEAR = 1e-4  # of the largest logit: two tokens that may be taken for each other


class Hidden:
    """Refuse to import modules of certain names."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = set(names)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Raise ImportError for a hidden module; find nothing else."""
        if path is None and name in self.names:
            raise ImportError(f"the export imports {name}, a module of the project")


def differences(run: Callable[[Tensor], Tensor], cases: Sequence[Case]) -> float:
    """Return the largest difference from what is expected."""
    largest = 0.0
    for x, expected in cases:
        found = run(x)
        if found.shape != expected.shape:
            raise ValueError(f"outputs of shape {tuple(found.shape)}, not {tuple(expected.shape)}")
        difference = (found - expected).abs().max()
        largest = max(largest, float(difference) if difference.isfinite() else float("inf"))
    return largest


# --- transformers ---


def from_hub_folder(request: dict[str, Any], cases: Sequence[Case]) -> float:
    """Load a folder as users do, compare logits and ids, and generate."""
    transformers = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        request["path"], trust_remote_code=True, output_loading_info=True
    )
    wrong = {key: sorted(map(str, names)) for key, names in info.items() if names}
    if wrong:
        raise ValueError(f"weights do not fit: {json.dumps(wrong)}")
    model.eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(request["path"], trust_remote_code=True)
    for text, ids in request["texts"]:
        if tokenizer(text)["input_ids"] != ids:
            raise ValueError(f"the tokenizer gives other ids for {text!r}")
    found = differences(lambda ids: model(input_ids=ids).logits, cases)
    ids = cases[0][0]
    count = min(GENERATED, ids.shape[1] - 1)
    if count:
        _check_generation(model, ids[:, :-count], count)
    return found


def _check_generation(model: Any, ids: Tensor, count: int) -> None:
    """Compare greedy generation, which keeps keys and values, with logits of whole texts."""
    drawn = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    logits = model(input_ids=drawn).logits[:, ids.shape[1] - 1 : -1]
    chosen = logits.gather(2, drawn[:, ids.shape[1] :, None])[..., 0]
    if (logits.max(-1).values - chosen > NEAR * logits.abs().max()).any():
        raise ValueError("generate draws other tokens than those of the largest logits")


# --- timm, torchvision ---


def from_card(request: dict[str, Any], cases: Sequence[Case]) -> float:
    """Build the network by the lines that stand in the folder's README."""
    folder = Path(request["path"])
    sys.path.append(str(folder))  # where zilu_activations.py lies
    if "library" in request:
        sys.path.append(request["library"])
    text = (folder / "README.md").read_text(encoding="utf-8")
    code = re.search(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert code, "a card has code"
    names: dict[str, Any] = {"folder": folder}
    exec(code[1], names)
    return differences(names["model"].eval(), cases)


# --- graphs ---


def from_onnx(request: dict[str, Any], cases: Sequence[Case]) -> float:
    """Run a file of ONNX in onnxruntime."""
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(request["path"], providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return differences(lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0]), cases)


def from_pt2(request: dict[str, Any], cases: Sequence[Case]) -> float:
    """Run a file of torch.export."""
    return differences(torch.export.load(request["path"]).module(), cases)


LOADERS = {
    "hf": (from_hub_folder, "transformers"),
    "timm": (from_card, "timm"),
    "torchvision": (from_card, "torchvision"),
    "onnx": (from_onnx, "onnxruntime"),
    "pt2": (from_pt2, "torch"),
}


def main() -> None:
    """Answer a request."""
    request = json.load(sys.stdin)
    sys.meta_path.insert(0, Hidden(request["hidden"]))  # type: ignore[arg-type]
    cases = torch.load(request["cases"], weights_only=True)
    load, package = LOADERS[request["to"]]
    with torch.no_grad():
        difference = load(request, cases)
    version = importlib.import_module(package).__version__
    names = [f"{package} {version}"] + (["the package zilu"] if "library" in request else [])
    print(json.dumps({"difference": difference, "with": ", ".join(names)}))


if __name__ == "__main__":
    main()
