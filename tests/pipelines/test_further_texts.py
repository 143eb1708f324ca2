"""--also_test of language models: other corpora, scored as a run on them would score them."""

import importlib
import json
import random
import re
import shutil

import numpy as np
import pytest
from helpers.corpora import write_text
from helpers.made_runs import report_on, table, text

import language_main
from cli.datasets import text_dataset
from cli.further_tests import asked_for, further_texts
from run_folder.records import read_also, read_records
from run_folder.status import FINISHED, status_of

SMALL = (
    "--dataset", "text", "--tokenizer", "bytes", "--embedding_dim", "8", "--num_attention_heads",
    "2", "--num_layers", "1", "--max_seq_length", "16", "--batch_size", "8", "--max_steps", "4",
    "--lr", "1e-2", "--device", "cpu",
)  # fmt: skip


END = 256  # of text, for the tokenizer of bytes


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A folder of text to train on, and two others."""
    root = tmp_path_factory.mktemp("texts")
    sizes = {"own": (300, 60, 57), "other": (40, 30, 90), "third": (20, 20, 33)}
    return {name: write_text(root / name, words=each) for name, each in sizes.items()}


@pytest.fixture(scope="module")
def run(texts, tmp_path_factory, forked):
    """A finished run with two further texts; tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("run") / "run"
    also = f"text:{texts['other']},{texts['third']}"
    flags = [*SMALL, "--data_path", texts["own"], "--also_test", also, "--ema", "0.9"]
    (code,), output = forked("language_main", *flags, "--output_dir", folder)
    assert code == 0, output
    assert "Also other: text, tokenizer bytes: " in output
    return folder


def main(*argv):
    assert language_main.main([str(word) for word in argv]) == 0


@pytest.mark.parametrize("name", ["other", "third"])
def test_the_results_are_those_of_a_test_on_that_text(run, texts, name, tmp_path):
    """Counts, words and bytes are the other text's own, not the run's."""
    argv = ["--test_only", "--checkpoint", run / "checkpoint.pt", "--device", "cpu"]
    argv += ["--dataset", "text", "--data_path", texts[name], "--output_dir", tmp_path]
    main(*argv)
    lines = (tmp_path / "test_results.txt").read_text().splitlines()
    also = read_also(run)
    assert also.keys() == {"other", "other EMA", "third", "third EMA"}
    for words, label in (("", "[Test]"), (" EMA", "[Test EMA]")):
        (line,) = [line for line in lines if line.startswith(label)]
        assert f"[Also {name}{words}] Loss: " in (run / "train_eval_results.txt").read_text()
        content = (texts[name] / "test.txt").read_bytes()
        assert also[name + words]["count"] == len(content)
        loss = float(re.search(r"Loss: (\S+)", line)[1])
        assert also[name + words]["loss"] == pytest.approx(loss, rel=1e-6)
        assert also[name + words]["bits_per_byte"] == pytest.approx(loss / np.log(2), rel=1e-6)
    blocks = np.load(run / f"predictions_also_{name}.npz")
    nats = (blocks["loss"].astype(float) * blocks["tokens"]).sum()
    assert blocks["tokens"].sum() == len(content)
    assert nats / len(content) == pytest.approx(also[name]["loss"], rel=1e-5)


def test_the_run_is_finished_and_its_own_results_are_as_without(run, texts, tmp_path, forked):
    """Its line at the end is a summary; what is tested beside decides nothing."""
    assert status_of(run).kind == FINISHED
    flags = [*SMALL, "--data_path", texts["own"], "--ema", "0.9", "--output_dir", tmp_path / "run"]
    (code,), output = forked("language_main", *flags)
    assert code == 0, output
    pair = [read_records(folder)[-1]["test"] for folder in (run, tmp_path / "run")]
    assert pair[0] == pair[1]


def test_two_processes_and_a_later_test_give_the_same(run, texts, tmp_path, forked, capsys):
    copy = shutil.copytree(run, tmp_path / "copy")
    flags = ["--resume", copy, "--also_test", texts["third"]]
    codes, output = forked("language_main", *flags, processes=2)
    assert codes == [0, 0], output
    assert read_also(copy)["third"]["loss"] == pytest.approx(read_also(run)["third"]["loss"])
    pair = [np.load(folder / "predictions_also_third.npz") for folder in (copy, run)]
    assert np.array_equal(pair[0]["tokens"], pair[1]["tokens"])
    assert pair[0]["loss"] == pytest.approx(pair[1]["loss"], rel=1e-4)
    main("--test_only", "--output_dir", copy, "--also_test", texts["other"], "--device", "cpu")
    found = (copy / "test_results.txt").read_text()
    loss = read_also(run)["other"]["loss"]
    assert float(re.search(r"\[Also other\] Loss: (\S+)", found)[1]) == pytest.approx(loss)


def documents(count, seed):
    draw = random.Random(seed)
    return [" ".join(draw.choices(["tree", "leaf", "grün", ".\n"], k=9)) for _ in range(count)]


def write_splits(folder, write):
    """Write documents for every split; for the test there are seven."""
    folder.mkdir()
    for split, count in (("train", 9), ("val", 3), ("test", 7)):
        write(split, documents(count, split))


@pytest.fixture
def forms(tmp_path):
    """The same documents in every form that --dataset has for files, by its name there."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")

    def lines(split, texts):
        content = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (tmp_path / f"lines/{split}.jsonl").write_text(content)

    def table(split, texts):
        parquet.write_table(pyarrow.table({"text": texts}), tmp_path / f"table/{split}.parquet")

    def files(split, texts):
        (tmp_path / "files" / split).mkdir()
        for number, each in enumerate(texts):
            (tmp_path / f"files/{split}/{number}.txt").write_text(each)

    def tokens(split, texts):
        ids = [np.frombuffer(b, np.uint8) for b in (text.encode() for text in texts)]
        joined = [np.append(each, END) for each in ids]
        np.concatenate(joined).astype(np.uint16).tofile(tmp_path / f"ids/{split}.bin")

    for name, write in (("lines", lines), ("table", table), ("files", files), ("ids", tokens)):
        write_splits(tmp_path / name, write)
    return [
        f"{form}/{tmp_path / name}"
        for form, name in (
            ("jsonl", "lines"), ("parquet", "table"), ("folder", "files"), ("bin", "ids"),
        )
    ]  # fmt: skip


def test_corpora_of_documents_in_every_form(forms, tmp_path, forked):
    """The run's own column, and how its blocks are packed, say nothing of them."""
    own = tmp_path / "own.jsonl"
    own.write_text("".join(json.dumps({"body": text}) + "\n" for text in documents(40, 0)))
    flags = [*SMALL, "--dataset", f"jsonl/{own}", "--text_column", "body", "--held_out", "0.2"]
    flags += ["--pack", "inside", "--data_path", tmp_path / "Data"]
    folder = tmp_path / "run"
    (code,), output = forked(
        "language_main", *flags, "--also_test", ",".join(forms), "--output_dir", folder
    )
    assert code == 0, output
    also = read_also(folder)
    assert [*also] == forms
    content = sum(len(text.encode()) for text in documents(7, "test"))
    for form in forms:
        (tmp_path / "t").mkdir(exist_ok=True)
        main(
            "--test_only", "--checkpoint", folder / "checkpoint.pt", "--device", "cpu",
            "--dataset", form, "--data_path", tmp_path / "Data", "--output_dir", tmp_path / "t",
        )  # fmt: skip
        line = (tmp_path / "t/test_results.txt").read_text().splitlines()[-1]
        loss = float(re.search(r"Loss: (\S+)", line)[1])
        assert also[form]["loss"] == pytest.approx(loss, rel=1e-6)
        assert content <= also[form]["count"] <= content + 7  # some count the ends of documents
        assert ("bits_per_byte" in also[form]) == (not form.startswith("bin/"))
    losses = [also[form]["loss"] for form in forms[:2]]
    assert losses[0] == losses[1]
    assert len([*folder.glob("predictions_also_*.npz")]) == 4


@pytest.mark.usefixtures("quick_figures")
def test_reports_have_them(run, tmp_path):
    """Two settings and two seeds, of one run's numbers moved by hand."""
    losses = {}
    for number, (activation, seed) in enumerate((a, s) for a in ("ReLU", "GELU") for s in (0, 1)):
        folder = shutil.copytree(run, tmp_path / f"{activation}{seed}")
        arguments = (folder / "args.txt").read_text()
        arguments = re.sub("(?m)^activation: .*$", f"activation: {activation}", arguments)
        for name in ("seed", "init_seed", "data_seed"):
            arguments = re.sub(f"(?m)^( *{name}:) .*$", rf"\1 {seed}", arguments)
        (folder / "args.txt").write_text(arguments)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for line in lines:
            for result in (line.get("also") or {}).values():
                result["perplexity"] = losses[activation, seed] = 10.0 + number**2
        (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    report_on(tmp_path)
    rows = table(tmp_path, "further")
    rows = rows[rows["test_set"] == "other"].set_index("setting")
    assert rows["metric"].unique().tolist() == ["perplexity"]
    for activation in ("ReLU", "GELU"):
        values = [losses[activation, seed] for seed in (0, 1)]
        (label,) = [name for name in rows.index if name.startswith(activation)]
        assert rows.loc[label, "mean"] == pytest.approx(np.mean(values))
        assert rows.loc[label, "mean_sd"] == pytest.approx(np.std(values, ddof=1))
    assert "### Further test sets" in text(tmp_path)


def test_names_and_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    convert = further_texts(text_dataset)
    asked = asked_for(convert("PyDoc, wikitext103:/data,text:/a/novels,./poems"))
    assert [each.name for each in asked] == ["pydoc", "wikitext103", "novels", "poems"]
    assert [each.place for each in asked] == [None, "/data", "/a/novels", "poems"]
    assert convert("") is None
    assert asked_for(convert("."))[0].name == tmp_path.name


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("wikitext4", "--also_test: unknown value 'wikitext4'; did you mean wikitext2? known: "),
        ("cifar10-c", "--also_test: unknown value 'cifar10-c'"),
        ("text:/a/b,/c/b", "--also_test: two test sets are called b; give one of them"),
        ("./nowhere", "--also_test nowhere: "),
    ],
)
def test_mistakes(mistake_in, texts, tmp_path, asked, message):
    where = ("--data_path", texts["own"], "--output_dir", tmp_path / "run")
    line = mistake_in(language_main, *SMALL, *where, "--also_test", asked)
    assert message in line
    assert not (tmp_path / "run" / "args.txt").exists()


def test_gpt2s_tokenizer_is_looked_for_where_the_runs_is(tmp_path, monkeypatch):
    from pipelines.text import tokenizer

    made = {"a": 0, "b": 1, "<|endoftext|>": 2}
    monkeypatch.setattr(tokenizer, "GPT2_FINGERPRINT", tokenizer._digest(made, []))
    monkeypatch.setattr(tokenizer, "_found", [])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "Data/gpt2").mkdir(parents=True)
    (tmp_path / "Data/gpt2/vocab.json").write_text(json.dumps(made))
    (tmp_path / "Data/gpt2/merges.txt").write_text("#version: 0.2\n")
    ids = tokenizer.load("gpt2", tmp_path / "Data").encode("ab")
    assert tokenizer.load("gpt2", tmp_path / "elsewhere").encode("ab") == ids == [0, 1]
