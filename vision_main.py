"""Train and evaluate a vision model with any activation function.

    python vision_main.py --model resnet20 --activation ZiLU --dataset cifar10

Flags are checked, and --help answers, before torch is loaded. cli/vision.py declares the flags,
tasks/vision.py says what is vision's own, and the loop is in train_eval.py.
"""

import sys

from cli.errors import one_line_errors
from cli.parser import parse
from cli.vision import VisionConfig
from training.session import open_session


def main(argv: list[str] | None = None) -> int:
    """Train, or evaluate with --test_only; return the exit code."""
    command = parse(VisionConfig, __doc__, argv)
    command.check()
    with open_session(command) as session:
        from tasks.vision import VisionProgram  # loads torch

        return (VisionProgram.train if session.trains else VisionProgram.test)(session)


if __name__ == "__main__":
    with one_line_errors():
        code = main()
    sys.exit(code)
