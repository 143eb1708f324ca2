"""Load tokenizers by name: `gpt2`, `bytes`, or a folder with a tokenizer in Hugging Face's files.

GPT-2's is the byte-level byte-pair encoding of Radford et al. 2019.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from cli.datasets import holds_documents, source_name
from pipelines import hub
from pipelines.text.forms import reading
from utils import UserError, nearest

if TYPE_CHECKING:  # slow to import, and `bytes` needs none of it
    from tokenizers import Encoding
    from tokenizers import Tokenizer as Backend

Ids: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]  # (number of tokens,)
Vocabulary: TypeAlias = dict[str, int]
Merges: TypeAlias = list[tuple[str, str]]

KNOWN = ("gpt2", "bytes")

GPT2_REPOSITORIES = ("openai-community/gpt2", "gpt2")
GPT2_END_OF_TEXT = "<|endoftext|>"
GPT2_END_OF_TEXT_ID = 50_256  # the last one
# A hash of its vocabulary and its merges, not of the files that hold them: see _digest.
GPT2_FINGERPRINT = "031d296c7c33c915cd7fcc2015283b29"
BYTES_FINGERPRINT = hashlib.blake2b(b"bytes, end of text 256", digest_size=16).hexdigest()

# Part of the fingerprint of a folder's tokenizer: change it when the same files give other ids.
FOLDERS_RULE = b"the whole text"

_found: list[Path] = []  # where this process has found GPT-2's files, for texts in other folders

BPE_FILES = ["vocab.json", "merges.txt"]
# What AutoTokenizer reads; config.json only where tokenizer_config.json does not name the class.
AUTO_FILES = ("tokenizer.json", "tokenizer_config.json")
OTHER_FILES = ("special_tokens_map.json", "added_tokens.json", "vocab.txt", "*.model")


class Tokenizer(Protocol):
    """Describe what every tokenizer has.

    Attributes:
        label: the name it was asked for by.
        fingerprint: hex; two tokenizers with the same one give the same ids.
        vocab_size: how many ids there are, end of text included.
        end_of_text: the id that stands before and after a text.
    """

    label: str
    fingerprint: str
    vocab_size: int
    end_of_text: int

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text that the ids stand for."""
        ...

    def encode_lines(self, lines: Sequence[bytes]) -> Ids:
        """Return the ids of the lines, one after the other.

        Raises:
            UnicodeDecodeError: a line is not UTF-8 and has to be.
        """
        ...


def fingerprint(name: str) -> str:
    """Return the fingerprint of the tokenizer called `name`, without loading it.

    Raises:
        UserError: it is neither a known name nor a folder with a tokenizer.
    """
    if name == "gpt2":
        return GPT2_FINGERPRINT
    if name == "bytes":
        return BYTES_FINGERPRINT
    digest = hashlib.blake2b(FOLDERS_RULE, digest_size=16)
    for path in _files(name):
        with reading(path):
            content = path.read_bytes()
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(content).digest())
    return digest.hexdigest()


def sizes(name: str, data_path: str | Path) -> tuple[int, int]:
    """Return how many ids a tokenizer has, and the one that separates documents in token files.

    GPT-2's are known without its files.

    Raises:
        UserError: it is missing or broken, with the remedy.
    """
    if name == "gpt2":
        return GPT2_END_OF_TEXT_ID + 1, GPT2_END_OF_TEXT_ID
    encoder = load_for_token_files(name, data_path)
    return encoder.vocab_size, encoder.end_of_text


def load(name: str, data_path: str | Path) -> Tokenizer:
    """Load the tokenizer called `name`; data_path may have a folder gpt2/ with GPT-2's files.

    Raises:
        UserError: it is missing or broken, with the remedy.
    """
    if name == "bytes":
        return ByteTokenizer()
    return _load_gpt2(data_path) if name == "gpt2" else _load_folder(name)


def _as_utf8(text: str) -> bytes:
    """Encode a text; half of a surrogate pair becomes a `?`.

    A shell makes such halves of bytes that are no text.
    """
    return text.encode(errors="replace")


def load_for(dataset: str, name: str, data_path: str | Path) -> Tokenizer:
    """Load a tokenizer that gives the ids which the data set's texts had in training.

    Those of corpora of documents, and of the shards that other programs made of them, are of whole
    texts; others are GPT-2's of lines.

    Raises:
        UserError: it is missing or broken, with the remedy.
    """
    if source_name(dataset).library == "bin":
        return load_for_token_files(name, data_path)
    return (load_for_documents if holds_documents(dataset) else load)(name, data_path)


def load_for_documents(name: str, data_path: str | Path) -> Tokenizer:
    """Load a tokenizer that is given whole documents, special strings in them as any other text.

    Raises:
        UserError: it is missing or broken, with the remedy.
    """
    encoder = load(name, data_path)
    if isinstance(encoder, FastTokenizer):
        encoder.take_documents()
    return encoder


def load_for_token_files(name: str, data_path: str | Path) -> Tokenizer:
    """Load a tokenizer whose end of text is what separates documents in files of tokens.

    Raises:
        UserError: it is missing or broken, with the remedy.
    """
    encoder = load_for_documents(name, data_path)
    if isinstance(encoder, FastTokenizer):
        encoder.separate_by_beginnings()
    return encoder


class ByteTokenizer:
    """Make a token of every byte of the UTF-8 text."""

    label, fingerprint, vocab_size, end_of_text = "bytes", BYTES_FINGERPRINT, 257, 256

    def encode(self, text: str) -> list[int]:
        return self.encode_lines([_as_utf8(text)]).tolist()

    def decode(self, ids: Sequence[int]) -> str:
        """Show end of text as GPT-2's tokenizer does, and bytes that are not UTF-8 as U+FFFD."""
        text = b"".join(bytes([i]) if i < 256 else GPT2_END_OF_TEXT.encode() for i in ids)
        return text.decode(errors="replace")

    def encode_lines(self, lines: Sequence[bytes]) -> Ids:
        return np.frombuffer(b"".join(lines), np.uint8)


class FastTokenizer:
    """Wrap a `tokenizers.Tokenizer`, which works in Rust with a thread per processor.

    Attributes:
        by_lines: the ids of a text are those of its lines, as published results on WikiText have
            them with GPT-2's tokenizer; else those that the library gives for the whole text.
        reads_special_as_text: a special string in a text is text like any other.
        keeps_all: its tokens are known to give every text back.
    """

    def __init__(
        self,
        backend: "Backend",
        label: str,
        fingerprint: str,
        end_of_text: int,
        by_lines: bool = False,
    ):
        # The library asks at its first use, and takes one thread where it is not told.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        # Its files may ask for texts cut or filled up to a model's length.
        backend.no_truncation()
        backend.no_padding()
        if hasattr(backend.decoder, "cleanup"):  # WordPiece's would join "a ." to "a."
            backend.decoder.cleanup = False
        self._backend = backend
        self.label, self.fingerprint, self.end_of_text = label, fingerprint, end_of_text
        self.by_lines = self.keeps_all = by_lines  # GPT-2's does both
        self.reads_special_as_text = False
        # Ids may have gaps; an embedding needs a row for the largest.
        self.vocab_size = max(backend.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, as texts for training are encoded."""
        content = _as_utf8(text)
        if self.by_lines:
            return self.encode_lines(io.BytesIO(content).readlines()).tolist()
        return self._backend.encode(content.decode(), add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._backend.decode(ids, skip_special_tokens=False)

    def serialised(self) -> str:
        """Return it as the text of a tokenizer.json."""
        return self._backend.to_str()

    def encode_lines(self, lines: Sequence[bytes]) -> Ids:
        texts = [line.decode() for line in lines]
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        ids = chain.from_iterable(encoding.ids for encoding in encodings)
        return np.fromiter(ids, np.uint32)

    def take_documents(self) -> None:
        """Encode whole texts from now on, as tiktoken's `encode_ordinary` does."""
        self._backend.encode_special_tokens = self.reads_special_as_text = True
        self.by_lines = False

    def separate_by_beginnings(self) -> None:
        """Take the token that the tokenizer puts in front of every text, if any, as end of text.

        llm.c does: it writes `tokenizer.encode('')[0]` in front of each of Llama 3's documents.
        """
        empty = self._backend.encode("")
        if 1 in empty.special_tokens_mask[:1]:
            self.end_of_text = empty.ids[0]

    def ids_of(self, texts: Sequence[str]) -> list[Ids]:
        """Return the ids of each text by itself."""
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, np.uint32) for encoding in encodings]

    def encode_texts(self, texts: Sequence[str]) -> list[tuple["Encoding", str]]:
        """Return the tokens of each text by itself, and what they are decoded to."""
        encodings = self._backend.encode_batch(texts, add_special_tokens=False)
        ids = [encoding.ids for encoding in encodings]
        decoded = self._backend.decode_batch(ids, skip_special_tokens=False)
        return list(zip(encodings, decoded, strict=True))


def _load_gpt2(data_path: str | Path) -> Tokenizer:
    folder = Path(data_path, "gpt2")
    if not _has_gpt2(folder) and _found:
        folder = _found[-1]  # its fingerprint is checked there too
    if not _has_gpt2(folder):
        try:
            folder = hub.fetch(GPT2_REPOSITORIES, "model", BPE_FILES, _has_gpt2)
        except OSError as error:
            raise UserError(
                f"--tokenizer gpt2: no vocab.json and merges.txt in {folder}, and not available"
                f" from Hugging Face ({error}); copy them there from"
                f" https://huggingface.co/{GPT2_REPOSITORIES[0]}, or take --tokenizer bytes"
            ) from None
    vocabulary, merges = _read_bpe(folder)
    if _digest(vocabulary, merges) != GPT2_FINGERPRINT:
        raise UserError(
            f"{folder}: holds another tokenizer than GPT-2's, or a damaged one; pass it as"
            f" --tokenizer {folder}, or put GPT-2's vocab.json and merges.txt there"
        )
    _found.append(folder)
    return _byte_level("gpt2", GPT2_FINGERPRINT, vocabulary, merges, by_lines=True)


def _has_gpt2(folder: Path) -> bool:
    return _has_bpe(folder) or (folder / "tokenizer.json").is_file()


def _has_bpe(folder: Path) -> bool:
    return all((folder / name).is_file() for name in BPE_FILES)


def _read_bpe(folder: Path) -> tuple[Vocabulary, Merges]:
    """Read the vocabulary and the merges of a byte-pair encoding."""
    try:
        if _has_bpe(folder):
            return _library().models.BPE.read_file(*(str(folder / name) for name in BPE_FILES))
        model = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]
        pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
        return model["vocab"], [tuple(pair) for pair in pairs]
    except Exception as error:  # the library raises bare Exceptions
        raise _unreadable(folder, error) from None


def _library() -> Any:
    import tokenizers  # tokens in a cache are read without it

    return tokenizers


def _unreadable(folder: str | Path, error: Exception) -> UserError:
    return UserError(
        f"{folder}: its tokenizer cannot be read ({hub.one_line(error)}); download the files again"
    )


def _digest(vocabulary: Vocabulary, merges: Iterable[tuple[str, str]]) -> str:
    facts = json.dumps([sorted(vocabulary.items()), [list(pair) for pair in merges]])
    return hashlib.blake2b(facts.encode(), digest_size=16).hexdigest()


def _byte_level(
    label: str, fingerprint: str, vocabulary: Vocabulary, merges: Merges, by_lines: bool = False
) -> FastTokenizer:
    """Build what GPT2TokenizerFast is, without the seconds that importing transformers takes."""
    library = _library()
    backend = library.Tokenizer(library.models.BPE(vocabulary, merges))
    backend.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = library.decoders.ByteLevel()
    backend.add_special_tokens([GPT2_END_OF_TEXT])
    end_of_text = backend.token_to_id(GPT2_END_OF_TEXT)
    assert end_of_text is not None, "it has just been added"
    return FastTokenizer(backend, label, fingerprint, end_of_text, by_lines)


def _files(name: str) -> list[Path]:
    """Return the files in the folder `name` that its tokenizer depends on.

    Raises:
        UserError: there is no such folder, or no tokenizer in it.
    """
    folder = Path(name)
    if not folder.is_dir():
        raise UserError(
            f"--tokenizer {name}: no such folder; {nearest(str(name), KNOWN)}, or a folder"
        )
    found = [folder / file for file in AUTO_FILES if (folder / file).is_file()]
    if not found and _has_bpe(folder):
        return [folder / file for file in BPE_FILES]
    if not found:
        raise UserError(
            f"--tokenizer {name}: the folder has no tokenizer.json, tokenizer_config.json, or"
            " vocab.json with merges.txt"
        )
    names = [*BPE_FILES, *OTHER_FILES]
    if AUTO_FILES[1] not in [path.name for path in found]:
        names.append("config.json")
    return found + [path for name in names for path in sorted(folder.glob(name))]


def _load_folder(name: str) -> Tokenizer:
    found = _files(name)
    if found[0].name == BPE_FILES[0]:
        return _byte_level(name, fingerprint(name), *_read_bpe(Path(name)))
    from transformers import AutoTokenizer  # takes seconds

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=True)
    except Exception as error:  # any of its two hundred classes may raise anything
        raise _unreadable(name, error) from None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"--tokenizer {name}: {type(tokenizer).__name__} is not a fast tokenizer; it needs a"
            " tokenizer.json (AutoTokenizer's save_pretrained writes one)"
        )
    end_of_text = tokenizer.eos_token_id
    end_of_text = tokenizer.bos_token_id if end_of_text is None else end_of_text
    if end_of_text is None:
        raise UserError(
            f"--tokenizer {name}: has no end of text; name its eos_token in tokenizer_config.json"
        )
    return FastTokenizer(backend, name, fingerprint(name), end_of_text)
