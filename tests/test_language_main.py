"""language_main.py as a user runs it, on a small text as bytes: seconds a run."""

import functools
import hashlib
import json
import math
import os
import re
import shutil
import time
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import made_tokenizers
from helpers.commands import command
from helpers.corpora import write_text
from helpers.resumable import TERM, TRY_AGAIN, assert_same_result
from helpers.tiny_gpt2 import hugging_face, save
from torch.nn import functional as F

import dataset
import language_main
from benchmarks.plain_gpt import PlainGPT, plain_optimizer, plain_step
from cli.language import SIZES, LanguageConfig
from cli.run import RunConfig
from pipelines.text import tokenizer
from run_folder.checkpoint import load_checkpoint
from run_folder.folder import RunFolder
from tasks import language
from tasks.language import LanguageModelling, LanguageProgram
from train_eval import Place, Trainer

SMALL = (
    "--dataset", "text", "--tokenizer", "bytes", "--embedding_dim", "16",
    "--num_attention_heads", "2", "--num_layers", "2", "--max_seq_length", "32",
    "--batch_size", "8", "--num_epochs", "2", "--device", "cpu",
)  # fmt: skip
# One layer, and evaluations without a full batch, which are not compiled: each kernel of a graph
# takes the C++ compiler 2 s or more, and there are 19 where they would be 25.
COMPILED = (
    "--use_amp", "--use_compiled", "--num_layers", "1", "--batch_size", "32", "--max_steps", "3",
)  # fmt: skip
RESULT = r"Loss: \d+\.\d{8} Perplexity: \d+\.\d{4} \(per word [\d.e+]+, \d+\.\d{4} bits per byte\)"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture
def train(text):
    def run(folder, *flags):
        argv = [*SMALL, "--data_path", text, "--output_dir", folder, *flags]
        assert language_main.main([str(word) for word in argv]) == 0
        return folder

    return run


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory):
    """One finished run; tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("run") / "zilu"
    flags = ("--sigma", "0.5", "--eval_interval", "10", "--data_path", text)
    argv = [*SMALL, *flags, "--output_dir", folder]
    assert language_main.main([str(word) for word in argv]) == 0
    return folder


def results(folder):
    """train_eval_results.txt without times."""
    return re.sub(r"Time: \S+", "", (folder / "train_eval_results.txt").read_text())


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def mistake(mistake_in, text):
    """Run the program on flags that are a mistake; returns its one line."""
    return functools.partial(mistake_in, language_main, *SMALL, "--data_path", text)


# --- the run folder ---


def test_the_run_folder(trained):
    lines = (trained / "train_eval_results.txt").read_text().splitlines()
    labels = [line.split("]")[0].split(":")[0] for line in lines]
    steps = math.ceil(records(trained)[-1]["step"] / 10) - 1
    assert sorted(labels[: steps + 2]) == [
        "[Epoch 001", "[Epoch 002", *(f"[Step {10 * n:06d}" for n in range(1, steps + 1))
    ]  # fmt: skip
    assert re.fullmatch(
        rf"\[Epoch 001\] Time: \d+\.\d{{4}}s \| \[Train\] {RESULT} \| \[Val\] {RESULT}",
        next(line for line in lines if line.startswith("[Epoch 001]")),
    )
    assert [line.split(":")[0] for line in lines[steps + 2 :]] == [
        "[Summary] Final", "[Summary] Best validation",
    ]  # fmt: skip
    assert re.fullmatch(
        rf"\[Summary\] Final: epoch 002 \| \[Val\] {RESULT} \| \[Test\] {RESULT}", lines[steps + 2]
    )
    found = records(trained)
    assert ["test" in record for record in found] == [False] * (len(found) - 1) + [True]
    assert all(record["tokens_per_second"] > 0 for record in found)


def test_args_txt_names_the_text_and_its_size(trained, text):
    content = yaml.safe_load((trained / "args.txt").read_text())
    assert LanguageConfig.flags().keys() <= content.keys()
    resolved = content["resolved"]
    test = (text / "test.txt").read_bytes()
    assert resolved["counts"]["test"] == {
        "tokens": len(test),
        "bytes": len(test),
        "words": len(test.split()) + test.count(b"\n"),
    }
    assert resolved["vocab_size"] == 257
    assert "text" in resolved["text"]
    # A sequence more than the tokens fill: every token is a target in every epoch.
    train = len((text / "train.txt").read_bytes()) + 1
    assert resolved["total_steps"] == 2 * math.ceil(math.ceil(train / 32) / 8)


def test_model_txt_lists_every_site(trained):
    lines = (trained / "model.txt").read_text().splitlines()
    assert lines[2:5] == [
        "Activation sites: 2", "  h.0.mlp.act: ZiLU(sigma=0.5)", "  h.1.mlp.act: ZiLU(sigma=0.5)"
    ]  # fmt: skip


# --- perplexity ---


def direct_losses(model, ids, length, stride):
    """Nats of every token but the first, each from a forward pass of its own window alone."""
    losses, start, scored = [], 0, 1
    while scored < len(ids):
        end = min(start + length + 1, len(ids))
        for i in range(scored, end):
            logits = model(torch.tensor([ids[start:i]]))[0, -1]
            losses.append(F.cross_entropy(logits.double(), torch.tensor(ids[i])).item())
        start, scored = start + stride, end
    return losses


@pytest.mark.parametrize("stride", [None, 7, 1])
def test_perplexity_against_a_direct_computation(tmp_path, train, stride):
    """Every token once, overlap and remainder included, whatever the batch size."""
    text = write_text(tmp_path / "text", words=(300, 60, 57))
    flags = ("--data_path", text, "--max_steps", "20", "--lr", "1e-2", "--dropout", "0.5")
    flags += () if stride is None else ("--eval_stride", stride)
    found = []
    for batch_size in (8, 1, 5):
        folder = train(tmp_path / str(batch_size), *flags)
        flags_of_test = ("--test_only", "--checkpoint", tmp_path / "8" / "checkpoint.pt")
        argv = [*SMALL, *flags, *flags_of_test, "--batch_size", batch_size, "--output_dir", folder]
        language_main.main([str(word) for word in argv])
        line = (folder / "test_results.txt").read_text()
        found.append(float(re.search(r"Loss: (\S+)", line)[1]))
    words = ["--embedding_dim", "16", "--num_attention_heads", "2", "--num_layers", "2"]
    config = command(LanguageConfig, *words, "--max_seq_length", "32").config
    model = LanguageProgram(config).network_for(257).eval()
    model.load_state_dict(load_checkpoint(tmp_path / "8" / "checkpoint.pt")["model"])
    content = (text / "test.txt").read_bytes()
    with torch.no_grad():
        losses = direct_losses(model, [256, *content], 32, stride or 32)
    assert len(losses) == len(content)
    nats = math.fsum(losses)
    assert found == pytest.approx([nats / len(content)] * 3, rel=2e-6)
    test = records(tmp_path / "8")[-1]["test"]
    assert test["count"] == len(content)
    assert test["perplexity"] == pytest.approx(math.exp(nats / len(content)), rel=1e-5)
    num_words = len(content.decode().split()) + content.count(b"\n")
    assert test["word_perplexity"] == pytest.approx(math.exp(nats / num_words), rel=1e-4)
    assert test["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(content), rel=1e-5)


def test_perplexities_that_no_float_holds_are_infinite():
    class Loader:
        counts = dataset_counts(tokens=1000, words=1, bytes=1000)

    metrics = LanguageModelling().metrics([3000.0, 1000], Loader)
    assert metrics["perplexity"] == pytest.approx(math.e**3)
    assert metrics["word_perplexity"] == math.inf


def dataset_counts(**facts):
    from pipelines.text.token_folders import Counts

    return Counts(**facts)


# --- training ---


def losses_of_both_loops(flags, data, vocab_size, steps=200):
    """The loss before each step: of this project's loop, and of a plain GPT in a plain loop."""
    common = ("--dropout", "0", "--activation", "GELU", "--device", "cpu", "--max_steps", steps)
    config = command(LanguageConfig, *flags, *common).config
    program = LanguageProgram(config)
    model = program.network_for(vocab_size)
    width, heads, layers = (getattr(config.model, name) for name in SIZES)
    plain = PlainGPT(vocab_size, config.model.max_seq_length, width, heads, layers)
    plain.copy_weights(model)
    parts = program.objective(model, data), data, config.training, RunConfig()
    trainer = Trainer(*parts, RunFolder("unused"), {})
    optimizer, warmup = plain_optimizer(plain, config.training.lr), steps // 20
    ours, theirs = [], []
    for epoch in range(1, config.training.num_epochs + 1):
        trainer.state.place = Place(epoch)
        for ids, targets in data.train.batches(epoch):
            if len(ours) == steps:
                return ours, theirs
            step = len(ours)
            nats, count = trainer.train_step([(ids, targets)]).tolist()
            ours.append(nats / count)
            decay = 1 - (step - warmup) / (steps - warmup)
            factor = min((step + 1) / warmup, decay if step >= warmup else 1)
            for group in optimizer.param_groups:
                group["lr"] = config.training.lr * factor
            theirs.append(plain_step(plain, optimizer, ids, targets).item())
    raise AssertionError("the text is too short for so many steps")


def test_the_loss_follows_a_plain_loop(text):
    data = dataset.load_text("text", text, tokenizer="bytes", block_size=32, batch_size=8)
    flags = (*SMALL, "--lr", "3e-3", "--num_epochs", "20")
    ours, theirs = losses_of_both_loops(flags, data, 257)
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < 1e-3
    assert ours[-1] < ours[0] - 2


@pytest.mark.skipif("ZILU_TEST_DATA" not in os.environ, reason="needs ZILU_TEST_DATA")
@pytest.mark.parametrize("tokenizer", ["bytes", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_the_loss_on_wikitext_follows_a_plain_loop(tmp_path, tokenizer):
    source = Path(os.environ["ZILU_TEST_DATA"])
    (tmp_path / "gpt2").symlink_to(source / "gpt2")
    for split, name in (("train", "valid"), ("valid", "test"), ("test", "test")):
        (tmp_path / f"{split}.txt").symlink_to(source / "wikitext" / f"{name}.txt")
    data = dataset.load_text("text", tmp_path, tokenizer=tokenizer, block_size=64, batch_size=4)
    flags = ("--embedding_dim", "64", "--num_attention_heads", "4", "--num_layers", "2",
             "--max_seq_length", "64", "--batch_size", "4", "--lr", "1e-3")  # fmt: skip
    ours, theirs = losses_of_both_loops(flags, data, data.vocab_size)
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < 1e-3
    assert ours[-1] < ours[0] - 1.5


@pytest.mark.parametrize("flags", [(), pytest.param(COMPILED, marks=pytest.mark.slow)])
def test_the_same_command_twice_gives_the_same_results(tmp_path, train, flags):
    first, second = (train(tmp_path / name, *flags) for name in "ab")
    assert results(first) == results(second)
    pair = (load_checkpoint(folder / "checkpoint.pt")["model"] for folder in (first, second))
    for mine, theirs in zip(*(weights.values() for weights in pair), strict=True):
        assert torch.equal(mine, theirs)


def test_initial_weights_do_not_depend_on_the_activation(tmp_path, train):
    # A learning rate this small changes nothing: the checkpoint holds the initial weights.
    still = ("--lr", "1e-30", "--weight_decay", "0", "--max_steps", "1", "--optimizer", "sgd")
    flags = {"relu": ("ReLU",), "prelu": ("PReLU",), "other": ("ReLU", "--init_seed", "1")}
    found = {
        name: load_checkpoint(
            train(tmp_path / name, *still, "--activation", *own) / "checkpoint.pt"
        )
        for name, own in flags.items()
    }
    for key, value in found["relu"]["model"].items():
        assert (value - found["prelu"]["model"][key]).abs().max() < 1e-20
    assert not torch.equal(found["relu"]["model"]["wpe"], found["other"]["model"]["wpe"])


def test_accumulated_batches_equal_large_ones(tmp_path, train):
    flags = ("--dropout", "0", "--batch_size")
    large = records(train(tmp_path / "large", *flags, "8"))
    small = records(train(tmp_path / "small", *flags, "2", "--grad_accum_steps", "4"))
    assert [r["step"] for r in small] == [r["step"] for r in large]
    for split in ("train", "val"):
        wanted = [r[split]["loss"] for r in large]
        assert [r[split]["loss"] for r in small] == pytest.approx(wanted, rel=1e-5)


def test_divergence_ends_with_exit_code_3_and_no_perplexity(tmp_path, text, capsys):
    folder = tmp_path / "run"
    flags = ("--lr", "1e30", "--clip_grad_norm", "0", "--optimizer", "sgd", "--warmup", "0")
    argv = [*SMALL, *flags, "--data_path", text, "--output_dir", folder]
    assert language_main.main([str(word) for word in argv]) == 3
    assert "error: the run diverged: " in capsys.readouterr().err
    assert "Perplexity" not in (folder / "train_eval_results.txt").read_text()


# --- pretrained networks ---


@pytest.fixture
def pretrained(tmp_path):
    """A folder of a small Hugging Face GPT-2 for bytes, and the network."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=257, n_positions=48, n_embd=24, n_layer=3, n_head=3, initializer_range=0.3
    )
    torch.manual_seed(0)
    network = transformers.GPT2LMHeadModel(config).eval()
    network.save_pretrained(tmp_path / "pretrained")
    return tmp_path / "pretrained", network


def test_a_pretrained_network_is_evaluated_and_trained_on(tmp_path, text, pretrained, capsys):
    folder, network = pretrained
    common = ["--dataset", "text", "--tokenizer", "bytes", "--data_path", text, "--device", "cpu"]
    common += ["--activation", "GELU", "--init_from", folder, "--max_seq_length", "48"]
    argv = [*common, "--test_only", "--output_dir", tmp_path / "none"]
    assert language_main.main([str(word) for word in argv]) == 0
    line = (tmp_path / "none" / "test_results.txt").read_text()
    ids = torch.tensor([[256, *(text / "test.txt").read_bytes()]])
    nats = 0.0
    with torch.no_grad():
        for start in range(0, ids.shape[1] - 1, 48):
            window = ids[:, start : start + 49]
            logits = network(window[:, :-1]).logits
            nats += F.cross_entropy(logits[0], window[0, 1:], reduction="sum").item()
    # Its activation is the tanh form of GELU, which is up to 5e-4 off.
    loss = float(re.search(r"Loss: (\S+)", line)[1])
    assert loss == pytest.approx(nats / (ids.shape[1] - 1), rel=1e-3)
    assert f"pretrained ({folder})" in line
    capsys.readouterr()
    argv = [*common, "--max_steps", "1", "--lr", "1e-30", "--output_dir", tmp_path / "run"]
    assert language_main.main([str(word) for word in argv]) == 0
    assert records(tmp_path / "run")[-1]["test"]["loss"] == pytest.approx(loss, rel=1e-5)
    # Its checkpoint does not need the folder any more.
    shutil.rmtree(folder)
    argv = ["--test_only", "--output_dir", tmp_path / "run", "--device", "cpu"]
    assert language_main.main([str(word) for word in argv]) == 0


def test_a_pretrained_network_of_another_shape_is_refused(pretrained, mistake):
    folder, _ = pretrained
    line = mistake("--init_from", folder)
    assert "has embedding_dim 24, not 16: --embedding_dim 24" in line
    # And before any data is looked for.
    assert "no such folder" in mistake("--init_from", "nowhere", "--data_path", "nowhere")


# --- evaluation alone, samples ---


def test_test_only_repeats_the_final_result(trained, tmp_path, capsys):
    copy = shutil.copytree(trained, tmp_path / "copy")
    final = results(copy).splitlines()[-2].split("[Test] ")[1]
    argv = ["--test_only", "--device", "cpu", "--output_dir", str(copy), "--batch_size", "8"]
    assert language_main.main(argv) == 0
    assert f"[Test] {final} | " in capsys.readouterr().out
    line = (copy / "test_results.txt").read_text()
    assert line.startswith(f"[Test] {final} | ")
    assert "| stride 32 of 32, float32 | text" in line
    assert language_main.main([*argv, "--eval_stride", "8"]) == 0
    assert final not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_layers", "3"], "--num_layers 3 contradicts the checkpoint, which has 2"),
        (["--max_seq_length", "16"], "--max_seq_length 16 contradicts the checkpoint"),
        (["--activation", "GELU"], "--activation GELU contradicts the checkpoint, which has ZiLU"),
        (["--vocab_size", "300"], "--vocab_size 300 contradicts the checkpoint, which has 257"),
    ],
)
def test_test_only_refuses_what_contradicts_the_checkpoint(trained, mistake, flags, message):
    assert message in mistake("--test_only", "--checkpoint", trained / "checkpoint.pt", *flags)


def test_a_network_without_biases_is_resumed_and_evaluated(text, tmp_path, forked, mistake, capsys):
    """As one run in two parts; the checkpoint says that it has no biases, and so do reports."""
    flags = [*SMALL, "--data_path", text, "--no_bias", "--max_steps", "7"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    (code,), output = forked("language_main", *flags, "--output_dir", whole)
    assert code == 0, output
    keys = load_checkpoint(whole / "checkpoint.pt")["model"].keys()
    assert not [key for key in keys if key.endswith("bias")]
    save = ("--output_dir", parts, "--save_interval", "3")
    (code,), output = forked("language_main", *flags, *save, faults={0: ("step", TERM, 4)})
    assert code == TRY_AGAIN, output
    (code,), output = forked("language_main", "--resume", parts, "--data_path", text)
    assert code == 0, output
    assert_same_result(parts, whole)
    argv = ["--test_only", "--output_dir", str(whole), "--data_path", str(text)]
    assert language_main.main(argv) == 0
    loss = records(whole)[-1]["test"]["loss"]
    assert float(re.search(r"\[Test\] Loss: (\S+)", capsys.readouterr().out)[1]) == (
        pytest.approx(loss, rel=1e-6)
    )
    checkpoint = ("--test_only", "--checkpoint", whole / "checkpoint.pt")
    line = mistake(*checkpoint, "--no-no_bias")
    assert "--no_bias False contradicts the checkpoint, which has True" in line
    line = mistake("--init_from", whole, "--output_dir", tmp_path / "new")
    assert "lacks h.0.attn.c_attn.bias" in line
    assert "args.txt" in line


def test_biases_of_a_checkpoint_are_not_dropped(mistake, mistake_in, tmp_path, capsys):
    folder = save(tmp_path / "gpt2", hugging_face())
    capsys.readouterr()
    shape = ("--embedding_dim", "24", "--num_attention_heads", "3", "--max_seq_length", "16")
    line = mistake("--init_from", folder, "--no_bias", *shape, "--vocab_size", "61")
    assert line == f"error: --init_from {folder} has biases: leave out --no_bias\n"
    line = mistake_in(language_main, "--model", "hf/anywhere", "--no_bias")
    assert "--no_bias does not apply to hf/anywhere" in line


def test_test_only_refuses_another_tokenizer_and_another_kind_of_model(trained, mistake, tmp_path):
    from tokenizers import Tokenizer, models

    path = trained / "checkpoint.pt"
    transformers = pytest.importorskip("transformers")
    words = models.WordLevel({"a": 0, "[UNK]": 1, "[EOS]": 2}, unk_token="[UNK]")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(words), eos_token="[EOS]", unk_token="[UNK]"
    ).save_pretrained(tmp_path / "words")
    line = mistake("--test_only", "--checkpoint", path, "--tokenizer", tmp_path / "words")
    assert "words: the checkpoint was trained with another one; give --tokenizer bytes" in line
    line = mistake("--test_only", "--checkpoint", path, "--init_from", tmp_path / "nowhere")
    assert "--init_from and a checkpoint are two networks" in line
    content = torch.load(path, weights_only=True)
    content["settings"]["kind"] = "vision"
    torch.save(content, tmp_path / "vision.pt")
    line = mistake("--test_only", "--checkpoint", tmp_path / "vision.pt")
    assert "not a checkpoint of a language model" in line


def test_args_txt_tells_sizes_and_digests_of_every_corpus(text, tmp_path):
    """Each is made again here, of the files themselves."""
    names = {"train": "train", "val": "valid", "test": "test"}
    running = {split: (text / f"{name}.txt").read_bytes() for split, name in names.items()}
    documents = {split: content.splitlines() for split, content in running.items()}
    for split, lines in documents.items():
        rows = [json.dumps({"text": line.decode()}) + "\n" for line in lines]
        (tmp_path / f"{split}.jsonl").write_text("".join(rows))
        ids = [[256, *line] for line in lines]
        np.array([*chain(*ids)], np.uint16).tofile(tmp_path / f"{split}.bin")

    def hashed(content):
        return hashlib.blake2b(content, digest_size=16).digest()

    def words(content):
        return len(content.split()) + content.count(b"\n")

    expected = {"text": {}, "jsonl/*.jsonl": {}, "bin/*.bin": {}}
    for split, content in running.items():
        lines, size = documents[split], len(content)
        tokens = sum(map(len, lines)) + len(lines) - 1
        expected["text"][split] = (
            hashed(content), {"tokens": size, "words": words(content), "bytes": size},
        )  # fmt: skip
        expected["jsonl/*.jsonl"][split] = (
            functools.reduce(lambda h, line: hashed(h + hashed(line)), lines, b""),
            {"tokens": tokens, "words": sum(map(words, lines)), "bytes": sum(map(len, lines)),
             "documents": len(lines)},
        )  # fmt: skip
        expected["bin/*.bin"][split] = (
            hashed(hashed((tmp_path / f"{split}.bin").read_bytes())),
            {"tokens": tokens, "documents": len(lines)},
        )
    for name, splits in expected.items():
        folder = text if name == "text" else tmp_path
        flags = [*SMALL, "--dataset", name, "--data_path", folder]
        program = LanguageProgram(command(LanguageConfig, *flags).config)
        found = program.resolved(program.load_data({}))
        assert found["counts"] == {split: facts for split, (_, facts) in splits.items()}
        assert found["text_digests"] == {
            split: digest.hex() for split, (digest, _) in splits.items()
        }


def test_samples_continue_the_prompt(trained, tmp_path, train, capsys):
    argv = ["--test_only", "--device", "cpu", "--checkpoint", str(trained / "checkpoint.pt")]
    argv += ["--sample", "3", "--prompt", "tree of"]
    shown = []
    for seed in ("0", "0", "1"):
        language_main.main([*argv, "--seed", seed, "--output_dir", str(tmp_path / "test")])
        shown.append(capsys.readouterr().out)
        assert re.findall(r"^\[Sample (\d)\] tree of", shown[-1], re.MULTILINE) == ["1", "2", "3"]
    samples = [text.split("[Sample 1]")[1] for text in shown]
    assert samples[0] == samples[1] != samples[2]
    assert len(set(re.split(r"\[Sample \d\]", shown[0])[1:])) == 3
    # The most likely tokens are the same for every number; those of few are drawn, by the number.
    for flags, different in ((("--temperature", "0"), 1), (("--top_k", "4", "--top_p", "0.9"), 3)):
        language_main.main([*argv, *flags, "--output_dir", str(tmp_path / "test")])
        drawn = re.split(r"\[Sample \d\]", capsys.readouterr().out)[1:]
        assert len({each.strip() for each in drawn}) == different
    # A number's draws do not depend on how many there are.
    language_main.main([*argv, "--sample", "2", "--output_dir", str(tmp_path / "test")])
    assert re.split(r"\[Sample \d\]", capsys.readouterr().out)[1:] == [
        each.rstrip("\n") + "\n" for each in re.split(r"\[Sample \d\]", shown[0])[1:3]
    ]
    # A padded vocabulary has ids that no tokenizer knows; a run can end with samples too.
    train(tmp_path / "run", "--max_steps", "1", "--sample", "1", "--vocab_size", "300")
    assert "[Sample 1] " in capsys.readouterr().out


def test_a_prompts_tokens_are_those_of_the_training_text(text, tmp_path, monkeypatch):
    """Special strings are text in documents, and one token in running text."""
    prompt, shown = "a tree<|endoftext|>of", []
    made_tokenizers.byte_level("a tree of leaf\n" * 9).model.save(str(tmp_path))
    for split in ("train", "val", "test"):
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / f"{split}.jsonl").write_text(json.dumps({"text": prompt}))
    monkeypatch.setattr(
        language, "print_samples",
        lambda run, model, vocabulary: shown.append(vocabulary.encode(run.prompt)),
    )  # fmt: skip
    flags = [*SMALL, "--tokenizer", tmp_path, "--sample", 1, "--prompt", prompt]
    documents = ["--dataset", "jsonl/set", "--data_path", tmp_path]
    first = [*flags, *documents, "--max_steps", 1, "--output_dir", tmp_path / "documents"]
    assert language_main.main([*map(str, first)]) == 0
    corpus = dataset.load_text(
        "jsonl/set", str(tmp_path), tokenizer=str(tmp_path), block_size=8, batch_size=1
    )
    assert len(shown[0]) == corpus.counts["train"].tokens > 13
    # The text of an evaluation changes nothing.
    running = ["--dataset", "text", "--data_path", text]
    again = [
        "--test_only",
        "--checkpoint",
        tmp_path / "documents" / "checkpoint.pt",
        "--output_dir",
        tmp_path,
        "--device",
        "cpu",
        "--sample",
        1,
        "--prompt",
        prompt,
    ]
    assert language_main.main([*map(str, [*again, *running])]) == 0
    assert shown[1] == shown[0]
    last = [*flags, *running, "--max_steps", 1, "--output_dir", tmp_path / "running"]
    assert language_main.main([*map(str, last)]) == 0
    assert shown[2] == tokenizer.load(str(tmp_path), ".").encode(prompt) != shown[0]


def test_a_prompt_that_is_no_text_and_a_terminal_without_letters_end_no_run(run_program, tmp_path):
    done = run_program(
        "language_main.py", *SMALL, "--data_path", write_text(tmp_path / "text"),
        "--max_steps", "1", "--output_dir", tmp_path / "run", "--sample", "1", "--prompt",
        "gr\udcff\u00fcn",
        PYTHONIOENCODING="ascii",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "[Sample 1] gr" in done.stdout


# --- mistakes ---


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_attention_heads", "3"], "--embedding_dim 16 cannot be divided"),
        (["--vocab_size", "256"], "--vocab_size 256: --tokenizer bytes has 257 ids"),
        (["--eval_stride", "33"], "--eval_stride 33"),
        (["--prompt", "x"], "--prompt has no effect without --sample"),
        (["--top_k", "3"], "--top_k has no effect without --sample"),
        (["--temperature", "0"], "--temperature has no effect without --sample"),
        (["--sample", "1", "--top_p", "0"], "--top_p: expected a number above 0 and of at most 1"),
        (["--model", "gpt3"], "--model: unknown value 'gpt3'"),
        (["--dataset", "wikitext4"], "--dataset: unknown value 'wikitext4'; did you mean wiki"),
        (["--tokenizer", "nowhere"], "--tokenizer nowhere"),
        (["--data_path", "nowhere"], "nowhere"),
        (["--dropout", "1"], "--dropout: expected a number of at least 0 and below 1"),
        (["--batch_size", "0"], "--batch_size: expected a whole number of at least 1"),
        (["--augment"], "unknown argument '--augment'"),
        (["--embedding_dim", "1000000000"], "the model does not fit into the memory of cpu"),
        (["--embedding_dim", "100000000000", "--num_attention_heads", "7"], "cannot be divided"),
        (["--tokenizer", "a\0b"], "--tokenizer: a NUL character"),
        (["--warmup", "9" * 400 + "ep"], "--warmup: expected steps"),
        (["--activation", "ReLU", "--learn_sigma"], "--learn_sigma: ReLU has no sigma"),
        (["--test_only", "--checkpoint", "nowhere.pt"], "nowhere.pt: no such file"),
    ],
)
def test_mistakes_in_flags(mistake, tmp_path, flags, message):
    assert message in mistake("--output_dir", tmp_path / "run", *flags)
    assert not (tmp_path / "run").exists()


def test_an_empty_split_is_named(mistake, tmp_path):
    folder = write_text(tmp_path / "text")
    (folder / "valid.txt").write_text("")
    assert "valid.txt" in mistake("--data_path", folder, "--output_dir", tmp_path / "run")


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["--tokenizer", "bytes"], "wikitext-103-v1"),
        (["--dataset", "wikitext103-raw", "--tokenizer", "bytes"], "wikitext-103-raw-v1"),
        (["--dataset", "pydoc"], "gpt2"),
        (["--dataset", "text", "--tokenizer", "bytes"], "train.txt"),
    ],
)
def test_without_network_and_files_one_line_says_what_is_missing(
    run_program, tmp_path, flags, wanted
):
    started = time.perf_counter()
    done = run_program(
        "language_main.py", "--data_path", tmp_path / "Data", "--device", "cpu", *flags,
        "--output_dir", tmp_path / "run",
        HF_HOME=str(tmp_path / "hf"), HF_ENDPOINT="http://127.0.0.1:9",
    )  # fmt: skip
    seconds = time.perf_counter() - started
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert wanted in done.stderr
    assert str(tmp_path / "Data") in done.stderr
    assert not (tmp_path / "run").exists()
    assert seconds < 20  # 5 on an idle machine
