"""Runs a program and keeps a file that says what it is doing: `traced.py FILE MODULE FLAGS...`.

For a test that kills it at a random moment, and wants to know what the moment was.
"""

import importlib
import os
import sys
from pathlib import Path

PHASES = {"fit": "training", "evaluate": "evaluation", "_save": "saving"}


def main() -> None:
    path, module, *arguments = sys.argv[1:]
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    names = []

    def enter(name: str) -> None:
        names.append(name)
        os.pwrite(descriptor, name.ljust(16).encode(), 0)

    def leave() -> None:
        names.pop()
        os.pwrite(descriptor, names[-1].ljust(16).encode(), 0)

    def traced(function, phase: str):
        def wrapper(*args, **kwargs):
            enter(phase)
            try:
                return function(*args, **kwargs)
            finally:
                leave()

        return wrapper

    enter("start-up or end")
    sys.path.insert(0, str(Path(__file__).parents[2]))
    import train_eval
    from cli.errors import one_line_errors

    for name, phase in PHASES.items():
        setattr(train_eval.Trainer, name, traced(getattr(train_eval.Trainer, name), phase))
    sys.argv = [f"{module}.py", *arguments]
    with one_line_errors():
        code = importlib.import_module(module).main()
    sys.exit(code)


if __name__ == "__main__":
    main()
