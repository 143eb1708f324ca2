"""Read the tasks: grid files in small/ and full/, or in a folder of the user's own."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.datasets import (
    DEFAULT_DATA_PATH,
    IMAGE_FOLDERS,
    PACKAGED_TABLES,
    SAMPLE_PHOTOGRAPHS,
)
from experiments.grid import Grid, read_grid
from run_folder.metrics import METRICS, Metric
from utils import UserError, nearest

HERE = Path(__file__).parent
SIZES = ("small", "full")
NEEDED = ("baseline", "metric", "margin")  # in `report:`
ABOUT = ("title", "text", "diverged")


@dataclass(frozen=True)
class Task:
    """Hold one task.

    Attributes:
        name: of its file.
        path: the grid file.
        data_path: as the file has it, or --data_path in the place of ./Data in that.
        title: a few words.
        text: what it is, and why its margin is what it is.
        baseline: the label of the rival that the candidate is compared with first.
        margin: differences up to this count as equivalent.
        diverged: the metric of a network that learned nothing, which a run that diverged counts as;
            None where it counts as nothing, and its seed is left out.
        rivals: flags of each activation in the file.
        device, dataset: as the runs' flags have them.
    """

    name: str
    path: Path
    program: str
    data_path: str
    title: str
    text: str
    metric: Metric
    baseline: str
    margin: float
    diverged: float | None
    rivals: tuple[dict[str, Any], ...]
    device: str
    dataset: str


def size_name(size: str) -> str:
    """Return what the folders of a size's results are called."""
    return Path(size).resolve().name


def tasks_of(
    size: str, names: Collection[str] | None = None, data_path: str | None = None
) -> list[Task]:
    """Return the tasks of a size, in the order of their names.

    Args:
        size: one of SIZES, or a folder with grid files.
        names: those asked for; without them all.
        data_path: the folder that is to be taken for ./Data.

    Raises:
        UserError: there is no such size or task, or a file is no task.
    """
    folder = HERE / size if size in SIZES else Path(size)
    paths = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if not paths:
        raise UserError(f"--size {size}: must be small, full, or a folder with grid files (*.yaml)")
    for name in names or ():
        if name not in paths:
            raise UserError(f"--tasks: unknown task {name!r}; {nearest(name, paths)}")
    return [_task(path, data_path) for name, path in paths.items() if not names or name in names]


def check_data(tasks: list[Task]) -> None:
    """Refuse tasks whose images are not there, and are not downloaded by the programs.

    Raises:
        UserError: with the remedy.
    """
    for task in tasks:
        if task.dataset in IMAGE_FOLDERS and not (Path(task.data_path) / "train").is_dir():
            raise UserError(
                f"{task.name}: {task.data_path} holds no images (a folder train/ is missing); put "
                "them there, say where they are by --data_path, or leave the task out by --tasks"
            )


def _task(path: Path, data_path: str | None) -> Task:
    grid = read_grid(path, {"seed": "0"})
    for name in NEEDED:
        if name not in grid.report:
            raise UserError(f"{path}: a task of a battery needs `{name}:` in `report:`")
    if not grid.tune:
        raise UserError(f"{path}: a task of a battery needs `tune:`")
    for name in grid.about:
        if name not in ABOUT:
            raise UserError(f"{path}: unknown key {name!r} in `about:`; {nearest(name, ABOUT)}")
    first = grid.combinations[0]
    place = str(first["data_path"])
    if first["dataset"] in (*PACKAGED_TABLES, *SAMPLE_PHOTOGRAPHS):
        data_path = None  # they have no files, and their programs refuse the flag
    if data_path is not None and Path(place).is_relative_to(DEFAULT_DATA_PATH):
        place = str(Path(data_path) / Path(place).relative_to(DEFAULT_DATA_PATH))
    return Task(
        name=path.stem,
        path=path,
        program=grid.program,
        data_path=place,
        title=grid.about.get("title", path.stem),
        text=" ".join(grid.about.get("text", _comment(grid)).split()),
        metric=METRICS[grid.report["metric"]],
        baseline=grid.report["baseline"],
        margin=grid.report["margin"],
        diverged=_number(path, grid.about.get("diverged")),
        rivals=tuple(grid.combinations),
        device=first["device"],
        dataset=first["dataset"],
    )


def _comment(grid: Grid) -> str:
    """Return the comment that a grid file begins with."""
    lines = []
    for line in grid.text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def _number(path: Path, text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        raise UserError(f"{path}: diverged in `about:` must be a number, not {text!r}") from None
