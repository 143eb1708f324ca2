"""Find run folders."""

import os
from pathlib import Path


def folders_below(path: Path) -> list[Path]:
    """Return `path` and all folders in it, through links too."""
    found: list[Path] = []
    seen: set[str] = set()
    for folder, names, _ in os.walk(path, followlinks=True):
        names.sort()
        found.append(Path(folder))
        # A link to a folder above would lead around for ever.
        names[:] = [name for name in names if os.path.realpath(Path(folder, name)) not in seen]
        seen.update(os.path.realpath(Path(folder, name)) for name in names)
    return found
