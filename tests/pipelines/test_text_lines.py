"""A text is cut into lines at the right places, and counted."""

import hashlib
import io
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.text import lines
from pipelines.text.lines import Tally, in_lines

# Words, line ends of several kinds, a byte order mark, characters of 1 to 4 bytes.
pieces = st.sampled_from(
    ["a", "bc", " ", "\n", "\r\n", "\r", "\t", "\x0b", "é", "世", "😀", "\ufeff"]
)
texts = st.lists(pieces, max_size=60).map("".join)


def blocks_of(data, size):
    return [data[i : i + size] for i in range(0, len(data), size)]


def lines_of(data, size):
    return [line for chunk in in_lines(blocks_of(data, size)) for line in chunk]


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 8)


@given(text=texts, size=st.integers(1, 40), other=st.integers(1, 40))
def test_lines_do_not_depend_on_how_the_text_is_read(text, size, other):
    found = lines_of(text.encode(), size)
    assert b"".join(found) == text.encode()
    assert found == lines_of(text.encode(), other)
    assert all(line.decode() for line in found)  # no character is cut


@given(text=texts, size=st.integers(1, 40))
def test_no_line_is_too_long_and_no_other_is_cut(text, size):
    found = lines_of(text.encode(), size)
    assert all(len(line) <= lines.MAX_LINE_BYTES for line in found)
    for line in io.BytesIO(text.encode()).readlines():
        pieces = [found.pop(0)]
        while b"".join(pieces) != line:
            pieces.append(found.pop(0))
        assert (len(pieces) == 1) == (len(line) <= lines.MAX_LINE_BYTES)


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("aaaa aa aaaa\n", ["aaaa aa", " aaaa\n"]),
        ("aaaa aaa aaaa\n", ["aaaa aaa", " aaaa\n"]),  # the space is the ninth byte
        (" aaaaaaaaaa", [" aaaaaaa", "aaa"]),  # no empty piece
        ("aaaaaaaaaa", ["aaaaaaaa", "aa"]),
        ("aaaaaaaéa", ["aaaaaaa", "éa"]),
        ("aaaaaaa\n", ["aaaaaaa\n"]),
        ("aaaaaaaa\n", ["aaaaaaaa", "\n"]),
        ("😀😀😀", ["😀😀", "😀"]),
    ],
)
def test_where_a_long_line_is_cut(text, cut):
    assert [line.decode() for line in lines_of(text.encode(), 3)] == cut


def test_what_is_not_utf8_is_cut_all_the_same():
    assert lines_of(b"\x80" * 20, 6) == [b"\x80" * 8, b"\x80" * 8, b"\x80" * 4]


@given(text=texts, size=st.integers(1, 40))
def test_counts(text, size):
    data, tally = text.encode(), Tally()
    assert b"".join(tally.watch(blocks_of(data, size))) == data
    assert tally.bytes == len(data)
    assert tally.words == len(data.split()) + data.count(b"\n")
    assert tally.digest == hashlib.blake2b(data, digest_size=16).hexdigest()


def test_no_list_has_more_lines_than_memory_is_meant_for():
    text = b"\n" * (lines.MAX_LINES * 3 + 5)
    found = list(lines.in_lines([text]))
    assert b"".join(itertools.chain.from_iterable(found)) == text
    assert max(map(len, found)) == lines.MAX_LINES
