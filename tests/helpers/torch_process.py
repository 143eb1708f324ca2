"""Runs Python in a new process that has torch already: a start without seconds of imports."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch", "torch._dynamo"])


class TorchProcess:
    """A process that runs code, or a file as a program, and leads a process group of its own.

    Args:
        code: the code, or the file.
        flags: the command line.
        cwd: where it runs.
        environment: beside the variables of this process.
    """

    def __init__(
        self,
        code: str | Path,
        *flags: object,
        cwd: Path | None = None,
        environment: dict[str, str] | None = None,
    ):
        self._files = [tempfile.NamedTemporaryFile("r+") for _ in range(2)]  # noqa: SIM115
        names = [file.name for file in self._files]
        variables = {**os.environ, **(environment or {})}
        arguments = (code, list(map(str, flags)), cwd or Path.cwd(), variables, names)
        self._process = _CONTEXT.Process(target=_work, args=arguments)
        self._process.start()
        self.pid = self._process.pid

    def communicate(self, timeout: float = 280) -> tuple[str, str]:
        """Wait for the end; return what it has written."""
        self._process.join(timeout)
        if self._process.is_alive():
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            raise TimeoutError(f"no end within {timeout} seconds")
        output, errors = (file.read() for file in self._files)
        return output, errors

    @property
    def returncode(self) -> int:
        return self._process.exitcode


def _work(
    code: str | Path, flags: Sequence[str], cwd: Path, environment: dict[str, str], names: list[str]
) -> None:
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, name in zip((1, 2), names, strict=True):
        os.dup2(os.open(name, os.O_WRONLY | os.O_APPEND), descriptor)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, buffering=1, errors="backslashreplace")  # noqa: SIM115
    sys.argv = [str(code) if isinstance(code, Path) else "-c", *flags]
    status = 0
    try:
        if isinstance(code, Path):
            sys.path.insert(0, str(code.parent))
            runpy.run_path(str(code), run_name="__main__")
        else:
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    os._exit(status)
