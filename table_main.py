"""Train and evaluate an MLP on a table of numbers with any activation function.

    python table_main.py --dataset breast_cancer --activation ZiLU

Flags are checked, and --help answers, before torch is loaded. cli/table.py declares the flags,
tasks/table.py says what is the tables' own, and the loop is in train_eval.py.
"""

import sys

from cli.errors import one_line_errors
from cli.parser import parse
from cli.table import TableConfig
from training.session import open_session


def main(argv: list[str] | None = None) -> int:
    """Train, or evaluate with --test_only; return the exit code."""
    command = parse(TableConfig, __doc__, argv)
    command.check()
    with open_session(command) as session:
        from tasks.table import TableProgram  # loads torch

        return (TableProgram.train if session.trains else TableProgram.test)(session)


if __name__ == "__main__":
    with one_line_errors():
        code = main()
    sys.exit(code)
