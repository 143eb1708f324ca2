"""Run programs on the null device, in forks of a process that has loaded torch.

With arguments, REPORT MODULE FLAGS..., it runs one program in this process, as torchrun wants it.
Without, it reads a JSON object per line: the arguments of `helpers.fork_server.run`, `settings`,
the environment that says how the device looks, and `report`, the file of what is noted, with the
rank as suffix. It answers with the exit codes.
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
    for name in ("triton.runtime.cache", "triton.compiler.compiler"):  # the newer, the older
        if key := getattr(importlib.import_module(name), "triton_key", None):
            key()  # a hash of all of Triton, which it keeps: a second
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        settings, report = request.pop("settings"), request.pop("report")
        ready = functools.partial(prepare, settings, report, request["module"])
        print(json.dumps(fork_server.run(**request, prepare=ready)), flush=True)


def run_one(report: str, module: str, *flags: str) -> None:
    """Run one program in this process."""
    sys.argv = [module, *flags]
    settings = {name: text for name, text in os.environ.items() if name.startswith("NULL_CUDA_")}
    prepare(settings, report, module, int(os.environ.get("RANK", 0)))
    sys.exit(importlib.import_module(module).main())


if __name__ == "__main__":
    run_one(*sys.argv[1:]) if sys.argv[1:] else serve()
