"""Test the package as pip installs it: all of the library zilu, which needs only torch."""

import email
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import zilu
from zilu import kernels

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel from a copy of the project, because a build leaves folders in its sources."""
    pytest.importorskip("setuptools", minversion="77.0.3", reason="building needs setuptools")
    sources, built = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    left_out = shutil.ignore_patterns(".*", "Data", "Output", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, sources, ignore=left_out, dirs_exist_ok=True)
    made = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index",
         "--wheel-dir", built, sources],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    (path,) = built.iterdir()
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Return a folder with the wheel's files."""
    folder = tmp_path_factory.mktemp("installed")
    wheel.extractall(folder)
    return folder


def run(code: str, cwd: Path, **environment) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def metadata(wheel) -> email.message.Message:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(wheel.read(name))


def test_holds_the_package_whole_and_nothing_else(wheel):
    files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "zilu").rglob("*")
        if path.suffix in (".py", ".cpp", ".h", ".typed")
    }
    assert files == expected
    assert {"zilu/py.typed", "zilu/kernels/cpu.cpp", "zilu/kernels/kernels.h"} <= files


def test_the_version_can_be_read_without_torch():
    code = "import sys, zilu; print(zilu.__version__, 'torch' in sys.modules)"
    assert run(code, ROOT) == f"{zilu.__version__} False"


def test_needs_torch_alone(wheel):
    told = metadata(wheel)
    assert told["Name"] == "zilu-activation"
    assert told["Version"] == zilu.__version__
    always = [each for each in told.get_all("Requires-Dist") if "extra ==" not in each]
    assert always == ["torch>=2.6"]
    assert told["License-Expression"] == "MIT"


USE = """
import torch, zilu
from zilu import kernels
for learnable in (False, True):
    x = torch.ones(3, requires_grad=True)
    y = zilu.ZiLU(sigma=1.0, learnable=learnable)(x)
    y.sum().backward()
    assert (y - 0.75).abs().max() < 1e-6
    assert (x.grad - 0.9091549).abs().max() < 1e-6  # 3/4 + 1 / (2 pi)
network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU())
zilu.replace_activations(network, "ZiLU")
assert type(network[1]) is zilu.ZiLU
print(zilu.__file__, kernels.backend("cpu"))
"""


def test_works_where_it_is_installed(installed, tmp_path):
    """Use the installed package: it has the kernels' sources, and so the checkout's build."""
    file, backend = run(USE, tmp_path, PYTHONPATH=str(installed)).split()
    assert Path(file) == installed / "zilu" / "__init__.py"
    assert backend == kernels.backend("cpu")


LOADED = """
import sys, torch
before = {name.partition(".")[0] for name in sys.modules}
import zilu
from zilu import ZiLU, create_activation
import zilu.transformers
after = {name.partition(".")[0] for name in sys.modules}
print(*sorted(after - before - sys.stdlib_module_names))
"""


def test_importing_loads_nothing_beside_torch(installed, tmp_path):
    assert run(LOADED, tmp_path, PYTHONPATH=str(installed)) == "zilu"
