"""Load exports as their pages say, in a process without the project: prints the differences.

Standard input has a JSON object: "hidden", the project's modules, and "exports", a list of
[form, path, cases], the cases a file of inputs with the outputs that the project recorded. What an
export's own code imports must be of the standard library, or of what its form may need.
"""

import builtins
import importlib
import json
import re
import sys
from pathlib import Path

import torch

MAY_IMPORT = {"hf": {"torch", "transformers"}, "timm": {"torch", "timm", "safetensors"},
              "torchvision": {"torch", "torchvision", "safetensors"}}  # fmt: skip
CARD = "the card"  # as whose module the code of a card is run
REAL_IMPORT = builtins.__import__
hidden, form, imported = set(), "", set()


def watched_import(name, globals=None, locals=None, fromlist=(), level=0):
    """Refuse the project's modules, and to an export's own code all that is not for it."""
    root = name.partition(".")[0]
    importer = (globals or {}).get("__name__") or ""
    is_of_export = importer.startswith(("transformers_modules", "zilu_activations", CARD))
    if root in hidden and not level:
        raise ImportError(f"{importer} imports {name} of the project")
    if is_of_export and not level and root != "zilu_activations":
        imported.add(root)
        if root not in sys.stdlib_module_names and root not in MAY_IMPORT[form]:
            raise ImportError(f"{importer} imports {name}, which is not for {form}")
    return REAL_IMPORT(name, globals, locals, fromlist, level)


def from_folder(path):
    transformers = importlib.import_module("transformers")
    own_code = {"trust_remote_code": True} if list(Path(path).glob("*.py")) else {}
    model = transformers.AutoModelForCausalLM.from_pretrained(path, **own_code).eval()
    assert type(model).__module__.startswith(
        "transformers_modules" if own_code else "transformers.models.gpt2"
    )
    return lambda ids: model(input_ids=ids).logits


def from_card(path):
    sys.path.insert(0, path)
    sys.modules.pop("zilu_activations", None)
    card = Path(path, "README.md").read_text()
    names = {"folder": path, "__name__": CARD}
    exec(re.search(r"^```python\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)[1], names)
    sys.path.remove(path)
    return names["model"].eval()


def from_onnx(path):
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def from_pt2(path):
    return torch.export.load(path).module()


LOADERS = {"hf": from_folder, "timm": from_card, "torchvision": from_card, "onnx": from_onnx,
           "pt2": from_pt2}  # fmt: skip


def difference(run, cases):
    """Return the largest difference, as a share of the largest output."""
    found = [(run(x), y) for x, y in torch.load(cases)]
    assert all(x.shape == y.shape for x, y in found)
    return max(float((x - y).abs().max() / y.abs().max()) for x, y in found)


if __name__ == "__main__":
    request = json.load(sys.stdin)
    hidden |= set(request["hidden"])
    builtins.__import__ = watched_import
    answers = []
    with torch.no_grad():
        for form, path, cases in request["exports"]:
            answers.append(difference(LOADERS[form](path), cases))
    print(json.dumps({"differences": answers, "imported": sorted(imported)}))
