"""Write a trained network for others: `python export.py Output/RUN --to hf FOLDER`.

hf writes a folder for Hugging Face's transformers, with tokenizer, card and the small module that
builds the network where this project is not installed; timm and torchvision a folder with a state
dict for their networks; onnx and pt2 (torch.export) a file for any runtime of theirs.

What is written is then loaded by a fresh process that has no part of this project, which must get
the same outputs. Nothing stays where that fails.
"""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

from cli.converters import activation_name, file_path
from cli.errors import one_line_errors
from cli.parser import checked, tool_parser
from run_folder.folder import RunFolder
from run_folder.status import DIVERGED, FINISHED, status_of
from utils import UserError, nearest

FORMATS = ("hf", "timm", "torchvision", "onnx", "pt2")
FILES = ("onnx", "pt2")  # the others are folders


@dataclass(frozen=True)
class Arguments:
    """Hold the command line.

    Attributes:
        run: A run folder, or a checkpoint.
        to: One of FORMATS.
        target: The folder or file to write.
        ema: Take the averaged weights.
        activation: The user's own activation of the run, whose code may then be run.
        overwrite: Replace an earlier export.
        check: Load what was written in a fresh process.
    """

    run: Path
    to: str
    target: Path
    ema: bool
    activation: str | None
    overwrite: bool
    check: bool


def main(argv: list[str] | None = None) -> int:
    """Export; return the exit code."""
    arguments = parse(argv)
    checkpoint = checkpoint_of(arguments.run)
    check_target(arguments)
    command = importlib.import_module("exporting.command")  # loads torch
    command.export(arguments, checkpoint)
    return 0


def parse(argv: list[str] | None) -> Arguments:
    """Read the command line.

    Raises:
        UserError: a flag is unknown, or a value is refused.
    """
    parser = tool_parser("%(prog)s RUN --to FORMAT FOLDER_OR_FILE [flags]", __doc__)
    where = checked(file_path)
    add = parser.add_argument
    add("run", type=where, metavar="RUN", help="run folder, or a checkpoint as it stands")
    add("target", type=where, metavar="FOLDER_OR_FILE", help="what to write")
    add("--to", required=True, metavar="FORMAT", help=", ".join(FORMATS))
    add("--ema", action="store_true", help="the averaged weights that --ema kept")
    add("--activation", type=checked(activation_name), metavar="NAME",
        help="the run's own activation, by its name: its code is run")  # fmt: skip
    add("--overwrite", action="store_true", help="replace an earlier export")
    add("--no_check", action="store_true", help="do not load it in a fresh process")
    given = parser.parse_args(argv)
    if given.to not in FORMATS:
        raise UserError(f"--to {given.to}: {nearest(given.to, FORMATS)}")
    return Arguments(
        run=given.run,
        to=given.to,
        target=given.target,
        ema=given.ema,
        activation=given.activation,
        overwrite=given.overwrite,
        check=not given.no_check,
    )


def checkpoint_of(run: Path) -> Path:
    """Return the checkpoint that RUN means: that of a finished run's folder, or the file itself.

    Raises:
        UserError: there is none, or the run has not ended well.
    """
    if run.is_file():
        return run
    if not run.is_dir():
        raise UserError(f"{run}: no such run folder; give the folder of a finished run")
    checkpoint = run / RunFolder.CHECKPOINT
    if not (run / RunFolder.ARGS).exists() or not checkpoint.exists():
        raise UserError(
            f"{run} is no run folder with {RunFolder.ARGS} and {RunFolder.CHECKPOINT}; give the "
            "folder of a finished run"
        )
    status = status_of(run)
    if status.kind == DIVERGED:
        raise UserError(f"{run} diverged ({status.reason}); export another run")
    if status.kind != FINISHED:
        raise UserError(
            f"{run} has not finished; go on with --resume, or export the checkpoint as it stands: "
            f"{checkpoint}"
        )
    return checkpoint


def check_target(arguments: Arguments) -> None:
    """Refuse a target of the wrong form, or one that is there and may not be replaced.

    Raises:
        UserError: with the remedy.
    """
    to, target = arguments.to, arguments.target
    if to in FILES and target.suffix != f".{to}":
        raise UserError(f"--to {to} writes one file, not {target}: name it {target.name}.{to}")
    if to not in FILES and target.suffix in (f".{name}" for name in FILES):
        raise UserError(f"--to {to} writes a folder, not {target}: --to {target.suffix[1:]}")
    if not (target.exists() or target.is_symlink()):
        return
    if not arguments.overwrite:
        raise UserError(f"{target} exists already; give --overwrite, or another name")
    if target.is_symlink() or target.is_dir() != (to not in FILES):
        raise UserError(f"{target} is not what --to {to} writes; give another name")
    is_ours = to in FILES or (target / "export.json").exists() or not any(target.iterdir())
    if not is_ours:
        raise UserError(f"{target} holds other things than an export; give another name")


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
