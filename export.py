"""Write a trained network for others: `python export.py Output/RUN --to hf FOLDER`.

hf writes a folder for Hugging Face's transformers, with tokenizer, card and the small module that
builds the network where this project is not installed; timm and torchvision a folder with a state
dict for their networks; onnx and pt2 (torch.export) a file for any runtime of theirs.

What is written is then loaded by a fresh process that has no part of this project, which must get
the same outputs. Nothing stays where that fails.
"""

import importlib
import sys
from pathlib import Path

from cli.converters import activation_name, file_path
from cli.errors import one_line_errors
from cli.parser import checked, parsed_into, tool_parser
from exporting.options import FILES, FORMATS, Options
from run_folder.folder import RunFolder
from run_folder.status import DIVERGED, FINISHED, status_of
from utils import UserError, nearest


def main(argv: list[str] | None = None) -> int:
    """Export; return the exit code."""
    options = parse(argv)
    checkpoint = checkpoint_of(options.run)
    check_target(options)
    command = importlib.import_module("exporting.command")  # loads torch
    command.export(options, checkpoint)
    return 0


def parse(argv: list[str] | None) -> Options:
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
    add("--tokenizer", metavar="FOLDER",
        help="where the run's tokenizer is now, if it was moved (hf)")  # fmt: skip
    add("--data_path", metavar="FOLDER",
        help="folder of gpt2/, the tokenizer, if it was moved (hf)")  # fmt: skip
    add("--overwrite", action="store_true", help="replace an earlier export")
    add("--no_check", action="store_false", dest="check", help="do not load it in a fresh process")
    options = parsed_into(Options, parser, argv)
    if options.to not in FORMATS:
        raise UserError(f"--to {options.to}: {nearest(options.to, FORMATS)}")
    for name in ("tokenizer", "data_path"):
        if getattr(options, name) is not None and options.to != "hf":
            raise UserError(f"--{name}: --to {options.to} writes no tokenizer; leave out --{name}")
    return options


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


def check_target(options: Options) -> None:
    """Refuse a target of the wrong form, or one that is there and may not be replaced.

    Raises:
        UserError: with the remedy.
    """
    to, target = options.to, options.target
    if to in FILES and target.suffix != f".{to}":
        raise UserError(f"--to {to} writes one file, not {target}: name it {target.name}.{to}")
    if to not in FILES and target.suffix in (f".{name}" for name in FILES):
        raise UserError(f"--to {to} writes a folder, not {target}: --to {target.suffix[1:]}")
    if not (target.exists() or target.is_symlink()):
        return
    if not options.overwrite:
        raise UserError(f"{target} exists already; give --overwrite, or another name")
    if target.is_symlink() or target.is_dir() != (to not in FILES):
        raise UserError(f"{target} is not what --to {to} writes; give another name")
    is_ours = to in FILES or (target / "export.json").exists() or not any(target.iterdir())
    if not is_ours:
        raise UserError(f"{target} holds other things than an export; give another name")


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
