"""Exports of every kind of network, all loaded by one process that knows nothing of the project."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.exports import IMAGES, LEARNED, TINY, configuration, exported, flags_of, trained

import language_main
import table_main
import vision_main
from exporting.loading import load
from exporting.options import FILES
from run_folder.folder import RunFolder

ROOT = Path(__file__).parents[2]
PROCESS = ROOT / "tests/helpers/load_exports.py"
CLOSE = 1e-4  # of the largest output
BLOCKS = ("--mlp", "glu", "--norm", "rms", "--positions", "rope", "--qk_norm", "--no_bias")
STRONG = ("--lr", "0.1")  # so that the activations say much in the outputs
# Of each run, the program with its flags, and the forms that are written of it.
QUICK = {
    "gpt2": (language_main, (*TINY, *LEARNED, *STRONG), ["hf"]),
    "plain": (language_main, (*TINY, "--activation", "GELU_tanh", *STRONG), ["hf"]),
    "blocks": (language_main, (*TINY, *BLOCKS, "--activation", "xATLU", *STRONG), ["hf", "pt2"]),
    "llama": (language_main, (*LEARNED, *STRONG), ["hf"]),
    "timm": (vision_main, ("--model", "timm/test_vit", "--resize", "16", *LEARNED), ["timm"]),
    "table": (
        table_main,
        ("--dataset", "wine", "--hidden_layers", "1", "--hidden_width", "8", *LEARNED),
        ["pt2"],
    ),
}
SLOW = {
    "blocks": (*QUICK["blocks"][:2], ["onnx"]),
    "llama": (*QUICK["llama"][:2], ["pt2", "onnx"]),
    "table": (*QUICK["table"][:2], ["onnx"]),
    "timm": (*QUICK["timm"][:2], ["pt2", "onnx"]),
    "resnet20": (vision_main, ("--model", "resnet20", *LEARNED), ["pt2", "onnx"]),
    "resnet18": (
        vision_main, ("--model", "resnet18", "--stem", "imagenet", "--resize", "32", *LEARNED),
        ["timm"],
    ),
    "vit": (
        vision_main, ("--model", "vit-tiny", "--resize", "16", "--activation", "GoLU"),
        ["timm", "pt2", "onnx"],
    ),
    "vgg": (
        vision_main,
        ("--model", "vgg11", "--head", "imagenet", "--resize", "32", "--activation", "ZiLU"),
        ["torchvision", "pt2", "onnx"],
    ),
    "torchvision": (
        vision_main,
        ("--model", "torchvision/shufflenet_v2_x0_5", "--resize", "32", "--activation", "ZiLU"),
        ["torchvision", "pt2", "onnx"],
    ),
}  # fmt: skip


CASES = [pytest.param(QUICK, id="quick")]
CASES += [pytest.param({kind: SLOW[kind]}, id=kind, marks=pytest.mark.slow) for kind in SLOW]


@pytest.mark.parametrize("kinds", CASES)
def test_outputs_are_equal_in_a_process_without_the_project(
    kinds, text_folder, image_folder, tmp_path
):
    needs = set() if kinds is QUICK else {"onnxscript", "onnxruntime"}
    for package in sorted(needs | {"transformers", "timm", "torchvision", "sklearn"}):
        pytest.importorskip(package)
    configuration("llama", tmp_path / "config")
    exports = []
    for name, (program, flags, forms) in kinds.items():
        if program is language_main:
            start = flags_of(tmp_path / "config", text_folder) if name == "llama" else ()
            flags = (*start, *flags, "--data_path", text_folder)
        if program is vision_main:
            flags = (*IMAGES, *flags, "--data_path", image_folder)
        run = trained(program, tmp_path / name, *flags)
        torch.save(load(run / RunFolder.CHECKPOINT, False, None).outputs(), tmp_path / f"{name}.pt")
        for form in forms:
            target = tmp_path / "exports" / f"{name}.{form}"
            if form in ("hf", "timm", "torchvision"):
                target = target.with_name(f"{name}_{form}")
            exported(run, form, target, "--no_check")
            exports.append([form, str(target), str(tmp_path / f"{name}.pt")])
    found = loaded(exports, tmp_path / "elsewhere")
    far = {
        Path(path).name: difference
        for (_, path, _), difference in zip(exports, found["differences"], strict=True)
        if not difference < CLOSE
    }
    assert not far
    has_code = any(form not in FILES for form, _, _ in exports)
    assert ("torch" in found["imported"]) == has_code


def loaded(exports, folder):
    """Return the answer of the process, which is started in an empty folder."""
    folder.mkdir()
    hidden = [path.stem for path in ROOT.glob("*.py")]
    hidden += [path.parent.name for path in ROOT.glob("*/__init__.py")]
    environment = {
        **os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folder / "modules"),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-I", PROCESS], input=json.dumps({"hidden": hidden, "exports": exports}),
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
