"""Say how good an activation is: `python battery.py --activation my_act.py:Squash`.

On a fixed set of tasks the activation and its rivals, ReLU, GELU and SiLU, have the learning rate
tuned with equal trials, then train with six seeds. The activation is compared with each task's
baseline, paired by seed, with more seeds until it is better, worse or equivalent there, or
--max_seeds are used up. The same command goes on where one was stopped. The page is
Output/battery/SIZE/ACTIVATION/battery.html; --table writes docs/battery.md, of all activations.

Runs lie in Output/battery/SIZE/TASK/ACTIVATION, and report.py reads them as any sweep's.
batteries/small and batteries/full hold the tasks: grid files, which sweep.py runs alone too.
"""

import re
import sys
from pathlib import Path

from analysis.looks import FIRST, LAST
from batteries.options import Options
from cli.converters import activation_name, file_path, mapping, number, path
from cli.errors import one_line_errors
from cli.network import ACTIVATION_FLAGS
from cli.parser import checked, tool_parser
from utils import UserError
from zilu.names import check_sigma

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def main(argv: list[str] | None = None) -> int:
    """Run the battery, or what the flags ask for; return the exit code."""
    options = parse(argv)
    from batteries import command  # loads torch and scipy

    return command.run(options)


def parse(argv: list[str] | None) -> Options:
    """Read the command line.

    Raises:
        UserError: an unknown flag, a value that its flag refuses, or flags that contradict.
    """
    parser = tool_parser("%(prog)s --activation NAME [flags]", __doc__)
    add, where = parser.add_argument, checked(file_path)
    positive = checked(number(int, at_least=1))
    add("--activation", type=checked(activation_name), metavar="NAME",
        help="what is to be tried: ReLU2, or your own, my_act.py:Squash")  # fmt: skip
    add("--sigma", type=checked(check_sigma), metavar="VALUE", help="its sharpness (1)")
    add("--learn_sigma", action="store_true", help="make sigma a parameter of each layer")
    add("--expand_gate", action="store_true", help="widen its gate's range by a trained alpha")
    add("--activation_args", type=checked(mapping), metavar="VALUE",
        help="arguments of your own, as '{beta: 2}'")  # fmt: skip
    add("--gain", action="store_true",
        help="run it with its own initial gain too (--init_gain unit of the programs)")  # fmt: skip
    add("--size", default="small", type=checked(path), metavar="VALUE",
        help="small (no download), full (a GPU), or a folder with tasks (small)")  # fmt: skip
    add("--tasks", type=_names, metavar="A,B", help="these tasks alone (all; --list names them)")
    add("--data_path", type=checked(path), metavar="VALUE",
        help="folder of the data of the full size (./Data)")  # fmt: skip
    add("--max_seeds", type=checked(number(int, at_least=FIRST)), default=LAST,
        metavar="N", help=f"most seeds of a comparison ({LAST})")  # fmt: skip
    add("--budget", type=checked(seconds), metavar="TIME",
        help="add no seeds to the first six after this time: 45m, 3h (none)")  # fmt: skip
    add("--jobs", type=positive, metavar="N", help="runs at a time (one per GPU, else per CPU)")
    add("--output_dir", type=where, default=Path("Output/battery"), metavar="VALUE",
        help="folder of runs and pages (./Output/battery)")  # fmt: skip
    add("--records", type=where, default=Path("docs/battery"), metavar="VALUE",
        help="folder of the records of finished runs (./docs/battery)")  # fmt: skip
    what = parser.add_mutually_exclusive_group()
    add = what.add_argument
    add("--list", action="store_true", help="show the tasks and how far they are")
    add("--dry_run", action="store_true", help="show the commands of the runs still to do")
    add("--table", action="store_true",
        help="keep finished runs as records, and write the page of all activations")  # fmt: skip
    add("--index", type=positive, metavar="K", help="do task K of --list alone, from 1")
    parser.add_argument("--folder", action="store_true",
                        help="with --index: print the folder of its log instead")  # fmt: skip
    given = vars(parser.parse_args(argv))
    settings = {name: given.pop(name) for name in ACTIVATION_FLAGS}
    candidate = {name: value for name, value in settings.items() if value not in (None, False)}
    if candidate and "activation" not in candidate:
        raise UserError(f"--{next(iter(candidate))} is of an activation; give --activation")
    options = Options(candidate=candidate, **given)
    options.check()
    return options


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def seconds(text: str) -> float:
    """Return a time such as 90s, 45m, 3h, 1h30m or 2d in seconds."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    found = sum(float(count) * UNITS[unit] for count, unit in parts)
    if "".join(count + unit for count, unit in parts) != text or not found:
        raise ValueError(f"expected a time as 90s, 45m, 3h or 1h30m, not {text!r}")
    return found


if __name__ == "__main__":
    with one_line_errors():
        code = main()
    sys.exit(code)
