"""Fit an image by a network of its coordinates, with any activation function, measured by PSNR.

    python inr_main.py --dataset china --encoding fourier --activation ZiLU

Flags are checked, and --help answers, before torch is loaded. cli/inr.py declares the flags,
tasks/inr.py says what is fitting's own, and the loop is in train_eval.py.
"""

import sys

from cli.errors import one_line_errors
from cli.inr import InrConfig
from cli.parser import parse
from training.session import open_session


def main(argv: list[str] | None = None) -> int:
    """Train, or evaluate with --test_only; return the exit code."""
    command = parse(InrConfig, __doc__, argv)
    command.check()
    with open_session(command) as session:
        from tasks.inr import InrProgram  # loads torch

        return (InrProgram.train if session.trains else InrProgram.test)(session)


if __name__ == "__main__":
    with one_line_errors():
        code = main()
    sys.exit(code)
