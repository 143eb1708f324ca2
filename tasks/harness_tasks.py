"""Find lm_eval's tasks by name, and their data: in a folder of the user's, or on Hugging Face."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import lm_eval.tasks
from lm_eval.tasks import TaskManager

from pipelines import hub
from utils import UserError, did_you_mean, writable

ENDING = ".yaml"  # of task files
SPLITS = ("test_split", "validation_split", "training_split", "fewshot_split")
FORMS = {"jsonl": "json", "json": "json", "parquet": "parquet"}  # datasets' reader by the ending
LOCAL = (*FORMS.values(), "csv", "text", "arrow")  # data sets that are files and no repositories


def load_tasks(names: Sequence[str], folder: Path | None, scratch: Path) -> Any:
    """Return tasks and groups as `lm_eval.evaluate` takes them.

    Args:
        names: of tasks, groups or tags; or paths of task files, which bring their folders along.
        folder: the user's tasks and data; None for none.
        scratch: an empty folder, for files that are needed as long as the tasks are.

    Raises:
        UserError: a task or its data are missing, or damaged.
    """
    if folder is not None and not folder.is_dir():
        raise UserError(f"--task_data {folder}: no such folder")
    folder = None if folder is None else folder.resolve()
    files = {name: _task_file(name) for name in names if name.endswith(ENDING)}
    folders = [*dict.fromkeys(path.parent for path in files.values())]
    folders += [] if folder is None else [folder]
    if files:
        own = TaskManager(include_path=folders, include_defaults=False)
        named = [_named_in(own, files[name]) if name in files else name for name in names]
        names = [*dict.fromkeys(named)]
    manager = _manager(names, folders)
    for name in names:
        if name not in manager.task_index:
            near = did_you_mean(name, manager.all_tasks)
            hint = f"did you mean {near}? " if near else ""
            raise UserError(f"--tasks {name}: unknown task; {hint}`lm-eval ls tasks` lists all")
    for each in folders:
        _use_local_data(manager, each, scratch)
    specs = [_loaded(manager, name, folder) for name in names]
    try:
        return manager.load([each for spec in specs for each in spec])
    except ValueError as error:  # a task that two of the groups have
        raise UserError(f"--tasks {','.join(names)}: {hub.one_line(error)}") from None


def _task_file(name: str) -> Path:
    path = Path(name).expanduser().resolve()
    if not path.is_file():
        raise UserError(f"--tasks {name}: no such file; give a task's name, or its file's path")
    return path


def _named_in(manager: Any, path: Path) -> str:
    """Return the name of the task or group in a file.

    Raises:
        UserError: there is none, or a file beside it has the same one.
    """
    for name, entry in manager.task_index.items():
        if entry.yaml_path is not None and entry.yaml_path.resolve() == path:
            return str(name)
    raise UserError(
        f"--tasks {path}: is no task of lm_eval's, or has the name of another file's beside it; "
        "give it a `task:` of its own"
    )


def _manager(names: Sequence[str], folders: list[Path]) -> Any:
    """Return a manager that knows these names, of few files where that is possible.

    To read all of lm_eval's 14,000 files takes it a quarter of a minute; most tasks have a file of
    their name.
    """
    manager = TaskManager(include_path=folders, include_defaults=False)
    missing = [name for name in names if name not in manager.task_index]
    if missing:
        root = Path(lm_eval.tasks.__file__).parent
        found = [path.parent for path in root.rglob(f"*{ENDING}") if path.stem in missing]
        manager = TaskManager(include_path=[*found, *folders], include_defaults=False)
    entries = [manager.task_index.get(name) for name in names]
    if all(entry is not None and entry.kind.name.endswith("TASK") for entry in entries):
        return manager
    return TaskManager(include_path=folders)


# --- data of the user's ---


def _use_local_data(manager: Any, folder: Path, scratch: Path) -> None:
    """Let tasks read what `folder` has of their data: by files that include the tasks' own."""
    stems = {path.name.partition(".")[0] for path in folder.iterdir()}
    for name, entry in manager.task_index.items():
        if entry.yaml_path is None or not isinstance(entry.cfg, dict):
            continue
        files = _own_files(entry) or _local_files(name, entry.cfg, folder, stems)
        if not files:
            continue
        endings = {Path(each).suffix[1:] for paths in files.values() for each in paths}
        readers = {FORMS.get(ending) for ending in endings}
        if len(readers) != 1 or None in readers:
            raise UserError(f"--task_data {folder}: {name} has {', '.join(sorted(endings))} files; "
                            "give all as .jsonl or all as .parquet")  # fmt: skip
        changed = {
            "include": str(entry.yaml_path), "task": name, "dataset_path": readers.pop(),
            "dataset_name": None,
            "dataset_kwargs": {"data_files": files, "cache_dir": str(scratch / "cache")},
        }  # fmt: skip
        path = scratch / f"{len(list(scratch.iterdir()))}.yaml"
        path.write_text(json.dumps(changed), encoding="utf-8")  # JSON is YAML
        entry.yaml_path, entry.cfg = path, entry.cfg | changed


def _own_files(entry: Any) -> dict[str, list[str]]:
    """Return the files that a task names beside its own file, whose paths are relative to it."""
    config = entry.cfg
    files = (config.get("dataset_kwargs") or {}).get("data_files")
    if config.get("dataset_path") not in FORMS.values() or not isinstance(files, dict):
        return {}
    beside, found = Path(entry.yaml_path).parent, {}
    for split, paths in files.items():
        paths = [paths] if isinstance(paths, str) else paths
        found[split] = [str(beside / each) for each in paths]
        if not all(Path(each).is_file() for each in found[split]):
            return {}  # relative to where the program was started, or no files
    return found


def _local_files(
    name: str, config: dict[str, Any], folder: Path, stems: set[str]
) -> dict[str, list[str]]:
    """Return the files of each split of a task that `folder` has: FOLDER/TASK/SPLIT.jsonl.

    In place of the task's name may stand that of its data set, with its configuration below, as in
    a copy of its repository.
    """
    dataset = str(config.get("dataset_path") or "")
    variant = str(config.get("dataset_name") or "")
    short = dataset.rpartition("/")[2]
    if dataset in LOCAL or not stems & {name, short, dataset.partition("/")[0]}:
        return {}
    splits = [config[key] for key in SPLITS if isinstance(config.get(key), str)]
    for place in (name, f"{short}/{variant}", short, f"{dataset}/{variant}", dataset):
        found = {split: _split_files(folder / place, split) for split in dict.fromkeys(splits)}
        if found := {split: paths for split, paths in found.items() if paths}:
            return found
        alone = [folder / f"{place}.{ending}" for ending in FORMS]
        if splits and (paths := [str(path) for path in alone if path.is_file()]):
            return {splits[0]: paths[:1]}
    return {}


def _split_files(folder: Path, split: str) -> list[str]:
    for ending in FORMS:
        for pattern in (f"{split}.{ending}", f"{split}-*.{ending}", f"data/{split}-*.{ending}"):
            if paths := sorted(folder.glob(pattern)):
                return [str(path) for path in paths]
    return []


# --- loading ---


def _loaded(manager: Any, name: str, folder: Path | None) -> list[Any]:
    """Return the tasks of a name with their data, or its group.

    Raises:
        UserError: the data cannot be had, or a task is damaged.
    """
    entry = manager.task_index[name]
    config = entry.cfg if isinstance(entry.cfg, dict) else {}
    place = str(config.get("dataset_path") or "")
    reason = ""
    if place and place not in LOCAL and not Path(place).exists():
        try:
            hub.probe(place, "dataset")
        except OSError as error:  # there may be a copy in the library's cache; else it tries long
            reason = str(error)
            huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        loaded = manager.load([name])
    except Exception as error:  # of the library, of the task's own code, of its templates
        if not reason:
            raise UserError(
                f"--tasks {name}: cannot be loaded ({writable(hub.one_line(error))[:300]}); "
                f"see {entry.yaml_path or 'its files'}"
            ) from None
        split = next((config[key] for key in SPLITS if config.get(key)), "test")
        where = "--task_data FOLDER" if folder is None else f"--task_data {folder}"
        raise UserError(
            f"--tasks {name}: its data ({place}) are not here, and not available from Hugging Face "
            f"({reason}); give {where} with them as {name}/{split}.jsonl or .parquet in that folder"
        ) from None
    groups = loaded.get("groups") or {}
    return [groups[name]] if name in groups else list(loaded["tasks"].values())
