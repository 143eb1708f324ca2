"""Files of a Hugging Face repository: from its cache on this machine, else from the network."""

import os
from contextlib import suppress
from pathlib import Path

from pipelines.download import open_url


def fetch(repo_ids, repo_type, patterns, usable):
    """A folder with the files `patterns` of a repository, for which usable(folder) is true.

    repo_ids: the repository's names, today's first; a cache may know it by an older one.
    OSError, with the reason in one line, where there is none: at once where there is no network.
    """
    from huggingface_hub import snapshot_download

    for repo_id in repo_ids:
        with suppress(OSError):
            # No patterns: usable() alone says what has to be there.
            folder = snapshot_download(
                repo_id, repo_type=repo_type, allow_patterns=[], local_files_only=True
            )
            if usable(Path(folder)):
                return Path(folder)
    _probe(repo_ids[0], repo_type)
    print(f"downloading {', '.join(patterns)} of {repo_ids[0]} from Hugging Face")
    try:
        folder = snapshot_download(repo_ids[0], repo_type=repo_type, allow_patterns=patterns)
    except Exception as error:  # the hub's own, its HTTP library's, the system's
        raise OSError(one_line(error)) from None
    if not usable(Path(folder)):
        raise OSError(f"{repo_ids[0]} has no such files there")
    return Path(folder)


def _probe(repo_id, repo_type):
    """OSError where the hub cannot be asked. Its own client tries for minutes."""
    from huggingface_hub import constants

    for flag in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        if os.environ.get(flag, "").upper() in constants.ENV_VARS_TRUE_VALUES:
            raise OSError(f"{flag} is set")
    if constants.HF_HUB_OFFLINE:
        raise OSError("TRANSFORMERS_OFFLINE is set")
    try:
        open_url(f"{constants.ENDPOINT}/api/{repo_type}s/{repo_id}").close()
    except Exception as error:
        raise OSError(f"{constants.ENDPOINT}: {one_line(error)}") from None


def one_line(error):
    """The reason that an exception of somebody else's gives, as one line."""
    return " ".join(str(error).split()) or type(error).__name__
