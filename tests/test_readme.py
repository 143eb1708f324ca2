"""The examples of README's page on the use in other networks run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = README.split("## Use it in your own network\n")[1].split("\n## ")[0]
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_there_are_five():
    assert len(EXAMPLES) == 5


# What a reader would look at next: that what was to go is gone.
CHECK = """
from torch import nn
for value in list(globals().values()):
    if isinstance(value, nn.Module):
        assert not [m for m in value.modules() if isinstance(m, (nn.ReLU, nn.GELU))], value
        assert [m for m in value.modules() if type(m).__module__ == "zilu.modules"], value
"""


def run(example, **variables):
    for package in re.findall(r"^(?:import|from) (timm|transformers)", example, re.MULTILINE):
        pytest.importorskip(package)
    ran = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", example + CHECK],
        capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ | variables,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_runs(example):
    run(example, TORCH_COMPILE_DISABLE="1")  # half a minute of it; tests of their own compile


@pytest.mark.slow
def test_examples_run_compiled():
    for example in EXAMPLES:
        if "torch.compile" in example:
            run(example)
