"""Cut a text into lines, and count what is in it.

The tokens of `gpt2` are made line by line, so that they depend on the text alone and not on how it
was read. For running text they are the same ids as of the text as a whole; only where white space
goes on after a line end (blank lines, indentation) would GPT-2's tokenizer join some of it.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator

BLOCK_BYTES = 2**20  # read at once
MAX_LINE_BYTES = 2**20  # a line of 10 GB would fill the memory
MAX_LINES = 2**14  # in a list; a million short ones would fill it too, as the tokenizer's objects


def in_lines(blocks: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Yield lists of lines with their ends.

    Only "\\n" ends a line. A line of more than MAX_LINE_BYTES comes in pieces: cut before the last
    space that lets a piece fit, else between two characters.
    """
    rest = b""
    for block in blocks:
        lines = io.BytesIO(rest + block).readlines()
        pieces = [piece for line in lines for piece in _pieces(line)]
        rest = b"" if pieces[-1].endswith(b"\n") else pieces.pop()
        for start in range(0, len(pieces), MAX_LINES):
            yield pieces[start : start + MAX_LINES]
    if rest:
        yield [rest]


def _pieces(line: bytes) -> list[bytes]:
    """Cut a line that is too long.

    Every cut depends on the MAX_LINE_BYTES + 1 bytes before it alone, so that the start of a line
    of which more is still to be read is cut as the whole line would be.
    """
    pieces = []
    while len(line) > MAX_LINE_BYTES:
        end = line.rfind(b" ", 1, MAX_LINE_BYTES + 1)
        end = end if end > 0 else _character_start(line, MAX_LINE_BYTES)
        pieces.append(line[:end])
        line = line[end:]
    return [*pieces, line]


def _character_start(line: bytes, end: int) -> int:
    """Return `end`, or up to 3 bytes before it where that is inside a UTF-8 character."""
    starts = (i for i in range(end, max(end - 4, 0), -1) if line[i] & 0xC0 != 0x80)
    return next(starts, end)  # none: not UTF-8


def words_of(text: bytes) -> int:
    """Return how many words a text has: pieces between ASCII white space, and line ends."""
    return len(text.split()) + text.count(b"\n")


class Tally:
    """Count words and bytes of a text, and hash it, while its blocks are read.

    A word is a piece between ASCII white space; every line end is one more, as published results
    on WikiText count them.
    """

    def __init__(self) -> None:
        self.words = self.bytes = 0
        self._hash = hashlib.blake2b(digest_size=16)
        self._in_word = False

    @property
    def digest(self) -> str:
        """Return the hash of the blocks read so far."""
        return self._hash.hexdigest()

    def watch(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the same blocks, counted as they pass."""
        for block in blocks:
            self._hash.update(block)
            self.bytes += len(block)
            self.words += words_of(block)
            if self._in_word and not block[:1].isspace():
                self.words -= 1  # the last word of the block before goes on
            self._in_word = not block[-1:].isspace()
            yield block
