"""Find files of a Hugging Face repository: in its cache on this machine, else on the network."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.download import open_url


def fetch(
    repo_ids: Sequence[str],
    repo_type: str,
    patterns: Sequence[str],
    usable: Callable[[Path], bool],
) -> Path:
    """Return a folder with the files of a repository.

    Args:
        repo_ids: the repository's names, today's first; a cache may know it by an older one.
        repo_type: "model" or "dataset".
        patterns: which files to download, `*` standing for any part of a name.
        usable: says of a folder whether it holds what is needed.

    Raises:
        OSError: there is none, with the reason in one line; at once where there is no network.
    """
    snapshot_download = _library().snapshot_download
    for repo_id in repo_ids:
        with suppress(OSError):
            # No patterns: usable() alone says what has to be there.
            folder = snapshot_download(
                repo_id, repo_type=repo_type, allow_patterns=[], local_files_only=True
            )
            if usable(Path(folder)):
                return Path(folder)
    probe(repo_ids[0], repo_type)
    print(f"downloading {', '.join(patterns)} of {repo_ids[0]} from Hugging Face")
    try:
        folder = snapshot_download(repo_ids[0], repo_type=repo_type, allow_patterns=[*patterns])
    except Exception as error:  # the hub's own, its HTTP library's, the system's
        raise OSError(one_line(error)) from None
    if not usable(Path(folder)):
        raise OSError(f"{repo_ids[0]} has no such files there")
    return Path(folder)


def is_whole(repo_id: str, repo_type: str, patterns: Sequence[str]) -> bool:
    """Return whether the cache lacks none of these files, by the list of when it was downloaded.

    huggingface_hub keeps that list from its version 2 on; without one nothing is known to lack.
    """
    try:
        _library().snapshot_download(
            repo_id, repo_type=repo_type, allow_patterns=[*patterns], local_files_only=True
        )
    except OSError:
        return False
    return True


def probe(repo_id: str, repo_type: str) -> None:
    """Ask the hub for the repository once, since its own client tries for minutes.

    Raises:
        OSError: the hub cannot be asked.
    """
    constants = _library().constants
    for flag in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        if os.environ.get(flag, "").upper() in constants.ENV_VARS_TRUE_VALUES:
            raise OSError(f"{flag} is set")
    if constants.HF_HUB_OFFLINE:
        raise OSError("TRANSFORMERS_OFFLINE is set")
    try:
        open_url(f"{constants.ENDPOINT}/api/{repo_type}s/{repo_id}").close()
    except Exception as error:
        raise OSError(f"{constants.ENDPOINT}: {one_line(error)}") from None


def one_line(error: BaseException) -> str:
    """Return the reason that another package's exception gives, as one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _library() -> Any:
    import huggingface_hub.constants  # slow, and not needed where the files are there

    return huggingface_hub
