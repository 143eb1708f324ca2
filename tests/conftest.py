"""Fixtures that several test files use: the programs as a user runs them, and the trial data."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Before torch is loaded: two threads that share their cores with another process wait for each
# other at every operation, and the suite takes ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Before Triton is: without a GPU its kernels are tested in its interpreter.
if not Path("/dev/nvidia0").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def fresh_switches():
    """Let each test find torch's switches as a new process does: runs on a CPU set them."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.use_deterministic_algorithms(False)


@pytest.fixture
def quick_figures(request, monkeypatch):
    """Figures of reports without content, where a test does not ask for them (`drawn`)."""
    from helpers.made_runs import without_figures

    if "drawn" not in request.fixturenames:
        without_figures(monkeypatch)


@pytest.fixture
def drawn():
    """For tests that want the figures."""


@pytest.fixture
def mistake_in(monkeypatch, capsys):
    """Run a program's module on flags that are a mistake; returns its one line."""

    def run(module, *flags):
        from cli.errors import one_line_errors

        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, flags)])
        with pytest.raises(SystemExit) as stop, one_line_errors():
            sys.exit(module.main())
        errors = capsys.readouterr().err
        assert stop.value.code == 2, errors
        assert errors.startswith("error: ")
        assert errors.count("\n") == 1
        return errors

    return run


@pytest.fixture
def mounted(tmp_path):
    """A file system of one MiB, and a way to mount it with other options."""
    folder = tmp_path / "mounted"
    folder.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", f"size=1m,{options}", "tmpfs", folder]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("may not mount file systems")

    mount("rw")
    yield folder, mount
    subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="session")
def forked(tmp_path_factory):
    """Run a program in forks of a process that has loaded torch: seconds less than `run_program`.

    `forked("vision_main", "--help", processes=2, faults={1: ("step", 9, 3)})` gives the exit codes
    and the output; tests/fork_server.py says what a fault is.
    """
    logs = tmp_path_factory.mktemp("logs")
    server = subprocess.Popen(
        [sys.executable, ROOT / "tests/helpers/fork_server.py"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout.readline() == "ready\n"

    def run(module, *arguments, processes=1, joined=True, faults=None):
        log = logs / f"{len(list(logs.iterdir()))}.txt"
        request = {
            "module": module, "arguments": [str(x) for x in arguments], "output": str(log),
            "faults": faults or {}, "processes": processes, "joined": joined,
        }  # fmt: skip
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        return json.loads(server.stdout.readline()), log.read_text()

    yield run
    server.stdin.close()
    server.wait()


@pytest.fixture(scope="session")
def run_program():
    """Run one of the programs in its own process: `run("vision_main.py", "--help")`."""

    def run(program: str, *flags, cwd=None, **environment):
        return subprocess.run(
            [sys.executable, str(ROOT / program), *map(str, flags)],
            cwd=cwd or ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def run_loaded():
    """Run a program as `run_program` does, in a process that has torch already: seconds less."""
    from helpers.torch_process import TorchProcess

    def run(program: str, *flags, **environment):
        process = TorchProcess(ROOT / program, *flags, cwd=ROOT, environment=environment)
        output, errors = process.communicate()
        return subprocess.CompletedProcess(program, process.returncode, output, errors)

    return run


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory):
    """A folder for `--dataset text`; not to be changed."""
    folder = tmp_path_factory.mktemp("text")
    for name, count in (("train", 140), ("valid", 40), ("test", 30)):
        lines = [f"{name} {i} {'abcdefgh'[i % 8] * (i % 11)}\n" for i in range(count)]
        (folder / f"{name}.txt").write_text("".join(lines))
    return folder


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """A folder for `--dataset imagefolder`; not to be changed."""
    from helpers.small_images import write_image_folder

    return write_image_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def data_path(text_folder, image_folder):
    """The folder of each program's data: `data_path["vision_main"]`."""
    return {"vision_main": image_folder, "language_main": text_folder}
