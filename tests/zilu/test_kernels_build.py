"""Test the build: it runs once per machine, is whole or absent, and never stops a program."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from helpers.torch_process import TorchProcess

from zilu import kernels
from zilu.kernels import build

pytestmark = pytest.mark.skipif(
    kernels.backend("cpu") != "fused", reason="no fused kernels on this machine"
)

USE = """
import torch
from zilu import functional as F, kernels
y = F.zilu(torch.ones(3))
assert abs(y[0].item() - 0.75) < 1e-6
print(kernels.backend("cpu"))
"""


def start(cache: Path, **environment: str) -> TorchProcess:
    return TorchProcess(USE, environment={"TORCH_EXTENSIONS_DIR": str(cache), **environment})


def finish(process: TorchProcess) -> tuple[str, str]:
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output.strip(), errors


@pytest.fixture
def compiler(tmp_path):
    """Return a slow compiler that copies the real library, and the log of its calls."""
    real = build._find(build._name(build._compiler()))
    log = tmp_path / "log"
    script = tmp_path / "cxx"
    script.write_text(
        f"""#!/bin/sh
if [ "$1" = --version ]; then echo stand-in; exit; fi
echo "$*" >> {log}
sleep 1
while [ "$1" != -o ]; do shift; done
cp {real} "$2"
"""
    )
    script.chmod(0o755)
    return script, log


def builds(log: Path) -> int:
    return log.read_text().count("-shared") if log.exists() else 0


def test_built_once_and_said_so(tmp_path, compiler):
    script, log = compiler
    output, errors = finish(start(tmp_path / "cache", CXX=str(script)))
    assert output == "fused"
    assert "zilu: building the fused kernels for this machine, once" in errors
    assert "zilu: built in" in errors
    output, errors = finish(start(tmp_path / "cache", CXX=str(script)))
    assert (output, errors) == ("fused", "")
    assert builds(log) == 1
    folder = tmp_path / "cache" / "zilu"
    assert sorted(path.suffix for path in folder.iterdir()) == [".lock", ".so"]


def test_many_processes_build_once(tmp_path, compiler):
    script, log = compiler
    processes = [start(tmp_path / "cache", CXX=str(script)) for _ in range(4)]
    assert [finish(process)[0] for process in processes] == ["fused"] * 4
    assert builds(log) == 1


def test_a_builder_that_is_killed_stops_nobody(tmp_path, compiler):
    script, log = compiler
    first = start(tmp_path / "cache", CXX=str(script))
    while not log.exists():
        time.sleep(0.05)
    second = start(tmp_path / "cache", CXX=str(script))
    time.sleep(1)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert finish(second)[0] == "fused"
    assert finish(start(tmp_path / "cache", CXX=str(script))) == ("fused", "")


def test_without_a_compiler_one_warning_and_plain_operations(tmp_path):
    output, errors = finish(start(tmp_path, CXX="no-such-compiler"))
    assert output == "plain"
    assert errors.count("RuntimeWarning: zilu: no fused kernels on this cpu (no C++ compiler") == 1


def test_a_build_that_fails_says_why(tmp_path):
    script = tmp_path / "cxx"
    script.write_text("#!/bin/sh\necho 'x.cpp:1: error: no such header' >&2\nexit 1\n")
    script.chmod(0o755)
    output, errors = finish(start(tmp_path / "cache", CXX=str(script)))
    assert output == "plain"
    assert "(the build failed: x.cpp:1: error: no such header)" in errors
    asked = start(tmp_path / "cache", CXX=str(script), ZILU_KERNELS="fused")
    _, errors = asked.communicate()
    assert asked.returncode == 1
    assert "RuntimeError: ZILU_KERNELS=fused, but there are no kernels" in errors


def test_a_machine_without_a_compiler_takes_what_another_built(tmp_path, compiler):
    """Build on a login node, as it were, for compute nodes that may have no compiler."""
    script, _ = compiler
    finish(start(tmp_path / "cache", CXX=str(script)))
    assert finish(start(tmp_path / "cache", CXX="no-such-compiler")) == ("fused", "")


def test_a_damaged_build_is_replaced(tmp_path, compiler):
    """Empty the file, as a machine that loses power may leave it."""
    script, log = compiler
    finish(start(tmp_path / "cache", CXX=str(script)))
    (built,) = (tmp_path / "cache" / "zilu").glob("*.so")
    built.write_bytes(b"")
    output, errors = finish(start(tmp_path / "cache", CXX=str(script)))
    assert output == "fused"
    assert "building it again" in errors
    assert builds(log) == 2


def test_a_cache_that_cannot_be_written(tmp_path, compiler):
    script, _ = compiler
    (tmp_path / "file").write_text("")
    output, errors = finish(start(tmp_path / "file" / "cache", CXX=str(script)))
    assert output == "fused"
    assert "cannot be written" in errors


def test_the_key_holds_what_a_build_depends_on(monkeypatch, tmp_path):
    keys = {build._key()}
    monkeypatch.setattr(build, "_instructions", lambda: "flags: mmx")
    keys.add(build._key())
    monkeypatch.setattr(build, "_FLAGS", [*build._FLAGS, "-g"])
    keys.add(build._key())
    monkeypatch.setattr(build.torch, "__version__", "9.9")
    keys.add(build._key())
    sources = tmp_path / "kernels"
    shutil.copytree(build._FOLDER, sources)
    monkeypatch.setattr(build, "_FOLDER", sources)
    for name in ("cpu.cpp", "gpu.cpp", "operators.cpp", "units.h", "kernels.h"):
        (sources / name).write_text((sources / name).read_text() + "// changed")
        keys.add(build._key())
    assert len(keys) == 9
    assert build._digest(build._version(["c++"])) != build._digest("another compiler")


@pytest.mark.slow
def test_the_real_build(tmp_path):
    """Build from nothing, with this machine's compiler."""
    output, errors = finish(start(tmp_path / "cache"))
    assert output == "fused"
    assert "zilu: built in" in errors
