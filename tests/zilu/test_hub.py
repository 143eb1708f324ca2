"""Test torch.hub's entries in a program that has modules with the names of this project's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENTRIES = {"zilu", "zilu_approx", "gelu_s", "silu_s", "create_activation", "replace_activations"}

PROGRAM = f"""
import json, sys
import torch
import models

root = {str(ROOT)!r}
# hub.list and hub.help have no local form, and would ask GitHub.
torch.hub._get_cache_or_reload = lambda *arguments, **options: root

def load(entry, *arguments, **options):
    return torch.hub.load(root, entry, *arguments, source="local", **options)

network = torch.nn.Sequential(torch.nn.ReLU())
load("replace_activations", network, "zilu_approx", sigma=0.25)
seen = {{
    "zilu": repr(load("zilu", sigma=0.5)),
    "zilu_approx": repr(load("zilu_approx", sigma=0.5, learnable=True)),
    "gelu_s": repr(load("gelu_s", 2.0)),
    "silu_s": repr(load("silu_s")),
    "create_activation": repr(load("create_activation", "iglu", sigma=3)),
    "replace_activations": repr(network[0]),
}}
value = load("zilu", sigma=0.5)(torch.ones(()))
import utils
print(json.dumps({{
    "seen": seen,
    "value": value.item(),
    "list": torch.hub.list("owner/name"),
    "help": {{name: torch.hub.help("owner/name", name) for name in torch.hub.list("owner/name")}},
    "mine": [models.OWNER, utils.OWNER],
    "path": sys.path,
    "project": [
        name for name, module in list(sys.modules.items())
        if (getattr(module, "__file__", None) or "").startswith(root + "/")
        and "/.venv/" not in module.__file__
    ],
}}))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Return what the program above prints in a folder with its own `models` and `utils`."""
    folder = tmp_path_factory.mktemp("caller")
    (folder / "models").mkdir()
    (folder / "models" / "__init__.py").write_text("OWNER = 'caller'\n")
    (folder / "utils.py").write_text("OWNER = 'caller'\n")
    (folder / "program.py").write_text(PROGRAM)
    ran = subprocess.run(
        [sys.executable, "program.py"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_entries_give_modules(told):
    assert told["seen"] == {
        "zilu": "ZiLU(sigma=0.5)",
        "zilu_approx": "ZiLU_Approx(sigma=0.5, learnable=True)",
        "gelu_s": "GELU_s(sigma=2)",
        "silu_s": "SiLU_s(sigma=1)",
        "create_activation": "ZiLU(sigma=3)",
        "replace_activations": "ZiLU_Approx(sigma=0.25)",
    }
    assert told["value"] == pytest.approx(0.6475836177)  # 1/2 + arctan(1/2) / pi


def test_list_and_help(told):
    assert set(told["list"]) == ENTRIES
    assert all(told["help"].values())
    assert "sigma: sharpness" in told["help"]["zilu"]


def test_the_callers_modules_stay_the_callers(told):
    assert told["mine"] == ["caller", "caller"]
    assert "zilu" in told["project"]
    assert {name.split(".")[0] for name in told["project"]} <= {"zilu", "hubconf"}
    assert str(ROOT) not in told["path"]
