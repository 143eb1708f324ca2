"""The ids of a text are those of the whole, and what they lose of it is known."""

import itertools
import json
import os
import random
import re
from pathlib import Path

import pytest
import torch
from helpers import made_tokenizers as small
from helpers.made_runs import report_on
from tokenizers import AddedToken, decoders

import language_main
from pipelines import stamps
from pipelines.text import cache, corpora, encoding, token_folders, tokenizer
from pipelines.text.lines import in_lines
from tasks import language

DATA = Path(os.environ.get("ZILU_TEST_DATA", "nowhere"))
needs_data = pytest.mark.skipif(not (DATA / "gpt2").is_dir(), reason="needs ZILU_TEST_DATA")
PROSE = corpora.find("pydoc", "anywhere").splits["train"].text.decode()
SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def backends():
    """Return a function that makes a tokenizer of a kind, trained once."""
    made = {}

    def backend(kind):
        if kind not in made:
            made[kind] = small.KINDS[kind](PROSE[:60_000])
        return made[kind]

    return backend


@pytest.fixture
def short(monkeypatch):
    """Windows are short, so that small texts have many."""
    monkeypatch.setattr(encoding, "WINDOW", 2000)
    monkeypatch.setattr(encoding, "OVERLAP", 400)


def encoded(text, backend):
    encoder = tokenizer.FastTokenizer(backend, "small", "f", 0)
    content = text.encode()
    blocks = [content[i : i + 50_000] for i in range(0, len(content), 50_000)]
    parts = list(encoding.encode(in_lines(blocks), encoder))
    return [i for part in parts for i in part.ids], all(part.lossless for part in parts)


def whole(text, backend):
    return backend.encode(text, add_special_tokens=False).ids


def write(folder, text, **others):
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        (folder / f"{split}.txt").write_text(others.get(split, text), newline="")
    return folder


def load(folder, name, data="text"):
    return cache.load(data, name, folder, progress=False)


# White space, line ends and beginnings of all kinds.
draw = random.Random(0)
TEXTS = {
    "prose": PROSE[:30_000],
    "code": "".join(
        "    " * draw.randrange(5) + draw.choice(["for x in y:", "return  1", "", "\tz = 3"]) +
        "\n" * draw.randrange(1, 4) for _ in range(2000)
    ),
    "one line": " ".join(PROSE[:30_000].split()),
    "no white space": "".join(PROSE[:30_000].split()),
    "letters": "".join(draw.choices("abcdef gé世😀\n", k=20_000)),
    "windows": PROSE[:20_000].replace("\n", "\r\n"),
    "lines that begin with spaces": " a\n  b\n" * 3000,
    "a run": "a b\n" + " " * 1500 + "-" * 90 + "\n" * 700 + PROSE[:10_000],
}  # fmt: skip


class TestTheWholeText:
    @pytest.mark.parametrize("kind", small.KINDS)
    def test_prose_in_windows_as_they_are(self, backends, kind):
        """A text of several windows."""
        backend, text = backends(kind), PROSE[: 3 * encoding.WINDOW]
        assert encoded(text, backend)[0] == whole(text, backend)

    @pytest.mark.parametrize("text", TEXTS)
    @pytest.mark.parametrize("kind", small.KINDS)
    def test_any_text_in_short_windows(self, backends, short, kind, text, capsys):
        backend = backends(kind)
        assert encoded(TEXTS[text], backend)[0] == whole(TEXTS[text], backend)
        assert not capsys.readouterr().err

    @pytest.mark.parametrize("text", ["a", "a\n", "\n", " ", " a", "a\nb", "a\n\n b", "<end>a"])
    @pytest.mark.parametrize("kind", small.KINDS)
    def test_short_texts(self, backends, kind, text):
        assert encoded(text, backends(kind))[0] == whole(text, backends(kind))

    @pytest.mark.parametrize("kind", ["Llama 2", "byte level with a space in front"])
    def test_as_a_corpus(self, tmp_path, backends, kind):
        name = small.save(tmp_path / "tokenizer", backends(kind))
        tokens = load(write(tmp_path, PROSE[:5000]), name)
        ids = whole(PROSE[:5000], backends(kind))
        assert tokens.ids("train")[1:].tolist() == ids
        assert tokens.counts("train").tokens == len(ids)
        assert tokenizer.load(name, ".").encode(PROSE[:5000]) == ids  # as a prompt

    def test_what_depends_on_all_that_stands_before(self, short, capsys):
        """Digits go in threes from the first, which no window but the first one knows."""
        text = "7" * 10_000
        backend = small.llama_3("777\n" * 99)
        ids, lossless = encoded(text, backend)
        assert backend.decode(ids) == text
        assert lossless
        assert "more than 2,000 characters before them" in capsys.readouterr().err

    def test_no_more_of_the_text_is_held_than_windows_need(self, backends, short):
        read = []

        def blocks():
            for number in range(1000):
                read.append(number)
                yield b"Some words in a line, and some more of them.\n" * 50

        encoder = tokenizer.FastTokenizer(backends("metaspace"), "small", "f", 0)
        found = encoding.encode(in_lines(blocks()), encoder)
        most = (encoding.AHEAD + 2) * encoding.WINDOWS
        for number, _ in enumerate(itertools.islice(found, 300)):
            assert len(read) <= number + most

    def test_what_is_not_utf8_is_named_by_its_place(self, tmp_path, backends, short):
        name = small.save(tmp_path / "tokenizer", backends("metaspace"))
        write(tmp_path, "é\n" * 3000)
        (tmp_path / "test.txt").write_bytes("é\n".encode() * 3000 + b"ab\xff\n")
        with pytest.raises(Exception, match=r"test.txt: not UTF-8 at byte 9,002"):
            load(tmp_path, name)

    def test_an_earlier_versions_cache_is_not_used(self, tmp_path, backends, monkeypatch):
        """It gave a folder's tokenizer the lines, and did not look at what they lose."""
        name = small.save(tmp_path / "tokenizer", backends("metaspace"))
        write(tmp_path, "a\nb\n")
        with monkeypatch.context() as before:
            before.setattr(tokenizer, "FOLDERS_RULE", b"")
            old = load(tmp_path, name)
        new = load(tmp_path, name)
        assert new.folder != old.folder
        assert not old.folder.exists()

    def test_an_earlier_versions_cache_of_bytes_is(self, tmp_path, monkeypatch):
        monkeypatch.setattr(stamps, "COARSE_TICK", -1)
        write(tmp_path, "a\nb\n")
        made = load(tmp_path, "bytes")
        assert made.folder.name == "text-bytes-1f5b305decc4e824"
        for facts in made.meta["splits"].values():
            del facts["lossless"]
        token_folders.write_meta(made.folder, made.meta)
        monkeypatch.setattr(tokenizer, "load", None)
        assert load(tmp_path, "bytes").counts("test") == token_folders.Counts(
            4, 4, 4, lossless=True
        )


class TestLoss:
    @pytest.mark.parametrize(
        ("kind", "text", "lossless"),
        [
            ("byte level", PROSE[:9000] + "é\r\n\0", True),
            ("byte level with a space in front", PROSE[:9000], True),
            ("byte level with a space in front", " " + PROSE[:9000], True),
            ("Llama 3", PROSE[:9000] + "\n\n  é", True),
            ("Llama 2", PROSE[:9000] + " é世\n", True),
            ("Llama 2", "  " + PROSE[:9000], True),
            ("metaspace", "the text of a line " * 500, True),
            ("Unigram", "the text of a line " * 500, True),
            ("Unigram", "the text of a line " * 500 + "世", False),  # <unk>
            ("T5", "the text\n" * 500, False),  # line ends become spaces
            ("BERT", "the text\n" * 500, False),
            ("BERT", "the text of a line. " * 500, False),
        ],
    )
    def test_it_is_whether_decoding_gives_the_text_back(
        self, backends, short, kind, text, lossless
    ):
        assert encoded(text, backends(kind))[1] == lossless
        back = backends(kind).decode(whole(text, backends(kind)), skip_special_tokens=False)
        assert (back.strip(" ") == text.strip(" ")) == lossless

    @pytest.mark.parametrize("place", [0.01, 0.2, 0.5, 0.99])
    def test_no_part_of_the_text_is_left_out(self, short, place):
        """One word of 10,000 that is unknown, or in capitals, or behind two spaces."""
        backend = small.of_words(["a", "b"], decoder=decoders.WordPiece())
        words = ["a"] * 10_000
        assert encoded(" ".join(words), backend)[1]
        for other in ("c", "A", " a", "a\n"):
            words[int(place * len(words))] = other
            assert not encoded(" ".join(words), backend)[1]

    def test_a_word_that_a_window_cuts_is_no_loss(self, short):
        backend = small.of_words(["lengthy", "words"], decoder=decoders.WordPiece())
        assert encoded(" ".join(["lengthy", "words"] * 5000), backend)[1]

    def test_clean_up_is_no_loss(self):
        backend = small.of_words(["a", "."], decoder=decoders.WordPiece())
        assert backend.decode([1, 2]) == "a."
        assert encoded("a . a .", backend)[1]

    def test_each_split_by_itself(self, tmp_path):
        name = small.save(
            tmp_path / "tokenizer", small.of_words("ab", decoder=decoders.WordPiece())
        )
        write(tmp_path, "a b a", train="a b unknown")
        for _ in range(2):  # made, then from the cache
            tokens = load(tmp_path, name)
            lossless = [tokens.counts(split).lossless for split in corpora.SPLITS]
            assert lossless == [False, True, True]


SMALL = (
    "--dataset", "text", "--embedding_dim", "16", "--num_attention_heads", "2", "--num_layers",
    "1", "--max_seq_length", "32", "--batch_size", "64", "--num_epochs", "1", "--device", "cpu",
)  # fmt: skip
WITHHELD = {"word_perplexity", "bits_per_byte"}


def run(*flags):
    assert language_main.main([*SMALL, *map(str, flags)]) == 0


def metrics(folder):
    (line,) = (folder / "metrics.jsonl").read_text().splitlines()
    return json.loads(line)


@pytest.mark.usefixtures("quick_figures")
class TestWithheldFigures:
    def test_random_letters_that_a_tokenizer_does_not_know(self, tmp_path, capsys):
        """Their floor is 3 bits per byte; of [UNK] alone next to nothing is left to predict."""
        letters = random.Random(1).choices("abcdefgh", k=20_000)
        data = write(tmp_path / "data", "".join(letters))
        data = write(tmp_path / "data", " ".join(re.findall(".{9}", "".join(letters))))
        name = small.save(tmp_path / "tokenizer", small.of_words("ab"))
        flags = ("--data_path", data, "--tokenizer", name, "--output_dir", tmp_path / "runs/a")
        run(*flags, "--activation", "ReLU", "--lr", "1e-2")
        shown = capsys.readouterr()
        assert f"warning: --tokenizer {name}: decoding its tokens" in shown.err
        assert "(train, val, test)" in shown.err
        record = metrics(tmp_path / "runs/a")
        for split in ("train", "val", "test"):
            assert record[split].keys() == {"loss", "perplexity", "count"}
        lines = (tmp_path / "runs/a/train_eval_results.txt").read_text()
        assert "[Test] Loss: " in lines
        assert "per byte" not in lines + shown.out
        assert "lossless: false" in (tmp_path / "runs/a/args.txt").read_text()

        assert language_main.main(["--test_only", "--output_dir", str(tmp_path / "runs/a")]) == 0
        shown = capsys.readouterr()
        assert "[Test] Loss: " in shown.out
        assert "per byte" not in shown.out + (tmp_path / "runs/a/test_results.txt").read_text()
        assert "warning: --tokenizer" in shown.err

        run(*flags[:-1], tmp_path / "runs/b", "--activation", "GELU")
        report_on(tmp_path / "runs")
        assert "perplexity per token" in (tmp_path / "runs/report/report.md").read_text()

    def test_a_lossless_tokenizer_keeps_them(self, tmp_path, backends, capsys):
        data = write(tmp_path / "data", PROSE[:9000])
        name = small.save(tmp_path / "tokenizer", backends("Llama 2"))
        run("--data_path", data, "--tokenizer", name, "--output_dir", tmp_path / "run")
        assert "warning" not in capsys.readouterr().err
        test = metrics(tmp_path / "run")["test"]
        ids = whole(PROSE[:9000], backends("Llama 2"))
        assert test["count"] == len(ids)
        bits = test["loss"] * len(ids) / len(PROSE[:9000].encode()) / torch.tensor(2.0).log()
        assert test["bits_per_byte"] == pytest.approx(float(bits), rel=1e-6)
        assert "lossless:" not in (tmp_path / "run/args.txt").read_text()

    def test_a_checkpoint_of_an_earlier_version_is_of_other_tokens(
        self, tmp_path, backends, monkeypatch, mistake_in
    ):
        data = write(tmp_path / "data", PROSE[:3000])
        name = small.save(tmp_path / "tokenizer", backends("Llama 2"))
        with monkeypatch.context() as before:
            before.setattr(tokenizer, "FOLDERS_RULE", b"")
            run("--data_path", data, "--tokenizer", name, "--output_dir", tmp_path / "run")
        flags = ["--data_path", data, "--tokenizer", name, "--output_dir", tmp_path / "run"]
        assert "line by line" in mistake_in(language_main, "--test_only", *flags[-2:])
        error = mistake_in(language_main, *SMALL, *flags, "--resume")
        assert "tokenizer_fingerprint" in error

    def test_a_split_that_loses_nothing_keeps_them(self, tmp_path):
        decoder = decoders.WordPiece()
        name = small.save(tmp_path / "tokenizer", small.of_words("ab", decoder=decoder))
        data = write(tmp_path / "data", "a b a b a", train="a b A " * 50)
        run("--data_path", data, "--tokenizer", name, "--output_dir", tmp_path / "run")
        record = metrics(tmp_path / "run")
        assert not WITHHELD & record["train"].keys()
        assert record["val"].keys() & record["test"].keys() > WITHHELD


class TestEndOfTextInsideAText:
    """It is what the tokenizer makes of it: one token for GPT-2, 13 for bytes."""

    TEXT = "One.<|endoftext|>Two.\n<|endoftext|>\nThree.<|endoftext"

    @needs_data
    def test_gpt2(self, tmp_path):
        (tmp_path / "gpt2").symlink_to(DATA / "gpt2")
        tokens = load(write(tmp_path, self.TEXT), "gpt2")
        ids = tokens.ids("train").tolist()
        assert [place for place, i in enumerate(ids) if i == 50_256] == [0, 3, 7]
        assert ids[1:] == tokenizer.load("gpt2", tmp_path).encode(self.TEXT)  # a prompt too
        assert tokens.counts("train") == token_folders.Counts(len(ids) - 1, 5, len(self.TEXT))

    def test_bytes(self, tmp_path):
        ids = load(write(tmp_path, self.TEXT), "bytes").ids("train").tolist()
        assert ids == [256, *self.TEXT.encode()]

    @pytest.mark.parametrize("added", ["special", "ordinary", None])
    def test_a_folder(self, tmp_path, added):
        backend = small.byte_level(PROSE[:9000])
        if added:
            token = AddedToken("<|endoftext|>", special=added == "special", normalized=False)
            {"special": backend.add_special_tokens, "ordinary": backend.add_tokens}[added]([token])
        name = small.save(tmp_path / "tokenizer", backend)
        tokens = load(write(tmp_path, self.TEXT), name)
        ids = tokens.ids("train").tolist()
        marks = ids.count(backend.token_to_id("<|endoftext|>")) if added else 0
        assert marks == (2 if added else 0)
        assert ids.count(tokens.meta["end_of_text"]) == 1  # <end> is this tokenizer's
        assert tokens.counts("train").lossless

    def test_its_own_end_of_text_in_a_folders_text(self, tmp_path):
        name = small.save(tmp_path / "tokenizer", small.byte_level(PROSE[:9000]))
        tokens = load(write(tmp_path, "One.<end>Two.\n"), name)
        assert tokens.ids("train").tolist().count(tokens.meta["end_of_text"]) == 2
        assert tokens.counts("train").lossless


class Echo:
    """Stand for a network that continues every prompt with the same tokens."""

    def __init__(self, ids):
        self.ids = ids

    def parameters(self):
        return iter([torch.zeros(1)])

    def generate(self, ids, count, generator, **choice):
        return torch.cat([ids, torch.tensor([self.ids])], 1)


@pytest.mark.parametrize("kind", ["Llama 2", "metaspace", "Unigram", "byte level", "BERT"])
def test_samples_keep_the_space_behind_the_prompt(tmp_path, backends, kind, capsys):
    name = small.save(tmp_path / "tokenizer", backends(kind))
    vocabulary = tokenizer.load(name, ".")
    given, both = vocabulary.encode("the text"), vocabulary.encode("the text of the line")
    assert both[: len(given)] == given
    config = language.LanguageRunConfig(sample=1, prompt="the text")
    end = vocabulary.end_of_text
    language.print_samples(config, Echo([*both[len(given) :], end, *given]), vocabulary)
    assert capsys.readouterr().out == "[Sample 1] the text of the line\n"
