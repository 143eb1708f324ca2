"""The cache of tokens is never stale, never half written, and enough by itself."""

import errno
import fcntl
import itertools
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipelines import hub, stamps
from pipelines.text import cache, corpora, token_folders, tokenizer
from utils import UserError, one_at_a_time

ROOT = Path(cache.__file__).parents[2]
TEXTS = {"train": "Some text.\n" * 50, "valid": "Other text,\nin two lines", "test": "The end.\n"}


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch):
    def fetch(*args):
        raise OSError("no network in tests")

    monkeypatch.setattr(hub, "fetch", fetch)


@pytest.fixture
def settled(monkeypatch):
    """Files are old enough for their stamps to be trusted as soon as they are written."""
    monkeypatch.setattr(stamps, "COARSE_TICK", -1)


@pytest.fixture
def encodings(monkeypatch):
    """Return a list that grows with every call of the byte tokenizer."""
    calls = []
    real = tokenizer.ByteTokenizer.encode_lines
    monkeypatch.setattr(
        tokenizer.ByteTokenizer, "encode_lines", lambda *args: calls.append(1) or real(*args)
    )
    return calls


def write(folder, **texts):
    for stem, text in {**TEXTS, **texts}.items():
        (folder / f"{stem}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())


def load(folder, name="text", tokenizer="bytes"):
    return cache.load(name, tokenizer, folder, progress=False)


def text_of(tokens, split="train"):
    ids = tokens.ids(split)
    assert ids[0] == tokens.meta["end_of_text"]
    return bytes(ids[1:].astype(np.uint8).tobytes())


def error_of(*args, **options):
    with pytest.raises(UserError) as caught:
        load(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def folders(folder):
    return sorted(path.name for path in (folder / "tokens").glob("*"))


class TestWhatIsKept:
    @pytest.mark.parametrize(
        "text", ["a\n", "a", "a\r\nb\r\n", "\ufeffa\n", "é世😀" * 9, "\n\n \n", "x" * 40, " " * 40]
    )
    @pytest.mark.parametrize("block", [1, 7])
    def test_every_byte(self, tmp_path, monkeypatch, text, block):
        monkeypatch.setattr("pipelines.text.forms.BLOCK_BYTES", block)
        monkeypatch.setattr("pipelines.text.lines.MAX_LINE_BYTES", 16)
        write(tmp_path, train=text)
        assert text_of(load(tmp_path)) == text.encode()

    def test_counts(self, tmp_path):
        write(tmp_path)
        counts = load(tmp_path).counts("val")
        assert counts == token_folders.Counts(tokens=24, words=5 + 1, bytes=24)

    def test_the_ids_stay_in_their_file(self, tmp_path):
        write(tmp_path)
        ids = load(tmp_path).ids("train")
        assert ids.dtype == np.uint16
        assert isinstance(ids.base, np.memmap)
        assert not ids.flags.writeable

    def test_large_vocabularies_take_four_bytes(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tokenizer.ByteTokenizer, "vocab_size", 2**16 + 1)
        write(tmp_path)
        assert load(tmp_path).ids("train").dtype == np.uint32

    def test_bytes_need_no_utf8_and_others_say_where(self, tmp_path, monkeypatch):
        monkeypatch.setattr("pipelines.text.forms.BLOCK_BYTES", 7)
        write(tmp_path, valid="é\n" * 20 + "x")
        data = (tmp_path / "valid.txt").read_bytes() + b"\xff\n"
        write(tmp_path, valid=data)
        assert text_of(load(tmp_path), "val") == data
        strict = tokenizer.ByteTokenizer.encode_lines
        monkeypatch.setattr(
            tokenizer.ByteTokenizer,
            "encode_lines",
            lambda self, lines: [line.decode() for line in lines] and strict(self, lines),
        )
        shutil.rmtree(tmp_path / "tokens")
        assert f"valid.txt: not UTF-8 at byte {len(data) - 2}" in error_of(tmp_path)
        assert folders(tmp_path) == []

    def test_a_text_without_tokens(self, tmp_path, monkeypatch):
        monkeypatch.setattr(
            tokenizer.ByteTokenizer, "encode_lines", lambda *args: np.array([], np.uint8)
        )
        write(tmp_path)
        assert "train.txt" in error_of(tmp_path)

    @pytest.mark.parametrize("stem", TEXTS)
    def test_an_empty_split(self, tmp_path, stem, encodings):
        write(tmp_path, **{stem: ""})
        assert f"{tmp_path / stem}.txt" in error_of(tmp_path)
        assert not encodings  # nor is time spent on the others

    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    def test_memory_does_not_grow_with_the_text(self, tmp_path):
        """The text has 60 MB in lines, then 60 MB in one line; either would show in the peak."""
        write(tmp_path)
        with open(tmp_path / "train.txt", "wb") as file:
            for _ in range(60):
                file.write(b"Sixteen letters.\n" * 61_680)
            for _ in range(60):
                file.write(b"Sixteen letters " * 65_536)
        code = (
            "import sys; from pipelines.text import cache;"
            "cache.load('text', 'bytes', sys.argv[1], False);"
            "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
        )
        assert int(run(code, tmp_path).split()[-1]) < 90_000  # KB; 35,000 of Python and numpy


def run(code, *args, **environment):
    """Run Python code in a process of its own; return its standard output."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip


class TestNeverStale:
    def test_a_hit_reads_no_text(self, tmp_path, monkeypatch, settled, encodings):
        write(tmp_path)
        first = load(tmp_path)
        monkeypatch.setattr(corpora.TextSplit, "blocks", None)
        encodings.clear()
        again = load(tmp_path)
        assert not encodings
        assert again.folder == first.folder
        assert text_of(again) == TEXTS["train"].encode()
        assert "its cache" in again.origin

    def test_a_new_file_is_read_again_but_not_tokenised(self, tmp_path, monkeypatch, encodings):
        """Within a tick of the clock a file may change without a change of its times."""
        write(tmp_path)
        load(tmp_path)
        encodings.clear()
        stat = (tmp_path / "valid.txt").stat()
        monkeypatch.setattr(corpora, "_stamp", lambda path: [str(path), 1, 1, stat.st_ctime_ns, 1])
        load(tmp_path)
        assert not encodings
        write(tmp_path, valid="Third text,\nin two lines")
        assert text_of(load(tmp_path), "val") == b"Third text,\nin two lines"

    def test_stamps_are_brought_up_to_date(self, tmp_path, monkeypatch, settled, encodings):
        write(tmp_path)
        load(tmp_path)
        write(tmp_path)  # the same text, later
        encodings.clear()
        load(tmp_path)
        assert not encodings
        monkeypatch.setattr(corpora.TextSplit, "blocks", None)
        load(tmp_path)

    @pytest.mark.parametrize("stem", TEXTS)
    def test_another_text_of_the_same_size_and_time(self, tmp_path, stem, settled):
        write(tmp_path)
        load(tmp_path)
        path = tmp_path / f"{stem}.txt"
        stat = path.stat()
        path.write_text(TEXTS[stem].replace("e", "a"))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert path.stat().st_mtime_ns == stat.st_mtime_ns
        split = {"valid": "val"}.get(stem, stem)
        assert text_of(load(tmp_path), split) == TEXTS[stem].replace("e", "a").encode()
        assert len(folders(tmp_path)) == 1  # the older one is gone

    def test_splits_are_not_mixed_up(self, tmp_path, settled):
        write(tmp_path)
        load(tmp_path)
        write(tmp_path, train=TEXTS["test"], test=TEXTS["train"])
        assert text_of(load(tmp_path)) == TEXTS["test"].encode()

    def test_another_tokenizer(self, tmp_path, monkeypatch, settled, encodings):
        write(tmp_path)
        first = load(tmp_path)
        monkeypatch.setattr(tokenizer, "BYTES_FINGERPRINT", "0123")
        encodings.clear()
        second = load(tmp_path)
        assert encodings
        assert second.meta["fingerprint"] == "0123"
        assert folders(tmp_path) == [second.folder.name] != [first.folder.name]

    def test_another_format(self, tmp_path, monkeypatch, settled, encodings):
        write(tmp_path)
        load(tmp_path)
        encodings.clear()
        monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
        load(tmp_path)
        assert encodings

    def test_tokenizers_and_corpora_live_side_by_side(self, tmp_path, monkeypatch, settled):
        write(tmp_path)
        load(tmp_path, name="pydoc")
        load(tmp_path)
        monkeypatch.setattr(tokenizer, "KNOWN", ("gpt2", "bytes", "others"))
        monkeypatch.setattr(tokenizer, "fingerprint", lambda name: name)
        monkeypatch.setattr(tokenizer, "load", lambda *args: tokenizer.ByteTokenizer())
        load(tmp_path, tokenizer="others")
        assert len(folders(tmp_path)) == 3


class TestWithoutTheText:
    def test_the_cache_is_enough(self, tmp_path, encodings):
        write(tmp_path)
        load(tmp_path)
        for stem in TEXTS:
            (tmp_path / f"{stem}.txt").unlink()
        encodings.clear()
        tokens = load(tmp_path)
        assert not encodings
        assert text_of(tokens) == TEXTS["train"].encode()
        assert tokens.origin == f"{tokens.folder} alone, made of {tmp_path}"

    def test_it_needs_no_library(self, tmp_path):
        """Tokens under GPT-2's fingerprint are read without what could make or fetch them."""
        write(tmp_path)
        made = load(tmp_path)
        meta = made.meta | {"tokenizer": "gpt2", "fingerprint": tokenizer.GPT2_FINGERPRINT}
        folder = tmp_path / "tokens" / f"text-gpt2-{token_folders.key_of(meta)}"
        made.folder.rename(folder)
        token_folders.write_meta(folder, meta)
        for stem in TEXTS:
            (tmp_path / f"{stem}.txt").unlink()
        code = (
            "import sys;"
            "sys.modules |= dict.fromkeys(('transformers', 'tokenizers', 'datasets', 'pyarrow',"
            " 'huggingface_hub', 'urllib.request', 'tqdm', 'torch'));"
            "from pipelines.text import cache;"
            "print(len(cache.load('text', 'gpt2', sys.argv[1]).ids('train')))"
        )
        assert int(run(code, tmp_path)) == len(TEXTS["train"]) + 1

    def test_a_part_of_the_text_is_an_error_all_the_same(self, tmp_path):
        write(tmp_path)
        load(tmp_path)
        (tmp_path / "valid.txt").unlink()
        assert f"{tmp_path / 'valid.txt'}: no such file" in error_of(tmp_path)


def cut(path):
    path.write_bytes(path.read_bytes()[:-2])


def damage_meta(path):
    def damage(folder):
        (folder / "meta.json").write_text(path)

    return damage


class TestNeverHalfThere:
    @pytest.mark.parametrize(
        "damage",
        [
            lambda folder: cut(folder / "val.bin"),
            lambda folder: (folder / "test.bin").unlink(),
            lambda folder: (folder / "meta.json").unlink(),
            damage_meta("{"),
            damage_meta("[]"),
            damage_meta("{}"),
            damage_meta('{"splits": 3}'),
            lambda folder: shutil.rmtree(folder) or folder.mkdir(),
        ],
    )
    def test_a_damaged_one_is_made_again(self, tmp_path, damage, settled, encodings):
        write(tmp_path)
        folder = load(tmp_path).folder
        damage(folder)
        encodings.clear()
        assert text_of(load(tmp_path)) == TEXTS["train"].encode()
        assert encodings
        assert folders(tmp_path) == [folder.name]

    def test_a_folder_with_anothers_content(self, tmp_path, settled, encodings):
        write(tmp_path)
        folder = load(tmp_path).folder
        write(tmp_path, train="Another text.\n")
        other = load(tmp_path).folder
        other.rename(folder)
        write(tmp_path)
        encodings.clear()
        assert text_of(load(tmp_path)) == TEXTS["train"].encode()
        assert encodings

    @pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
    def test_nothing_is_left_of_what_broke_off(self, tmp_path, monkeypatch, error, encodings):
        write(tmp_path)
        real = cache._write_split

        def write_two(*args):
            if len(list((tmp_path / "tokens").glob("*/*.bin"))) == 2:
                raise error
            return real(*args)

        monkeypatch.setattr(cache, "_write_split", write_two)
        if error is KeyboardInterrupt:
            with pytest.raises(KeyboardInterrupt):
                load(tmp_path)
        else:
            message = error_of(tmp_path)
            assert f"--data_path {tmp_path}" in message
            assert "No space left on device" in message
        assert folders(tmp_path) == []

    def test_a_folder_that_cannot_be_written(self, tmp_path, encodings):
        write(tmp_path)
        (tmp_path / "tokens").write_text("in the way")
        assert f"--data_path {tmp_path}" in error_of(tmp_path)
        assert not encodings

    def test_another_process_was_faster(self, tmp_path, monkeypatch):
        write(tmp_path)
        real = token_folders.put_in_place

        others = []

        def after_another(temporary, stem, folder):
            shutil.copytree(temporary, folder)
            others.append(folder.stat().st_ino)
            real(temporary, stem, folder)

        monkeypatch.setattr(token_folders, "put_in_place", after_another)
        tokens = load(tmp_path)
        assert text_of(tokens) == TEXTS["train"].encode()
        assert [tokens.folder.stat().st_ino] == others  # it may be in use already
        assert folders(tmp_path) == [tokens.folder.name]

    def test_processes_at_once(self, tmp_path):
        write(tmp_path, train="Some text.\n" * 200_000)
        code = (
            "import sys; from pipelines.text import cache;"
            "print(len(cache.load('text', 'bytes', sys.argv[1], False).ids('train')))"
        )
        command = [sys.executable, "-c", code, str(tmp_path)]
        running = [
            subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)
        ]
        for process in running:
            output, _ = process.communicate()
            assert process.returncode == 0
            assert int(output.split()[-1]) == 11 * 200_000 + 1
        assert len(folders(tmp_path)) == 1


def test_tokens_keep_their_order_however_long_each_chunk_takes(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.text.forms.BLOCK_BYTES", 10)
    real, delays = tokenizer.ByteTokenizer.encode_lines, itertools.cycle([0.01, 0, 0.005])

    def slowly(self, lines):
        time.sleep(next(delays))
        return real(self, lines)

    monkeypatch.setattr(tokenizer.ByteTokenizer, "encode_lines", slowly)
    text = "".join(f"{i}\n" for i in range(200))
    write(tmp_path, train=text)
    assert text_of(load(tmp_path)) == text.encode()


class TestDamage:
    """Whatever happened to the files, the tokens are made again or are the right ones."""

    @pytest.mark.parametrize("byte", [b"\0", b"\xff"])
    def test_other_bytes_of_the_same_number(self, tmp_path, settled, encodings, byte):
        write(tmp_path)
        path = load(tmp_path).folder / "train.bin"
        path.write_bytes(byte * path.stat().st_size)
        encodings.clear()
        assert text_of(load(tmp_path)) == TEXTS["train"].encode()
        assert encodings

    @pytest.mark.parametrize(
        ("old", "new"),
        [('"dtype": "uint16"', '"dtype": "float16"'), ('"words"', '"wods"'), ('"made"', '"mad"')],
    )
    def test_another_meta(self, tmp_path, settled, encodings, old, new):
        write(tmp_path)
        path = load(tmp_path).folder / "meta.json"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        encodings.clear()
        assert text_of(load(tmp_path)) == TEXTS["train"].encode()
        assert encodings

    def test_what_a_killed_process_left_is_removed_once_it_is_old(self, tmp_path):
        write(tmp_path)
        for name, age in (("old", 2 * token_folders.ABANDONED), ("new", 0)):
            folder = tmp_path / "tokens" / f"text-bytes-{name}.tmp"
            folder.mkdir(parents=True)
            (folder / "train.bin").write_bytes(b"half")
            then = time.time() - age
            for path in (folder / "train.bin", folder):
                os.utime(path, (then, then))
        load(tmp_path)
        assert [name for name in folders(tmp_path) if name.endswith(".tmp")] == [
            "text-bytes-new.tmp"
        ]


def test_a_tokenizer_may_have_moved(tmp_path, monkeypatch, settled, encodings):
    """So it is on another machine, to which the tokens were copied."""
    monkeypatch.setattr(tokenizer, "fingerprint", lambda name: "f" * 32)
    monkeypatch.setattr(tokenizer, "load", lambda *args: tokenizer.ByteTokenizer())
    write(tmp_path)
    load(tmp_path, tokenizer=str(tmp_path / "here" / "mine"))
    encodings.clear()
    load(tmp_path, tokenizer=str(tmp_path / "there" / "mine"))
    assert not encodings


SLOW_LOADS = """
import hashlib, os, sys, time
from pipelines.text import cache, tokenizer

folder, seconds = sys.argv[1], float(sys.argv[2])
real = tokenizer.ByteTokenizer.encode_lines

def slowly(self, lines):
    with open(folder + "/marks", "a") as file:
        print(os.getpid(), file=file)
    time.sleep(seconds)
    return real(self, lines)

tokenizer.ByteTokenizer.encode_lines = slowly
tokens = cache.load("text", "bytes", folder, progress=False)
digest = hashlib.sha256(b"".join(tokens.ids(split).tobytes() for split in cache.corpora.SPLITS))
print(digest.hexdigest())
"""


class TestOneAtATime:
    @pytest.fixture
    def start(self, tmp_path):
        """Return start(seconds): it starts a process that loads the text, encoding slowly."""
        write(tmp_path)
        (tmp_path / "marks").touch()
        running = []

        def start(seconds):
            running.append(
                subprocess.Popen(
                    [sys.executable, "-c", SLOW_LOADS, str(tmp_path), str(seconds)],
                    cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                )
            )  # fmt: skip
            return running[-1]

        yield start
        for process in running:
            process.kill()
            process.wait()
            process.stdout.close()

    def marks(self, tmp_path):
        """Return which process encoded, for every time one did."""
        return (tmp_path / "marks").read_text().split()

    def test_one_of_four_processes_makes_the_tokens(self, tmp_path, start):
        printed = [process.communicate()[0].splitlines() for process in
                   [start(0.3) for _ in range(4)]]  # fmt: skip
        assert len(set(self.marks(tmp_path))) == 1
        assert len({lines[-1] for lines in printed}) == 1
        waited = [sum("waiting for another process" in line for line in x) for x in printed]
        assert sorted(waited) == [0, 1, 1, 1]
        assert len(folders(tmp_path)) == 1

    def test_when_it_is_killed_the_next_goes_on(self, tmp_path, start):
        first = start(60)
        while not self.marks(tmp_path):
            assert first.poll() is None
            time.sleep(0.01)
        second = start(0)
        assert "waiting for another process" in second.stdout.readline()
        assert self.marks(tmp_path) == [str(first.pid)]
        first.kill()
        output, _ = second.communicate(timeout=10)
        assert second.returncode == 0
        assert output.splitlines()[-1] == run(SLOW_LOADS, tmp_path, 0).splitlines()[-1]
        assert set(self.marks(tmp_path)) == {str(first.pid), str(second.pid)}
        assert [x for x in folders(tmp_path) if not x.endswith(".tmp")] == [
            cache.load("text", "bytes", tmp_path, progress=False).folder.name
        ]

    def test_an_intact_cache_is_not_waited_for(self, tmp_path, settled):
        write(tmp_path)
        load(tmp_path)
        with one_at_a_time(tmp_path / "tokens" / ".text-bytes-lock"):
            assert text_of(load(tmp_path)) == TEXTS["train"].encode()

    def test_it_excludes_others_and_leaves_nothing(self, tmp_path, capsys):
        inside, most = [], []

        def work():
            with one_at_a_time(tmp_path / "lock"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.01)
                inside.pop()

        with ThreadPoolExecutor(8) as pool:
            for future in [pool.submit(work) for _ in range(24)]:
                future.result()
        assert most == [1] * 24
        assert not list(tmp_path.iterdir())
        lines = capsys.readouterr().err.splitlines()
        assert 7 <= len(lines) <= 23  # one for each that waited, however often it had to

    def test_folders_are_made_and_removed_again(self, tmp_path):
        path = tmp_path / "a" / "b" / "lock"
        with one_at_a_time(path):
            assert path.is_file()
        assert not list(tmp_path.iterdir())

    def test_an_error_inside_lets_the_next_in(self, tmp_path):
        for _ in range(2):
            with pytest.raises(KeyError), one_at_a_time(tmp_path / "lock"):
                raise KeyError
        assert not list(tmp_path.iterdir())

    def test_what_came_into_a_new_folder_stays(self, tmp_path):
        with one_at_a_time(tmp_path / "a" / "b" / "lock"):
            (tmp_path / "a" / "file").touch()
        assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]

    @pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
    def test_without_locks_it_goes_on(self, tmp_path, monkeypatch, number):
        def flock(*args):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)
        with one_at_a_time(tmp_path / "lock"), one_at_a_time(tmp_path / "lock"):
            pass
        assert not list(tmp_path.iterdir())

    def test_where_nothing_can_be_written_it_goes_on(self, tmp_path):
        (tmp_path / "file").touch()  # in the way, even of the administrator
        with one_at_a_time(tmp_path / "file" / "lock"):
            pass
