"""Load Hugging Face's `datasets`, and turn what it raises into errors for users."""

import importlib
import importlib.util
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines import hub
from utils import UserError, printable

SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk writes
SHARD = re.compile(r"(.*)-\d+-of-(\d+)\.(parquet|arrow)")
REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")


def load() -> Any:
    """Return the module `datasets`.

    Raises:
        UserError: it is not installed.
    """
    if importlib.util.find_spec("datasets") is None:
        raise UserError("this data set is read by datasets, which is not installed: pip install it")
    return importlib.import_module("datasets")  # slow, and needed for these sets alone


@contextmanager
def one_line(origin: str) -> Iterator[None]:
    """Turn what `datasets` and those below it raise into one line."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        cause = error.__cause__ or error  # DatasetGenerationError alone says nothing
        raise UserError(
            f"{origin}: cannot be loaded ({hub.one_line(cause)[:400]}); if a file is damaged, copy"
            " or download it again"
        ) from None


def check_all_shards(folder: Path) -> None:
    """Refuse a folder in which a part of a split is missing, by the names of the files."""
    matches = [SHARD.fullmatch(str(path)) for path in folder.rglob("*.parquet")]
    counts = Counter((match[1], int(match[2])) for match in matches if match)
    for (stem, of), count in counts.items():
        if count != of:
            raise UserError(
                f"{printable(stem)}-*.parquet: {of} files belong together, of which {count} are"
                " there; copy all of them"
            )


@contextmanager
def offline(library: Any) -> Iterator[None]:
    """Keep `datasets` from asking the network, which it tries for minutes."""
    names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")  # the second up to datasets 2.20
    before = {
        name: getattr(library.config, name) for name in names if hasattr(library.config, name)
    }
    try:
        for name in before:
            setattr(library.config, name, True)
        yield
    finally:
        for name, value in before.items():
            setattr(library.config, name, value)
