"""Turn the lines of a text into ids, in bounded memory, whatever the size of the text.

`gpt2` and `bytes` are given line by line. The tokenizer of a folder may treat the start of what it
is given otherwise than the middle of a text (SentencePiece's put a space there), and may join white
space across line ends. Its ids are those of the whole text all the same: it is given windows, each
of which runs on into the next, and the text is cut inside the overlap, where both windows have the
same tokens on both sides.
"""

import sys
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from pipelines.text.tokenizer import FastTokenizer, Ids, Tokenizer

if TYPE_CHECKING:
    from tokenizers import Encoding

AHEAD = 2  # lists given to the tokenizer while the one before is written
WINDOW = 2**16  # characters of a window without its overlap, at least
OVERLAP = 2**10  # characters, half of which two windows must have the same tokens of
LONG = 2**20  # characters of a document, beyond which it is given in windows too
WINDOWS = 16  # given to the library at once, which takes a thread for each

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Encoded:
    """Hold the ids of a part of a text.

    Attributes:
        ids: the tokens.
        size: bytes of the text, roughly, for the progress bar.
        lossless: decoding gives the text back.
    """

    ids: Ids
    size: int
    lossless: bool = True


def encode(chunks: Iterable[list[bytes]], encoder: Tokenizer) -> Iterator[Encoded]:
    """Yield the ids of a text, which comes in lists of lines, part by part.

    Raises:
        UnicodeDecodeError: the text is not UTF-8 and has to be; `start` is the place in it.
    """
    if isinstance(encoder, FastTokenizer) and not encoder.by_lines:
        return _of_the_whole(chunks, encoder)
    return _by_lines(chunks, encoder)


def _by_lines(chunks: Iterable[list[bytes]], encoder: Tokenizer) -> Iterator[Encoded]:
    done = 0
    for lines, ids in computed_ahead(encoder.encode_lines, chunks):
        try:
            yield Encoded(ids.result(), sum(map(len, lines)))
        except UnicodeDecodeError:
            _decode(b"".join(lines), done)
            raise
        done += sum(map(len, lines))


def encode_documents(texts: Sequence[str], encoder: Tokenizer) -> list[Encoded]:
    """Return the ids of each document, which are those of the whole of it, whatever its length."""
    if not isinstance(encoder, FastTokenizer):
        return [Encoded(encoder.encode_lines([text.encode()]), len(text)) for text in texts]
    short = iter(_of_each([text for text in texts if len(text) <= LONG], encoder))
    return [_of_one(text, encoder) if len(text) > LONG else next(short) for text in texts]


def _of_each(texts: list[str], encoder: FastTokenizer) -> list[Encoded]:
    if encoder.keeps_all:  # decoding is for nothing
        return [
            Encoded(ids, len(text)) for text, ids in zip(texts, encoder.ids_of(texts), strict=True)
        ]
    found = encoder.encode_texts(texts)
    return [
        Encoded(_ids(each, 0), len(text), _restores(_Window(text, "", True), back))
        for text, (each, back) in zip(texts, found, strict=True)
    ]


def _of_one(text: str, encoder: FastTokenizer) -> Encoded:
    parts = list(_of_the_whole([[text.encode()]], encoder))
    lossless = all(part.lossless for part in parts)
    return Encoded(np.concatenate([part.ids for part in parts]), len(text), lossless)


def computed_ahead(
    function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[tuple[Item, Future[Result]]]:
    """Yield each item, in order, with the future of what the function returns for it.

    While the library works on some items in its own threads, Python makes arrays of others'.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(AHEAD) as pool:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) > AHEAD:
                yield waiting.popleft()
        yield from waiting


def _decode(text: bytes, start: int) -> str:
    """Return the text; `start` is its place in the whole, for the error."""
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        error.start += start
        raise


# --- windows ---


@dataclass(frozen=True)
class _Window:
    """Hold a piece of a text, and some of what follows it."""

    piece: str
    overlap: str
    is_first: bool

    @property
    def text(self) -> str:
        return self.piece + self.overlap

    @property
    def size(self) -> int:
        return len(self.piece.encode())


def _of_the_whole(chunks: Iterable[list[bytes]], encoder: FastTokenizer) -> Iterator[Encoded]:
    """Yield the ids that the tokenizer gives for the whole text."""

    def encoded(windows: list[_Window]) -> list[tuple["Encoding", bool]]:
        found = encoder.encode_texts([window.text for window in windows])
        return [(each, _restores(w, back)) for w, (each, back) in zip(windows, found, strict=True)]

    batches = _in_batches(_windows(_pieces(chunks)))
    found = (
        (window, *result)
        for windows, results in computed_ahead(encoded, batches)
        for window, result in zip(windows, results.result(), strict=True)
    )
    start, misfits = 0, 0  # where the window's tokens begin that are not the window's before
    window, encoding, lossless = next(found)  # no text is empty: corpora.check
    for next_window, next_encoding, next_lossless in found:
        seam = _seam(window.piece, encoding, next_window.piece, next_encoding, encoder)
        misfits += seam is None
        left, stop = seam or (encoder.encode_texts([window.piece])[0][0], 0)
        yield Encoded(_ids(left, start, len(window.piece) + stop), window.size, lossless)
        window, encoding, lossless, start = next_window, next_encoding, next_lossless, stop
    yield Encoded(_ids(encoding, start), window.size, lossless)
    if misfits:
        print(
            f"warning: --tokenizer {encoder.label}: at {misfits} place(s) the tokens depend on more"
            f" than {WINDOW:,} characters before them, as in a run of one character; the text was"
            " cut there, and its tokens are not quite those of the whole",
            file=sys.stderr,
        )


def _pieces(chunks: Iterable[list[bytes]]) -> Iterator[str]:
    """Cut the text into pieces of WINDOW characters or more; they depend on the text alone."""
    held: list[str] = []
    size = done = 0
    for line in chain.from_iterable(chunks):
        text = _decode(line, done)
        done += len(line)
        for start in range(0, len(text), WINDOW):
            held.append(text[start : start + WINDOW])
            size += len(held[-1])
            if size >= WINDOW:
                yield "".join(held)
                held, size = [], 0
    if held:
        yield "".join(held)


def _windows(pieces: Iterator[str]) -> Iterator[_Window]:
    """Yield each piece with the start of the next."""
    piece, is_first = next(pieces, None), True
    while piece is not None:
        following = next(pieces, None)
        if following is not None and len(following) < OVERLAP:  # it is the last
            piece, following = piece + following, None
        yield _Window(piece, following[:OVERLAP] if following else "", is_first)
        piece, is_first = following, False


def _in_batches(windows: Iterator[_Window]) -> Iterator[list[_Window]]:
    while batch := list(islice(windows, WINDOWS)):
        yield batch


def _restores(window: _Window, decoded: str) -> bool:
    """Return whether the decoded tokens are the window's text, but near its ends.

    There a word may be cut that a neighbour has whole. At the ends of the whole text one space may
    differ: SentencePiece's tokenizers put one in front, or take it away.
    """
    margin = OVERLAP // 4
    text = window.text.removeprefix(" ") if window.is_first else window.text[margin:]
    text = text[:-margin] if window.overlap else text.removesuffix(" ")
    return text in decoded


def _ids(encoding: "Encoding", start: int, stop: int | None = None) -> Ids:
    """Return the tokens that begin at the characters from `start` to `stop`, or to the end."""
    last = len(encoding) if stop is None else _token_at(encoding, stop)
    return np.array(encoding.ids[_token_at(encoding, start) : last], np.uint32)


def _seam(
    piece: str, left: "Encoding", following: str, right: "Encoding", encoder: FastTokenizer
) -> tuple["Encoding", int] | None:
    """Find a place in the overlap of two windows around which they have the same tokens.

    Args:
        piece, following: the pieces of the text that the windows begin with.
        left, right: the tokens of the windows.
        encoder: makes the tokens of a larger window.

    Returns:
        The tokens of the left window, which may have been made larger, and the place: a number of
        characters from the end of `piece`. None where even the whole of `following` has none.
    """
    overlap = OVERLAP
    while True:
        place = overlap - OVERLAP // 2
        tokens = _tokens_around(right, place)
        if tokens and tokens == _tokens_around(left, len(piece) + place):
            return left, place
        if overlap >= len(following):
            return None
        overlap = min(2 * overlap, len(following))
        left, _ = encoder.encode_texts([piece + following[:overlap]])[0]


def _tokens_around(encoding: "Encoding", place: int) -> list[tuple[int, int]]:
    """Return id and start of the tokens around a place, [] where none begins on one side of it."""
    reach = OVERLAP // 4
    first, middle, last = (_token_at(encoding, place + x) for x in (-reach, 0, reach))
    if not first < middle < last:
        return []
    starts = (_start(encoding, token) - place for token in range(first, last))
    return list(zip(encoding.ids[first:last], starts, strict=True))


def _token_at(encoding: "Encoding", place: int) -> int:
    """Return the number of the first token that begins at character `place` or later."""
    return bisect_left(range(len(encoding)), place, key=lambda token: _start(encoding, token))


def _start(encoding: "Encoding", token: int) -> int:
    characters = encoding.token_to_chars(token)
    assert characters is not None, "no token is added by a template"
    return characters[0]
