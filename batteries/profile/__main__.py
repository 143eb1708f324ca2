"""Print what is found of an activation by computation, and draw the function.

The same is written into --output_dir: profile.md, profile.json, and figures/ (PNG, SVG, PDF).
With --cost, training steps are timed too: leave the machine alone meanwhile.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from analysis import drawing
from analysis.document import Document, plain
from batteries.profile import found
from batteries.profile.cost import ROUNDS
from batteries.profile.profile import arm_of, profile_of, with_cost
from batteries.profile.text import write
from cli.converters import file_path, positive_int
from cli.errors import one_line_errors
from cli.network import ACTIVATION_FLAGS
from cli.parser import checked, parsed_into, tool_parser
from training.devices import resolve_device
from utils import UserError, replacing, writable

DEFAULT_FOLDER = Path("Output") / "profile"


@dataclass(frozen=True)
class Options:
    """Hold the command line; `parse` explains the flags."""

    activation: str
    sigma: str
    learn_sigma: bool
    expand_gate: bool
    activation_args: str | None
    cost: bool
    rounds: int
    output_dir: Path


def main(argv: list[str] | None = None) -> int:
    """Compute, print and write a profile; return the exit code."""
    options = parse(argv)
    flags = {name: getattr(options, name) for name in ACTIVATION_FLAGS}
    arm = arm_of({name: value for name, value in flags.items() if value is not None})
    profile = profile_of(arm)
    if options.cost:
        profile = with_cost(profile, arm, resolve_device("cpu"), options.rounds)
    document = Document()
    document.heading(1, f"Profile: {plain(profile.label)}")
    write(document, profile, 2)
    print(document.markdown())
    save(profile, document, options.output_dir)
    return 0


def save(profile: found.Profile, document: Document, folder: Path) -> None:
    """Write the profile's files into a folder.

    Raises:
        UserError: it cannot be written.
    """
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        drawing.save(document.figures, folder / "figures")
        found.save(profile, folder / found.FILE)
        with replacing(folder / "profile.md") as path:
            path.write_text(writable(document.markdown()), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output_dir {folder}: cannot be written ({error.strerror})") from None
    print(f"Saved: {folder / 'profile.md'}, {found.FILE}, figures/")


def parse(argv: list[str] | None) -> Options:
    """Read the command line.

    Raises:
        UserError: a flag is unknown, or a value is refused.
    """
    parser = tool_parser("python -m batteries.profile --activation NAME [flags]", __doc__ or "")
    add = parser.add_argument
    add(
        "--activation", required=True, metavar="NAME", help="by name, or your own: my_act.py:Squash"
    )
    add("--sigma", default="1", metavar="VALUE", help="sharpness, where there is one (1)")
    add("--learn_sigma", action="store_true", help="σ is a parameter")
    add("--expand_gate", action="store_true", help="the gate's range is widened by a parameter")
    add("--activation_args", metavar="VALUE", help="arguments of your own: '{beta: 2}'")
    add("--cost", action="store_true", help="measure time and memory too, against GELU")
    add("--rounds", type=checked(positive_int), default=ROUNDS, metavar="VALUE",
        help=f"times that each is measured, for --cost ({ROUNDS})")  # fmt: skip
    add("--output_dir", type=checked(file_path), default=DEFAULT_FOLDER, metavar="VALUE",
        help=f"where to ({DEFAULT_FOLDER})")  # fmt: skip
    return parsed_into(Options, parser, argv)


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
