"""Run programs on the null device, in forks of a process that has loaded torch.

Reads a JSON object per line: the arguments of `helpers.fork_server.run`, `settings`, the
environment that says how the device looks, and `report`, the file that each rank's report goes to,
with its rank as suffix. Answers with the exit codes.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from helpers import fork_server  # noqa: E402


def prepare(settings: dict[str, str], report: str, module: str, rank: int) -> None:
    """Let the program of this process run on the null device, and write its report."""
    from null_cuda import watch

    os.environ.update(settings)
    noted = watch.prepare(Path(f"{report}.{rank}"), int(settings["NULL_CUDA_DEVICES"]))
    program = importlib.import_module(module)
    main = program.main

    def watched() -> int:
        try:
            return main()
        finally:
            noted.write()

    program.main = watched


def serve() -> None:
    """Answer requests until there are no more."""
    fork_server.load()
    for name in ("torch._inductor.compile_fx", "zilu.kernels.operators", "null_cuda.watch"):
        importlib.import_module(name)
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        settings, report = request.pop("settings"), request.pop("report")
        ready = functools.partial(prepare, settings, report, request["module"])
        print(json.dumps(fork_server.run(**request, prepare=ready)), flush=True)


if __name__ == "__main__":
    serve()
