"""The pages are true: their examples run, their commands parse, their links lead somewhere."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.inr import InrConfig
from cli.language import LanguageConfig
from cli.parser import parse as parse_command
from cli.table import TableConfig
from cli.vision import VisionConfig
from experiments.grid import read_grid

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS)
}
CONFIGS = {
    "vision_main.py": VisionConfig,
    "language_main.py": LanguageConfig,
    "table_main.py": TableConfig,
    "inr_main.py": InrConfig,
}
PROGRAMS = (*CONFIGS, "sweep.py", "report.py", "benchmark.py", "evaluate_lm.py", "export.py",
            "battery.py")  # fmt: skip
# The job scripts hand their arguments on.
JOBS = {
    "bash/vision.sbatch": "vision_main.py",
    "bash/language.sbatch": "language_main.py",
    "bash/inr.sbatch": "inr_main.py",
    "bash/sweep.sbatch": "sweep.py",
    "bash/battery.sbatch": "battery.py",
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `line` is that of its first line."""

    page: str
    language: str
    text: str
    line: int


def blocks(page: str, *languages: str) -> list[Block]:
    """Return the fenced blocks of a page, of these languages or of all."""
    text = PAGES[page]
    found = [
        Block(page, match[1], match[2], text.count("\n", 0, match.start(2)) + 1)
        for match in FENCE.finditer(text)
    ]
    return [block for block in found if not languages or block.language in languages]


def test_the_readme_is_an_entrance():
    assert PAGES["README.md"].count("\n") <= 200


def test_there_are_examples():
    """An expression that finds nothing would pass every other test."""
    counts = {page: len(blocks(page, "python")) for page in PAGES}
    assert counts["README.md"] >= 1
    assert counts["docs/library.md"] >= 5
    assert sum(counts.values()) >= 9
    assert len(COMMANDS) >= 45
    assert {program for _, program, _ in COMMANDS} == set(PROGRAMS)
    assert len(LINKS) >= 90


# --- Python ---

# Runs in a process of its own: the blocks of a page in order, in one namespace. What a reader would
# look at next: that what was to go is gone, and that the page shows what is printed.
RUNNER = """
import contextlib, doctest, io, json, sys
from torch import nn

page, blocks = json.load(sys.stdin)
namespace = {"__name__": "example"}
for code, line, printed in blocks:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile("\\n" * (line - 1) + code, page, "exec"), namespace)
    for value in list(namespace.values()):
        if isinstance(value, nn.Module):
            assert not [m for m in value.modules() if isinstance(m, (nn.ReLU, nn.GELU))], value
            assert [m for m in value.modules() if type(m).__module__ == "zilu.modules"], value
    found, checker = output.getvalue(), doctest.OutputChecker()
    if printed is not None:
        same = checker.check_output(printed, found, doctest.ELLIPSIS)
        assert same, f"{page}:{line} prints\\n{found}and not\\n{printed}"
"""

OPTIONAL = {"timm": "timm", "transformers": "transformers", "onnxscript": r"torch\.onnx"}


def is_possible(block: Block) -> bool:
    """Return whether the optional packages that an example needs are installed."""
    needed = [name for name, sign in OPTIONAL.items() if re.search(sign, block.text)]
    return all(importlib.util.find_spec(name) for name in needed)


def printed_by(block: Block) -> str | None:
    """Return the `text` block that directly follows an example, if one does."""
    rest = PAGES[block.page].split("\n", block.line - 1)[-1].removeprefix(f"{block.text}```\n")
    match = re.match(r"\n```text\n(.*?)^```$", rest, re.DOTALL | re.MULTILINE)
    return match[1] if match else None


def run_examples(page: str, **variables: str) -> None:
    examples = [
        (block.text, block.line, printed_by(block))
        for block in blocks(page, "python")
        if is_possible(block)
    ]
    ran = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", RUNNER],
        input=json.dumps([page, examples]), capture_output=True, text=True, check=False, cwd=ROOT,
        env=os.environ | variables,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr


LONG = ("docs/library.md",)  # it compiles
PYTHON = [page for page in PAGES if blocks(page, "python")]


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] if page in LONG else []) for page in PYTHON],
)
def test_examples_run(page):
    run_examples(page, TORCH_COMPILE_DISABLE="1")  # half a minute of it; tests of their own compile


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any("torch.compile" in b.text for b in blocks(page))]
)
def test_examples_run_compiled(page):
    run_examples(page)


# --- commands ---


def parse(program: str, words: list[str]) -> None:
    """Parse a command's flags as its program does, and run nothing.

    Raises:
        UserError: a flag that the program would refuse.
    """
    if program in CONFIGS:
        command = parse_command(CONFIGS[program], "A program.", words)
        if "init_from" not in command.given:  # a folder of the reader's
            command.check()
        return
    importlib.import_module(program.removesuffix(".py")).parse(words)


def shell_commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command in lines of a shell, those in $( ) as well."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        command: list[str] = []
        for word in lexer:
            if set(word) <= set("();<>|&"):
                yield command
                command = []
            else:
                command.append(word)
        yield command


def program_commands(page: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield page, program and flags of each command that starts one of the programs."""
    for block in blocks(page, "sh", "bash"):
        for words in shell_commands(block.text):
            names = [JOBS.get(word, word) for word in words]
            start = next((i for i, name in enumerate(names) if name in PROGRAMS), None)
            if start is not None:
                yield page, names[start], words[start + 1 :]


COMMANDS = [command for page in PAGES for command in program_commands(page)]


@pytest.mark.parametrize(
    ("page", "program", "words"), COMMANDS, ids=[f"{c[0]}:{c[1]}" for c in COMMANDS]
)
def test_commands_parse(page, program, words, monkeypatch):
    monkeypatch.chdir(ROOT)
    # The reader has that run; here any file of flags stands for it.
    stand_in = {"Output/my_run/args.txt": "recipes/digits_demo.yaml"}
    parse(program, [stand_in.get(word, word) for word in words])


@pytest.mark.parametrize("page", PAGES)
def test_files_of_commands_exist(page):
    for block in blocks(page, "sh", "bash"):
        for words in shell_commands(block.text):
            for word in words:
                if re.match(r"(recipes|sweeps|bash|tests|\.ci)/|\w+\.py$", word):
                    assert (ROOT / word).exists(), word


@pytest.mark.parametrize("page", PAGES)
def test_inline_programs_compile(page):
    """`python -c "from dataset import load_text; ..."`: the names are there to import."""
    for block in blocks(page, "sh", "bash"):
        for words in shell_commands(block.text):
            if words[:2] == ["python", "-c"]:
                compile(words[2], page, "exec")
                for imported in re.findall(r"from \w+ import \w+", words[2]):
                    exec(imported)


@pytest.mark.parametrize(
    "block", [block for page in PAGES for block in blocks(page, "yaml")], ids=lambda b: b.page
)
def test_grid_files_are_valid(block, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = tmp_path / "grid.yaml"
    path.write_text(block.text, encoding="utf-8")
    assert len(read_grid(path).combinations) > 1


# --- links ---


def links(page: str) -> Iterator[tuple[str, str]]:
    """Yield page and target of each link and image that leads to a file or a heading."""
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", PAGES[page]))
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not re.match(r"https?:", target):
            yield page, target


LINKS = [link for page in PAGES for link in links(page)]


def anchors(text: str) -> set[str]:
    """Return the names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("page", "target"), LINKS)
def test_links_lead_somewhere(page, target):
    file, _, anchor = target.partition("#")
    path = (ROOT / page).parent / file if file else ROOT / page
    assert path.exists()
    if anchor:
        assert anchor in anchors(path.read_text(encoding="utf-8"))
