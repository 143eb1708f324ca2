"""Hold the structure of the code: imports go down, few frames to the model, no stray Namespace."""

import ast
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the top down: a room imports rooms below it. Rooms in one row know nothing of each other.
LEVELS = [
    [
        "vision_main",
        "language_main",
        "table_main",
        "inr_main",
        "sweep",
        "report",
        "battery",
        "evaluate_lm",
        "export",
        "benchmark",
        "hubconf",
    ],
    ["batteries"],
    ["benchmarks", "analysis", "exporting"],
    ["experiments"],
    ["tasks"],
    ["training", "train_eval"],
    ["dataset"],
    ["pipelines", "run_folder"],
    ["cli"],
    ["models"],
    ["zilu", "utils"],
]
LEVEL = {room: number for number, row in enumerate(LEVELS) for room in row}
# The loop is the heart of training/, and stands beside it because users look for it there.
TOGETHER = {"training", "train_eval"}


def sources():
    """Return every file of the product with its syntax tree."""
    listed = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = [Path(name) for name in listed.stdout.split() if not name.startswith("tests/")]
    return {path: ast.parse((ROOT / path).read_text(encoding="utf-8")) for path in paths}


@pytest.fixture(scope="module")
def trees():
    found = sources()
    assert len(found) > 100
    return found


def test_every_file_stands_in_the_table_of_its_room(trees):
    """The docstring of each room's `__init__` names the files and the rooms in it."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = [Path(name) for name in listed.stdout.splitlines()]
    missing = []
    for room in (path.parent for path in trees if path.name == "__init__.py"):
        table = ast.get_docstring(trees[room / "__init__.py"])
        files = {each.name for each in paths if each.parent == room} - {"__init__.py", "py.typed"}
        rooms = {each.parts[len(room.parts)] + "/" for each in paths if room in each.parents[1:]}
        named = {*re.findall(r"`([\w.]+/?)`|^    (\w+\.py) ", table, re.MULTILINE)}
        missing += [f"{room}/{name}" for name in sorted((files | rooms) - {*sum(named, ())})]
    assert not missing, missing


def module_of(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(tree: ast.AST, modules: set[str]) -> list[tuple[str, int]]:
    """Return the modules of this project that a tree imports, with the line of each import."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            whole = [name if name in modules else node.module for name in names]
            found += [(name, node.lineno) for name in dict.fromkeys(whole)]
    return [(name, line) for name, line in found if name.split(".")[0] in LEVEL]


def test_every_room_has_a_level(trees):
    rooms = {path.parts[0].removesuffix(".py") for path in trees} - {"docs"}
    assert rooms == LEVEL.keys()


def test_imports_only_go_down(trees):
    modules = {module_of(path) for path in trees}
    upwards = []
    for path, tree in trees.items():
        room = path.parts[0].removesuffix(".py")
        for name, line in imports_of(tree, modules):
            other = name.split(".")[0]
            if room != other and {room, other} != TOGETHER and LEVEL.get(room, 0) >= LEVEL[other]:
                upwards.append(f"{path}:{line} imports {name}")
    assert not upwards, "\n".join(upwards)


def test_there_is_no_circle(trees):
    """No module imports itself by way of others, in a function or at the top."""
    modules = {module_of(path): path for path in trees}
    edges = {
        name: {other for other, _ in imports_of(trees[path], set(modules)) if other in modules}
        - {name}
        for name, path in modules.items()
    }
    done: set[str] = set()

    def visit(name, trail):
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for other in edges[name]:
                visit(other, [*trail, name])
            done.add(name)

    for name in edges:
        visit(name, [])


def test_a_namespace_stays_in_the_room_that_parses(trees):
    allowed = {Path("analysis/arguments.py")}  # which reads other code's printed Namespaces
    found = [
        str(path)
        for path in trees
        if path.parts[0] != "cli" and "Namespace" in (ROOT / path).read_text(encoding="utf-8")
    ]
    assert {Path(name) for name in found} <= allowed


def test_few_imports_stand_inside_functions(trees):
    """Each has its reason on its line, or on the one before."""
    counts, without_reason = Counter(), []
    for path, tree in trees.items():
        lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
        inside = {
            (node.lineno, node.end_lineno)
            for function in functions
            for node in ast.walk(function)
            if isinstance(node, (ast.Import, ast.ImportFrom))
        }
        counts[str(path)] = len(inside)
        previous, reason = 0, False
        for first, last in sorted(inside):
            block = reason and first == previous + 1  # several in a row share a reason
            reason = block or "#" in lines[last - 1] or lines[first - 2].strip().startswith("#")
            previous = last
            if not reason:
                without_reason.append(f"{path}:{first}")
    print(f"\nimports inside functions: {counts.total()}", {k: n for k, n in counts.items() if n})
    assert counts.total() < 40
    assert not without_reason, without_reason


def test_few_frames_stand_between_the_program_and_the_model(tmp_path):
    """Eight of ours, the program's own included, up to the call of the network."""
    code = (
        f"import sys, traceback, runpy; sys.path.insert(0, {str(ROOT)!r})\n"
        "from torch import nn\n"
        "import models.resnet\n"
        "def forward(self, images):\n"
        "    frames = traceback.extract_stack()\n"
        f"    ours = [f for f in frames if f.filename.startswith({str(ROOT)!r})\n"
        "            and '/.venv/' not in f.filename]\n"
        "    print('FRAMES', ' > '.join(f.name for f in ours), flush=True)\n"
        "    import os; os._exit(0)\n"
        "models.resnet.ResNet.forward = forward\n"
        "sys.argv = ['vision_main.py', '--dataset', 'digits', '--resize', '8', '--device', 'cpu',\n"
        f"            '--model', 'resnet20', '--output_dir', {str(tmp_path / 'run')!r}]\n"
        f"runpy.run_path({str(ROOT / 'vision_main.py')!r}, run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT,
        env=os.environ | {"ZILU_KERNELS": "plain"},
    )  # fmt: skip
    assert "FRAMES" in done.stdout, done.stderr
    names = done.stdout.split("FRAMES ")[1].split("\n")[0].split(" > ")
    print("\nframes:", " > ".join(names))
    assert len(names) <= 8


def test_the_walk_through_the_code_is_current():
    """docs/develop.md lists the files of the training path with their lines."""
    page = (ROOT / "docs/develop.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d \| \[(\S+)\]\(\S+\) \| (\d+) \|", page, re.MULTILINE)
    assert len(rows) == 9
    for name, lines in rows:
        there = (ROOT / name).read_text(encoding="utf-8").count("\n")
        assert abs(there - int(lines)) <= 20, f"{name} has {there} lines"
    assert sum(int(lines) for _, lines in rows) < 2000
