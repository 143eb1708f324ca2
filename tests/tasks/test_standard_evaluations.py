"""evaluate_lm.py on tasks that the tests make, against nats summed from the logits themselves."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.corpora import write_text
from helpers.made_runs import report_on, table, text, vision_run
from torch.nn import functional as F

import evaluate_lm
import language_main
from cli.language import LanguageConfig
from run_folder.checkpoint import load_checkpoint
from run_folder.evaluations import add_evaluations, read_evaluations
from run_folder.records import read_records
from run_folder.status import FINISHED, status_of
from tasks.language import LanguageProgram

pytest.importorskip("lm_eval")

ROOT = Path(__file__).parents[2]
LENGTH, END = 24, 256
SHAPE = (
    "--embedding_dim", "16", "--num_attention_heads", "2", "--num_layers", "1",
    "--max_seq_length", str(LENGTH), "--device", "cpu",
)  # fmt: skip
WORDS = ["tree", "leaf", "a", "gr\u00fcn", "of"]

LAST_WORD = """
task: last_word
dataset_path: json
dataset_kwargs: {data_files: {test: last.jsonl, train: shots.jsonl}}
output_type: loglikelihood
training_split: train
test_split: test
doc_to_text: "{{text.split(' ')[:-1]|join(' ')}}"
doc_to_target: "{{' '+text.split(' ')[-1]}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
metadata: {version: 1.0}
"""
CHOICE = """
task: choice
dataset_path: json
dataset_kwargs: {data_files: {test: choice.jsonl}}
output_type: multiple_choice
test_split: test
doc_to_text: question
doc_to_choice: choices
doc_to_target: label
metadata: {version: 2.0}
"""
WHOLE = """
task: whole
dataset_path: json
dataset_kwargs: {data_files: {test: whole.jsonl}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: text
metric_list:
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
metadata: {version: 1.0}
"""


def write_rows(path: Path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def sentences(seed, count):
    draw = np.random.default_rng(seed)
    return [{"text": " ".join(draw.choice(WORDS, draw.integers(2, 9)))} for _ in range(count)]


ROWS = sentences(1, 14)
SHOTS = sentences(2, 6)
CHOICES = [
    {"question": each["text"], "choices": [" tree", " leaf of", " a"], "label": n % 3}
    for n, each in enumerate(sentences(3, 7))
]


@pytest.fixture(scope="module")
def own_tasks(tmp_path_factory):
    """Tasks as YAML with their data beside them, and LAMBADA's data alone."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, content in (("last_word", LAST_WORD), ("choice", CHOICE), ("whole", WHOLE)):
        (folder / f"{name}.yaml").write_text(content)
    write_rows(folder / "last.jsonl", ROWS)
    write_rows(folder / "shots.jsonl", SHOTS)
    write_rows(folder / "choice.jsonl", CHOICES)
    write_rows(folder / "whole.jsonl", [{"text": "tree of a leaf " * n} for n in (1, 2, 8)])
    write_rows(folder / "lambada_openai" / "test.jsonl", ROWS[:5])
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory, forked):
    """A finished run with averaged weights; tests must leave it as it is."""
    root = tmp_path_factory.mktemp("trained")
    source = write_text(root / "text", words=(1500, 60, 60))
    flags = ("--dataset", "text", "--data_path", source, "--tokenizer", "bytes", *SHAPE, "--ema",
             "0.9", "--max_steps", "60", "--lr", "2e-2", "--batch_size", "8")  # fmt: skip
    (code,), output = forked("language_main", *flags, "--output_dir", root / "run")
    assert code == 0, output
    return root / "run"


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def evaluated(monkeypatch, tmp_path):
    """Run the program; returns what the run folder holds then."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def evaluate(run, *flags):
        words = [run, "--device", "cpu", "--batch_size", "5", *flags]
        assert evaluate_lm.main([str(word) for word in words]) == 0
        return read_evaluations(run)

    return evaluate


def network_of(run, ema=False):
    from cli.parser import parse

    model = LanguageProgram(parse(LanguageConfig, "A program.", list(SHAPE)).config)
    network = model.network_for(257).eval()
    saved = load_checkpoint(run / "checkpoint.pt")
    network.load_state_dict(saved["ema"]["model"] if ema else saved["model"])
    return network


@torch.no_grad()
def direct(network, before: str, after: str):
    """The log-likelihood of a text, byte by byte, each from a pass of its own; and if it is greedy.

    Bytes before the context's last LENGTH are forgotten, counted from the end of the whole.
    """
    context = list(before.encode()) or [END]
    ids = context + list(after.encode())
    first = max(0, len(ids) - 1 - LENGTH)
    total, greedy = 0.0, True
    for place in range(len(context), len(ids)):
        logits = network(torch.tensor([ids[first:place]]))[0, -1]
        total -= F.cross_entropy(logits.double(), torch.tensor(ids[place])).item()
        greedy &= logits.argmax().item() == ids[place]
    return total, greedy


def split(sentence):
    before, _, last = sentence.rpartition(" ")
    return before, f" {last}"


@pytest.fixture
def requests(monkeypatch):
    """Every context and continuation that was asked for, with the answer."""
    from tasks.harness_model import NetworkLM

    seen, answer = [], NetworkLM.loglikelihood

    def spy(self, asked, *args, **kwargs):
        found = answer(self, asked, *args, **kwargs)
        seen.extend(zip((each.args for each in asked), found, strict=True))
        return found

    monkeypatch.setattr(NetworkLM, "loglikelihood", spy)
    return seen


def test_log_likelihoods_and_accuracies_are_those_of_the_logits(
    run, own_tasks, evaluated, requests
):
    found = evaluated(run, "--tasks", "last_word,choice", "--task_data", own_tasks)
    network = network_of(run)
    assert len(requests) == len(ROWS) + 3 * len(CHOICES)
    for (before, after), (nats, greedy) in requests:
        wanted, is_greedy = direct(network, before, after)
        assert nats == pytest.approx(wanted, rel=1e-5)
        assert greedy == is_greedy
    assert max(len(f"{before}{after}".encode()) for (before, after), _ in requests) > LENGTH + 5
    right = [direct(network, *split(row["text"]))[1] for row in ROWS]
    accuracy = found["last_word"]["metrics"]["acc"]
    assert accuracy["value"] == pytest.approx(np.mean(right))
    assert accuracy["stderr"] == pytest.approx(np.std(right, ddof=1) / math.sqrt(len(right)))
    best = []
    for row in CHOICES:
        nats = [direct(network, row["question"], choice)[0] for choice in row["choices"]]
        best.append(int(np.argmax(nats)) == row["label"])
    assert found["choice"]["metrics"]["acc"]["value"] == pytest.approx(np.mean(best))
    assert 0 < sum(best) < len(best)
    assert {name: each["documents"] for name, each in found.items()} == {
        "last_word": len(ROWS), "choice": len(CHOICES)
    }  # fmt: skip


def test_few_shot_prompts_and_limits(run, own_tasks, evaluated, requests):
    """Examples with their answers, blank lines between, then the question; of all those given."""
    flags = ("--tasks", "last_word", "--task_data", own_tasks)
    found = evaluated(run, *flags, "--num_fewshot", 2, "--limit", 4)
    assert len(requests) == 4
    for row, ((before, after), (nats, _)) in zip(ROWS, requests, strict=False):
        question, answer = split(row["text"])
        *shots, last = before.split("\n\n")
        assert (last, after) == (question, answer)
        assert len(shots) == 2
        # lm_eval puts a space before the answer of an example; this task's have one already.
        assert {*shots} <= {" ".join(split(row["text"])) for row in SHOTS}
        assert nats == pytest.approx(direct(network_of(run), before, after)[0], rel=1e-5)
    assert found["last_word (2-shot, first 4)"]["num_fewshot"] == 2
    prompts = [asked for asked, _ in requests]
    requests.clear()
    evaluated(run, *flags, "--num_fewshot", 2, "--limit", 4)
    assert [asked for asked, _ in requests] == prompts


def test_rolling_log_likelihood_is_the_evaluations_perplexity(run, own_tasks, evaluated, tmp_path):
    """A text of whole windows, and of one that is shorter, are cut alike by both."""
    whole = evaluated(run, "--tasks", "whole", "--task_data", own_tasks)["whole"]
    nats = 0.0
    for count in (1, 2, 8):
        content = "tree of a leaf " * count  # 15 bytes each; 8 of them are 5 windows of 24
        folder = tmp_path / str(count)
        folder.mkdir()
        for name in ("train", "valid", "test"):
            (folder / f"{name}.txt").write_text(content)
        if count == 2:  # 30 bytes: lm_eval's last window has 24 tokens before its end
            nats -= direct(network_of(run), "", content[:24])[0]
            nats -= direct(network_of(run), content[5:24], content[24:])[0]
            continue
        argv = ["--test_only", "--checkpoint", run / "checkpoint.pt", "--dataset", "text"]
        argv += ["--data_path", folder, "--output_dir", folder, "--device", "cpu"]
        assert language_main.main([str(word) for word in argv]) == 0
        line = (folder / "test_results.txt").read_text()
        nats += float(re.search(r"Loss: (\S+)", line)[1]) * len(content)
    expected = nats / math.log(2) / (11 * 15)
    assert whole["metrics"]["bits_per_byte"]["value"] == pytest.approx(expected, rel=1e-5)


def test_known_tasks_with_data_of_ones_own_and_other_weights(run, own_tasks, evaluated):
    """LAMBADA's own file with our rows: its accuracy is a direct greedy one, its perplexity too."""
    flags = ("--tasks", "lambada_openai", "--task_data", own_tasks)
    found = evaluated(run, *flags, "--ema")["lambada_openai EMA"]
    answers = [direct(network_of(run, ema=True), *split(row["text"])) for row in ROWS[:5]]
    assert found["metrics"]["acc"]["value"] == pytest.approx(np.mean([x[1] for x in answers]))
    perplexity = math.exp(-np.mean([x[0] for x in answers]))
    assert found["metrics"]["perplexity"]["value"] == pytest.approx(perplexity, rel=1e-5)
    assert found["metrics"]["perplexity"]["higher_is_better"] is False
    assert found["precision"] == "float32"
    mixed = evaluated(run, *flags, "--use_amp")["lambada_openai"]
    assert mixed["precision"] == "bfloat16"
    plain = evaluated(run, *flags)["lambada_openai"]["metrics"]["perplexity"]["value"]
    rounded = mixed["metrics"]["perplexity"]["value"]
    assert rounded != plain
    assert rounded == pytest.approx(plain, rel=0.1)


@pytest.fixture
def without_lm_evals_own(monkeypatch, tmp_path):
    """No task of lm_eval's is meant, whose 14,000 files would take long to read."""
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr("tasks.harness_tasks.lm_eval.tasks.__file__", str(tmp_path / "x.py"))
    monkeypatch.setattr(
        "tasks.harness_tasks.TaskManager",
        lambda include_path, **_: TaskManager(include_path=include_path, include_defaults=False),
    )


def write_group(folder, name, members):
    (folder / f"{name}.yaml").write_text(json.dumps({
        "group": name, "task": members,
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
    }))  # fmt: skip


@pytest.mark.usefixtures("without_lm_evals_own")
def test_a_group_of_groups_counts_the_documents_of_its_tasks(run, own_tasks, evaluated, tmp_path):
    folder = shutil.copytree(own_tasks, tmp_path / "tasks")
    write_group(folder, "outer", ["inner", "last_word"])
    write_group(folder, "inner", ["choice"])
    found = evaluated(run, "--tasks", "outer", "--task_data", folder)
    assert {name: each["documents"] for name, each in found.items()} == {
        "outer": len(ROWS) + len(CHOICES), "inner": len(CHOICES),
        "last_word": len(ROWS), "choice": len(CHOICES),
    }  # fmt: skip
    values = {name: each["metrics"]["acc"]["value"] for name, each in found.items()}
    right = values["last_word"] * len(ROWS) + values["choice"] * len(CHOICES)
    assert values["outer"] == pytest.approx(right / (len(ROWS) + len(CHOICES)))


@pytest.mark.usefixtures("without_lm_evals_own")
def test_a_path_of_a_task_file_stands_for_its_name(run, own_tasks, evaluated, monkeypatch):
    by_name = evaluated(run, "--tasks", "last_word,choice", "--task_data", own_tasks)
    (run / "lm_eval.json").unlink()
    monkeypatch.chdir(own_tasks.parent)
    paths = (own_tasks / "last_word.yaml", f"{own_tasks.name}/choice.yaml")
    by_path = evaluated(run, "--tasks", ",".join(map(str, paths)))
    assert [*by_path] == [*by_name] == ["last_word", "choice"]
    for name, result in by_name.items():
        assert by_path[name] | {"at": 0} == result | {"at": 0}


def test_the_run_folder(run, own_tasks, evaluated, forked):
    """Others are added, the same is replaced; the run stays finished, and goes on with them."""
    before = (run / "train_eval_results.txt").read_text().splitlines()
    records = read_records(run)
    evaluated(run, "--tasks", "choice", "--task_data", own_tasks)
    evaluated(run, "--tasks", "last_word", "--task_data", own_tasks, "--limit", 3)
    found = evaluated(run, "--tasks", "choice", "--task_data", own_tasks)
    assert [*found] == ["choice", "last_word (first 3)"]
    lines = (run / "train_eval_results.txt").read_text().splitlines()
    added = [line for line in lines if line.startswith("[lm_eval ")]
    assert [line.split("]")[0] for line in added] == [
        "[lm_eval choice", "[lm_eval last_word (first 3)"
    ]  # fmt: skip
    assert re.search(r"acc: \S+ ± \S+, .*\| 7 documents, 0-shot, step 60, float32", added[0])
    assert [line for line in lines if line not in added] == before
    assert status_of(run).kind == FINISHED
    assert read_records(run) == records
    # Once more to the end: nothing is trained, and what was evaluated is still there.
    (code,), output = forked("language_main", "--resume", run)
    assert code == 0, output
    assert (run / "train_eval_results.txt").read_text().splitlines() == lines
    again = ("--overwrite", "--config", run / "args.txt", "--output_dir", run, "--max_steps", 1)
    (code,), output = forked("language_main", *again)
    assert code == 0, output
    assert read_evaluations(run) == {}


def test_a_kill_while_results_are_written_leaves_whole_files(run, monkeypatch):
    """At every file that is put in its place: the old or the new one, and the next goes on."""
    import os

    result = {"task": "a", "step": 60, "metrics": {"acc": {"value": 0.5, "stderr": None}},
              "num_fewshot": 0, "documents": 3, "precision": "float32", "lm_eval": "0"}  # fmt: skip
    old = (run / "train_eval_results.txt").read_text()
    replace, done = os.replace, []

    def killed(*args):
        if len(done) == passes:
            raise KeyboardInterrupt
        done.append(replace(*args))

    for passes in (0, 1):
        done.clear()
        monkeypatch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            add_evaluations(run, {f"task{passes}": result})
        monkeypatch.setattr(os, "replace", replace)
        assert (run / "train_eval_results.txt").read_text() == old
        assert [*read_evaluations(run)] == ["task1"] * passes
    add_evaluations(run, {"task2": result})
    lines = (run / "train_eval_results.txt").read_text().splitlines()
    assert sum(line.startswith(("[lm_eval task1] ", "[lm_eval task2] ")) for line in lines) == 2
    assert not [path for path in run.iterdir() if path.name.endswith((".tmp", ".lock"))]


# --- the harness's model ---


@pytest.fixture(scope="module")
def model(trained):
    from contextlib import nullcontext

    from pipelines.text.tokenizer import ByteTokenizer
    from tasks.harness_model import NetworkLM

    return NetworkLM(network_of(trained), ByteTokenizer(), LENGTH, 3, nullcontext)


def asked(*arguments):
    return [SimpleNamespace(args=each) for each in arguments]


def test_texts_that_are_empty_or_longer_than_the_context(model):
    long = "a leaf of a tree " * 5
    pairs = [("", "tree"), ("  ", "tree"), ("of", long), (long, " a")]
    found = model.loglikelihood(asked(*pairs), disable_tqdm=True)
    network = model.network
    assert found[0][0] == pytest.approx(direct(network, "", "tree")[0], rel=1e-5)
    assert found[1][0] == pytest.approx(direct(network, "", "  tree")[0], rel=1e-5)
    whole, pieces = f"of{long}", 0.0
    for start in range(2, len(whole), LENGTH):  # as many as fit at once, and what fits before them
        end = min(start + LENGTH, len(whole))
        before = whole[max(0, end - LENGTH - 1) : start]
        pieces += direct(network, before, whole[start:end])[0]
    assert found[2][0] == pytest.approx(pieces, rel=1e-5)
    # A space at a context's end belongs to what follows, as lm_eval has it.
    assert found[3][0] == pytest.approx(direct(network, long[:-1], "  a")[0], rel=1e-5)
    assert model.loglikelihood_rolling(asked(("",), ("tree",)))[0] == 0.0


def test_generation_stops_where_it_is_told(model):
    """Greedy, against a loop without kept keys; batches of equal and of other lengths."""
    contexts = ["tree of", "a leaf", "leaf", "gr\u00fcn a", "of a tree of a tree of a tree of"]
    requests = [(context, {"until": ["\n", "f "], "max_gen_toks": 12}) for context in contexts]
    found = model.generate_until(asked(*requests))
    for context, text_found in zip(contexts, found, strict=True):
        ids, drawn = list(context.encode())[-(LENGTH - 12) :], []
        while len(drawn) < 12 and not re.search("\n|f ", bytes(drawn).decode(errors="replace")):
            with torch.no_grad():
                token = model.network(torch.tensor([[*ids, *drawn][-LENGTH:]]))[0, -1].argmax()
            if token == END:
                break
            drawn.append(int(token))
        assert text_found == re.split("\n|f ", bytes(drawn).decode(errors="replace"))[0]
    drawing = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 1.0, "top_k": 40}
    twice = [model.generate_until(asked(("tree", drawing), ("tree", drawing))) for _ in range(2)]
    assert twice[0] == twice[1]
    assert twice[0][0] != twice[0][1]


# --- reports ---


@pytest.mark.usefixtures("quick_figures")
def test_reports_have_means_over_seeds_and_differences(tmp_path):
    values = {"ReLU": [0.30, 0.34, 0.32], "ZiLU": [0.40, 0.46, 0.41]}
    for name, each in values.items():
        for seed, value in enumerate(each):
            folder = vision_run(tmp_path / f"{name}{seed}", 90, activation=name, seed=seed)
            result = {
                "task": "hellaswag", "step": 30, "num_fewshot": 0, "documents": 100, "version": 1,
                "precision": "float32", "lm_eval": "0.4.13",
                "metrics": {"acc": {"value": value, "stderr": 0.02, "higher_is_better": True}},
            }  # fmt: skip
            add_evaluations(folder, {"hellaswag": result})
    # Of weights that the run no longer has, and on other documents than the others.
    add_evaluations(tmp_path / "ReLU0", {"piqa": result | {"step": 20}})
    odd = vision_run(tmp_path / "ReLU9", 90, activation="ReLU", seed=9)
    add_evaluations(odd, {"hellaswag": result | {"documents": 7}})
    report_on(tmp_path, "--baseline", "ReLU")
    rows = table(tmp_path, "evaluations").set_index("setting")
    assert rows["task"].unique().tolist() == ["hellaswag"]
    for name, each in values.items():
        (label,) = [setting for setting in rows.index if setting.startswith(name)]
        assert rows.loc[label, "n"] == 3
        assert rows.loc[label, "mean"] == pytest.approx(np.mean(each))
        assert rows.loc[label, "mean_sd"] == pytest.approx(np.std(each, ddof=1))
        assert rows.loc[label, "stderr"] == pytest.approx(0.02)
    (row,) = table(tmp_path, "evaluation_comparisons").itertuples()
    assert row.difference == pytest.approx(np.mean(np.subtract(values["ZiLU"], values["ReLU"])))
    written = text(tmp_path)
    assert "### Standard evaluations" in written
    assert "piqa was evaluated at step 20, and the run is at 30" in written
    assert "hellaswag has 7 documents" in written


# --- mistakes ---


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tasks", "last_wrod"], "--tasks last_wrod: unknown task; did you mean last_word? "),
        (["--tasks", ","], "--tasks: expected names of tasks"),
        (["--tasks", "last_word", "--task_data", "/nowhere"], "--task_data /nowhere: no such"),
        (["--tasks", "last_word", "--tokenizer", "gpt2"], "--tokenizer gpt2: the checkpoint was"),
        (["--tasks", "last_word", "--activation", "ReLU"], "contradicts the checkpoint"),
        (["--tasks", "/nowhere/x.yaml"], "--tasks /nowhere/x.yaml: no such file; give a task's"),
        (["--tasks", "/nowhere/**x"], "--tasks /nowhere/**x: unknown task; "),
        (["--tasks", "TASKS/empty.yaml"], "empty.yaml: is no task of lm_eval's, or has the name"),
        (["--tasks", "TASKS/twin.yaml"], "twin.yaml: is no task of lm_eval's, or has the"),
        (["--tasks", "broken"], "--tasks broken: cannot be loaded ("),
        (["--tasks", "last_word", "--num_fewshot", "-1"], "--num_fewshot: expected a whole number"),
        (["--tasks", "elsewhere"], "Hugging Face (HF_HUB_OFFLINE is set); give --task_data"),
    ],
)
@pytest.mark.usefixtures("without_lm_evals_own")
def test_mistakes(run, own_tasks, tmp_path, mistake_in, monkeypatch, flags, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = shutil.copytree(own_tasks, tmp_path / "tasks")
    (folder / "broken.yaml").write_text(LAST_WORD.replace("last_word", "broken").replace(
        "last.jsonl", "gone.jsonl"))  # fmt: skip
    elsewhere = re.sub("(?m)^dataset_(path|kwargs): .*\n", "", CHOICE)
    elsewhere = elsewhere.replace("task: choice", "task: elsewhere\ndataset_path: some/thing")
    (folder / "elsewhere.yaml").write_text(elsewhere)
    (folder / "empty.yaml").write_text("{}")
    (folder / "twin.yaml").write_text(CHOICE)
    flags = [flag.replace("TASKS", str(folder)) for flag in flags]
    where = () if "--task_data" in flags else ("--task_data", folder)
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert message in mistake_in(evaluate_lm, run, "--device", "cpu", *flags, *where)
    assert before == {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}


def test_runs_that_cannot_be_evaluated(run, tmp_path, mistake_in):
    asked_for = ("--tasks", "hellaswag")
    assert "no run folder (No such file" in mistake_in(evaluate_lm, tmp_path / "none", *asked_for)
    vision = vision_run(tmp_path / "vision", 90)
    assert "not a run of language_main.py" in mistake_in(evaluate_lm, vision, *asked_for)
    results = run / "train_eval_results.txt"
    lines = results.read_text().splitlines(keepends=True)
    results.write_text(lines[0])
    assert "the run is interrupted, not finished" in mistake_in(evaluate_lm, run, *asked_for)
    results.write_text(f"{lines[0]}[Diverged] at step 3\n")
    assert "the run is diverged, not finished" in mistake_in(evaluate_lm, run, *asked_for)


def test_help_is_quick_and_a_missing_package_is_named(run_program, mistake_in, run, monkeypatch):
    code = "import sys, evaluate_lm; sys.exit(bool({'torch', 'numpy', 'yaml'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    done = run_program("evaluate_lm.py", "--help")
    assert done.returncode == 0
    assert "--task_data" in done.stdout
    monkeypatch.setattr(evaluate_lm, "is_installed", lambda name: False)
    line = mistake_in(evaluate_lm, run, "--tasks", "hellaswag")
    assert line == "error: lm_eval is not installed: pip install lm_eval\n"
