"""Save and load checkpoints: whole and verified, or refused."""

import os
import pickle
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch

from run_folder import shards
from utils import UserError, replacing

# --- saving ---


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Put `content`, plain values and tensors, in place of the checkpoint at `path`.

    The one before stays until the new one is whole and on the disk. Shards that the new one does
    not name are then removed.

    Raises:
        UserError: it cannot be written. The one before is still there.
    """
    with _kept_before(path), replacing(path, unique=False) as temporary:
        _write(temporary, content)
    _sync_folder(path.parent)
    shards.remove_others(path, content)


def save_rows(path: Path, name: str, rank: int, ranks: int, rows: dict[str, torch.Tensor]) -> None:
    """Write a process's rows for the checkpoint that is to be at `path`: see run_folder/shards.py.

    Args:
        path: of the checkpoint.
        name: of this save.
        rank: of the process, one of `ranks`.
        ranks: how many there are.
        rows: by the places of their tensors in the checkpoint.

    Raises:
        UserError: they cannot be written. The checkpoint before is still there.
    """
    file = shards.file_of(path, name, rank)
    with _kept_before(path):
        file.parent.mkdir(parents=True, exist_ok=True)
        _write(file, {"of": [name, rank, ranks], "tensors": rows})
    for folder in (file.parent, file.parent.parent):
        _sync_folder(folder)


@contextmanager
def _kept_before(path: Path) -> Iterator[None]:
    """Say that the checkpoint at `path` is still there, where the block cannot write.

    Raises:
        UserError: with the remedy.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        failure = _failed_write(error)
        if failure is None:
            raise
        kept = "the one before is kept" if path.exists() else "there is none before it"
        raise UserError(
            f"{path}: the checkpoint could not be saved ({failure.strerror or failure}), {kept}; "
            "make room and see that the folder can be written, then go on with --resume"
        ) from None


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write all of it to the disk, or raise.

    A file of Python's raises on a short write and says why; torch's own writer only finds its
    position unexpected.
    """
    with open(path, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


def _failed_write(error: BaseException | None) -> OSError | None:
    """Return the reason behind torch's "unexpected pos"; None where the disk is not to blame."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def _sync_folder(path: Path) -> None:
    """Make the new name survive a power cut, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# --- loading ---


def load_checkpoint(path: str | os.PathLike[str], whole: bool = True) -> dict[str, Any]:
    """Return what `save_checkpoint` wrote, its tensors on the CPU. No code in it is run.

    Args:
        path: the file.
        whole: put tensors that lie in shards together; otherwise leave the marks of them.

    Raises:
        UserError: it is missing, damaged, or not one of ours.
    """
    content = load_values(path, whole=whole)
    if not is_checkpoint(content):
        raise UserError(f"{path}: not a checkpoint of this project; give another")
    return content


def is_checkpoint(content: Any) -> bool:
    """Return whether the content of a file is what `save_checkpoint` writes."""
    return isinstance(content, dict) and {"settings", "model"} <= content.keys()


def shards_of(path: str | os.PathLike[str], content: Any) -> shards.Shards | None:
    """Return the shards that a checkpoint's content names; None where it has all in itself."""
    if not is_checkpoint(content) or shards.KEY not in content:
        return None
    return shards.Shards(Path(path), content, _load_rows)


def _load_rows(path: Path) -> Any:
    """Return the rows in a file, verified; they are read from the disk where they are used."""
    try:
        with open(path, "rb") as file:
            _verify(file)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # as in load_values
        raise UserError(
            f"{path}: not a readable part of a checkpoint ({_reason(error)}); put back a copy of it"
        ) from None


def load_values(
    path: str | os.PathLike[str], harmless: Collection[type] = (), whole: bool = True
) -> Any:
    """Return what torch.save wrote: plain values and tensors, on the CPU. No code in it is run.

    Args:
        path: the file.
        harmless: further classes that it may hold, such as that of parsed arguments. A file may
            then also be of the form before torch 1.6, which has no checksum.
        whole: see `load_checkpoint`.

    Raises:
        UserError: it is missing or damaged, or holds something else.
    """
    is_archive = True
    try:
        with open(path, "rb") as file, torch.serialization.safe_globals([*harmless]):
            is_archive = not harmless or zipfile.is_zipfile(file)
            if is_archive:
                _verify(file)
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give the path of a checkpoint.pt") from None
    except Exception as error:  # broken bytes lead the readers to many kinds
        other = "not whole, or it holds other things than plain values and tensors"
        reason = _reason(error) if is_archive else other
        remedy = "or torch.save(model.state_dict(), FILE)" if harmless else "or give another"
        raise UserError(
            f"{path}: not a readable checkpoint ({reason}); put back a copy of it, {remedy}"
        ) from None
    parts = shards_of(path, content) if whole else None
    return content if parts is None else parts.whole(content)


def _verify(file: IO[bytes]) -> None:
    """Refuse an archive that is not as torch.save wrote it: torch.load looks at no checksum.

    Raises:
        zipfile.BadZipFile and others: it is damaged.
    """
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len({member.filename for member in members}) < len(members):
            raise zipfile.BadZipFile("two parts have the same name")
        for member in members:
            if not _is_plain(member):
                raise zipfile.BadZipFile(f"{member.filename} is not as torch.save writes it")
        damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"{damaged} is damaged")


def _is_plain(member: zipfile.ZipInfo) -> bool:
    """Return whether an archive's member is a file, stored as it is.

    torch does not read a tensor that is marked as a folder: it returns what was in memory before.
    """
    stored = member.compress_type == zipfile.ZIP_STORED
    whole = member.compress_size == member.file_size
    is_folder = member.external_attr & 0x10  # an attribute of DOS
    return stored and whole and not is_folder


def _reason(error: Exception) -> str:
    """Return what is wrong, in one sentence."""
    if isinstance(error, pickle.UnpicklingError):  # whose advice is to load it all the same
        return "it holds other things than plain values and tensors"
    text = str(getattr(error, "strerror", None) or error)
    sentence = text.partition("\n")[0].partition(". ")[0]
    printable = "".join(filter(str.isprintable, sentence))  # it may quote the damage
    return printable or type(error).__name__
