"""Check on a GPU what was promised for GPUs, part by part; one text file is the result.

python -m benchmarks.gpu_check                  in nine minutes at most; make gpu-check
python -m benchmarks.gpu_check --part kernels   one part alone, on the terminal

Started again, it goes on with the parts that the file does not have yet.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks import tables
from benchmarks.gpu_check import kernels, programs, speed, steps
from benchmarks.gpu_check.found import Finding, Found
from benchmarks.gpu_check.result_file import ResultFile
from cli.converters import file_path, number, one_of
from cli.errors import one_line_errors
from cli.parser import Parser, checked, parsed_into, tool_parser
from utils import UserError

Part = Callable[[torch.device], Found]


def of_network(model: str, mode: str) -> Part:
    return functools.partial(steps.of_network, model, mode)


# In this order: what takes seconds comes first, then what has to be compiled.
PARTS: dict[str, Part] = {
    "kernels": kernels.numbers,
    "compiled": kernels.compiled_numbers,
    "expanded": kernels.expanded_numbers,
    "capture": kernels.capture,
    "large": kernels.large,
    "activations": speed.activations,
    "host": speed.host_time,
    "sgd-fp16": steps.sgd_in_fp16,
    "resnet20-eager": of_network("resnet20", "eager"),
    "resnet18-eager": of_network("resnet18", "eager"),
    "processes": programs.several_processes,
    "repeats": programs.repeats,
    "resnet20-compiled": of_network("resnet20", "compiled"),
    "gpt2": steps.gpt2,
    "resnet20-graphs": of_network("resnet20", "graphs"),
    "resnet18-compiled": of_network("resnet18", "compiled"),
    "resnet18-graphs": of_network("resnet18", "graphs"),
}
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Options:
    """Hold the command line."""

    output: Path
    minutes: float
    part: str | None


def main(argv: list[str] | None = None) -> int:
    """Make the check, or one part of it; return the exit code, 1 if a promise is not kept."""
    options = parsed_into(Options, build_parser(), argv)
    if not torch.cuda.is_available():
        raise UserError("the check needs a GPU that torch can use, and there is none here")
    if options.part is not None:
        print(json.dumps(asdict(PARTS[options.part](torch.device("cuda")))))
        return 0
    return check(options)


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = tool_parser("python -m benchmarks.gpu_check [flags]", __doc__)
    parser.add_argument(
        "--output", type=checked(file_path), default="gpu_check.txt", metavar="FILE",
        help="the result (gpu_check.txt)",
    )  # fmt: skip
    parser.add_argument(
        "--minutes", type=checked(number(float, above=0)), default=9.0, metavar="VALUE",
        help="no part begins, and none goes on, when they are over (9)",
    )  # fmt: skip
    parser.add_argument(
        "--part", type=checked(one_of(*PARTS)), metavar="NAME",
        help=f"this alone, on the terminal, as JSON: {', '.join(PARTS)}",
    )  # fmt: skip
    return parser


def check(options: Options) -> int:
    """Make all parts that the file does not have yet; return the exit code."""
    end = time.monotonic() + 60 * options.minutes
    file = ResultFile(options.output, tables.machine(torch.device("cuda")))
    print(file.machine, flush=True)
    for name in PARTS:
        seconds_left = end - time.monotonic()
        if file.has(name) or seconds_left < 1:
            continue
        print(f"\n## {name}", flush=True)
        start = time.monotonic()
        found = in_own_process(name, seconds_left)
        if found is None:
            print("stopped, because the time is over", flush=True)
            break
        print(file.add(name, found, time.monotonic() - start), flush=True)
        file.write(list(PARTS))
    summary = file.write(list(PARTS))
    print(f"\n{summary}\n\nSaved: {file.path}")
    return int("NOT PROMISED" in summary)


def in_own_process(name: str, seconds: float) -> Found | None:
    """Return what a part finds, or that it failed; None if it takes longer than `seconds`.

    An error of a GPU ends the process that has it, and memory is free again after each part.
    """
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command_of(name), cwd=ROOT, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError):  # what it has started ends with it
            os.killpg(process.pid, signal.SIGKILL)
    if process.returncode == 0:
        return Found.from_values(json.loads(output.splitlines()[-1]))
    said = errors.strip().splitlines() or [f"exit code {process.returncode}"]
    return Found([Finding(name, "no error", said[-1], False)], [], said[-20:])


def command_of(part: str) -> list[str]:
    """Return the command that makes one part."""
    return [sys.executable, "-m", "benchmarks.gpu_check", "--part", part]


if __name__ == "__main__":
    with one_line_errors():
        code = main()
    sys.exit(code)
