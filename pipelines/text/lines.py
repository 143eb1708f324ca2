"""A text as lines, and what is counted of it.

Tokens are made line by line, so that they depend on the text alone and not on how it was read. Of
running text GPT-2's tokenizer makes the same ids as a whole; only where white space goes on after a
line end (blank lines, indentation) would it join some of it.
"""

import hashlib
import io

BLOCK = 2**20  # bytes read at once
LONGEST = 2**20  # bytes of a line; one of 10 GB would fill the memory
MANY = 2**14  # lines in a list; a million short ones would too, as the tokenizer's objects


def in_lines(blocks):
    """Lists of lines with their ends.

    Only "\\n" ends a line. One of more than LONGEST bytes comes in pieces: cut before the last
    space that lets a piece fit, else between two characters.
    """
    rest = b""
    for block in blocks:
        lines = io.BytesIO(rest + block).readlines()
        pieces = [piece for line in lines for piece in _pieces(line)]
        rest = b"" if pieces[-1].endswith(b"\n") else pieces.pop()
        for start in range(0, len(pieces), MANY):
            yield pieces[start : start + MANY]
    if rest:
        yield [rest]


def _pieces(line):
    """Every cut depends on the LONGEST + 1 bytes before it alone: the start of a line that is
    still being read is cut as the whole line would be."""
    pieces = []
    while len(line) > LONGEST:
        end = line.rfind(b" ", 1, LONGEST + 1)
        end = end if end > 0 else _character_start(line, LONGEST)
        pieces.append(line[:end])
        line = line[end:]
    return [*pieces, line]


def _character_start(line, end):
    """`end`, or up to 3 bytes before it where that is inside a UTF-8 character."""
    starts = (i for i in range(end, max(end - 4, 0), -1) if line[i] & 0xC0 != 0x80)
    return next(starts, end)  # none: not UTF-8


class Tally:
    """What is known of a text once all its blocks went by: digest, words and bytes.

    A word is a piece between ASCII white space; every line end is one more, as published results
    on WikiText count them.
    """

    def __init__(self):
        self.words = self.bytes = 0
        self._hash = hashlib.blake2b(digest_size=16)
        self._in_word = False

    @property
    def digest(self):
        return self._hash.hexdigest()

    def watch(self, blocks):
        """The same blocks, counted on their way."""
        for block in blocks:
            self._hash.update(block)
            self.bytes += len(block)
            self.words += len(block.split()) + block.count(b"\n")
            if self._in_word and not block[:1].isspace():
                self.words -= 1  # the last word of the block before goes on
            self._in_word = not block[-1:].isspace()
            yield block
