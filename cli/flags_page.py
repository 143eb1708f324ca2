"""Write docs/flags.md from the fields: `python -m cli.flags_page`."""

from pathlib import Path

from cli.config import Config
from cli.fields import GROUPS, Effect, Flag
from cli.inr import InrConfig
from cli.language import LanguageConfig
from cli.table import TableConfig
from cli.vision import VisionConfig

PAGE = Path(__file__).parents[1] / "docs/flags.md"
PROGRAMS: tuple[type[Config], ...] = (VisionConfig, LanguageConfig, TableConfig, InrConfig)
CHANGES = {
    Effect.RESULT: "result",
    Effect.ARITHMETIC: "arithmetic",
    Effect.NOTHING: "nothing",
}

HEAD = """# Flags

Every flag of the programs that train: `vision_main.py`, `language_main.py`, `table_main.py` and
`inr_main.py`. This page is made from the fields of the configuration (`cli/`) by
`python -m cli.flags_page`; a test keeps it current.

The columns **vision**, **language** and so on hold the default, or – where that program lacks the
flag; an empty default is explained in the text, in brackets. **Changes** says what a flag changes:
the *result*; the *arithmetic* alone, so that results agree to rounding; or *nothing*. Flags that
change the result must be the run's own where it is [resumed](resuming.md), and tell runs apart in
[reports](statistics.md).

## Values, in files too

With `--config FILE.yaml`, flags stand in a file as `flag: value`, and so they do in
[grid files](statistics.md#grid-files). A value there means what the same word means on the command
line: `012` is 12, `off` is a name where the flag wants one, and `1:30` is no number. Two things are
a file's own: `null` is the flag's default, and a flag that is on or off says `true`, `yes`, `on` or
`false`, `no`, `off`. A key that stands twice in a file, at any depth, is a mistake.

In a path, `~` or `~user` at the start is the home folder, and `$NAME` or `${NAME}` a variable of
the environment, also where no shell has read it (in a file, in `--output_dir=~/runs`). An unknown
user, or a variable that is not set, is a mistake: no folder comes to be called `~` or `$SCRATCH`.
`args.txt` and checkpoints record the path that it came to.
"""


def flags_page() -> str:
    """Return the text of docs/flags.md."""
    tables = [config.flags() for config in PROGRAMS]
    names = list(dict.fromkeys(name for table in tables for name in table))
    parts = [HEAD]
    kinds = " | ".join(config.KIND for config in PROGRAMS)
    for group in GROUPS:
        parts.append(
            f"\n## {group}\n\n| flag | {kinds} | changes | |\n|{'---|' * (len(PROGRAMS) + 3)}"
        )
        for name in names:
            found = [table.get(name) for table in tables]
            parts += _rows(group, name, found)
    return "\n".join(parts) + "\n"


def _rows(group: str, name: str, found: list[Flag | None]) -> list[str]:
    """Return a row for a flag, or one for each program where their explanations differ."""
    texts = dict.fromkeys(flag.help for flag in found if flag and flag.group == group)
    rows = []
    for text in texts:
        same = [flag if flag and flag.help == text else None for flag in found]
        defaults = " | ".join(flag.shown_default if flag else "–" for flag in same)
        effect = next(flag.effect for flag in same if flag)
        escaped = text.replace("|", "\\|")
        rows.append(f"| `--{name}` | {defaults} | {CHANGES[effect]} | {escaped} |")
    return rows


if __name__ == "__main__":
    PAGE.write_text(flags_page(), encoding="utf-8")
