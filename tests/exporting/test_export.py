"""export.py as a user runs it, on networks of some thousand parameters."""

import importlib
import json
import os
import shutil

import pytest
import torch
from helpers.exports import (
    IMAGES,
    LEARNED,
    TINY,
    configuration,
    exported,
    flags_of,
    skip_without_packages,
    trained,
)

import export
import language_main
import vision_main
import zilu
from cli.language import LanguageDataConfig
from exporting import checking, fresh_process, tokenizer
from exporting.loading import load
from pipelines.text import tokenizer as tokenizers
from run_folder.folder import RunFolder

# --- transformers ---


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    pytest.importorskip("transformers", minversion="5")
    target = tmp_path_factory.mktemp("exported") / "model"
    return exported(run, "hf", target, "--no_check")


def test_a_fresh_process_has_no_part_of_the_project(run, tmp_path, capsys):
    """The one export here whose check is a process; the file is torch.export's, the quickest."""
    exported(run, "pt2", tmp_path / "model.pt2")
    assert "a fresh process without this project (torch" in capsys.readouterr().out
    hidden = fresh_process.Hidden(checking.hidden_modules())
    for name in ("zilu", "models", "utils", "exporting", "export", "cli"):
        with pytest.raises(ImportError, match=name):
            hidden.find_spec(name)
    assert hidden.find_spec("torch") is None


@pytest.mark.slow
def test_a_fresh_process_loads_the_folder(run, tmp_path, capsys):
    pytest.importorskip("transformers", minversion="5")
    exported(run, "hf", tmp_path / "model")
    assert "a fresh process without this project (transformers" in capsys.readouterr().out


@pytest.fixture(scope="module")
def remote(folder, tmp_path_factory):
    """The network of the folder, by the folder's own code."""
    transformers = importlib.import_module("transformers")
    modules = importlib.import_module("transformers.dynamic_module_utils")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modules, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, trust_remote_code=True
        ).eval()


@torch.no_grad()
def test_the_folders_network_is_the_runs(run, folder, remote):
    ours = load(run / RunFolder.CHECKPOINT, False, None).model
    ids = torch.arange(24).view(2, 12) * 7 % 257
    wanted = ours(ids)
    torch.testing.assert_close(remote(input_ids=ids).logits, wanted, rtol=1e-5, atol=1e-6)
    drawn = ids[:, :5]
    for _ in range(6):
        drawn = torch.cat([drawn, ours(drawn)[:, -1].argmax(-1, keepdim=True)], 1)
    greedy = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    mask = torch.ones_like(ids[:, :5])
    assert torch.equal(remote.generate(ids[:, :5], attention_mask=mask, **greedy), drawn)
    assert torch.equal(
        remote.generate(ids[:, :5], attention_mask=mask, use_cache=False, **greedy), drawn
    )
    # Padding on the left changes nothing.
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.int64), ids[:, :5]], 1)
    mask = torch.cat([torch.zeros(2, 3, dtype=torch.int64), mask], 1)
    found = remote(input_ids=padded, attention_mask=mask).logits[:, 3:]
    torch.testing.assert_close(found, wanted[:, :5], rtol=1e-5, atol=1e-6)
    loss = remote(input_ids=ids, labels=ids).loss
    nats = torch.nn.functional.cross_entropy(wanted[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(loss, nats)


def test_its_files(run, folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["activation"] == {
        "name": "ZiLU", "sigma": 0.7, "learnable": True, "expand_gate": True,
    }  # fmt: skip
    card = (folder / "README.md").read_text()
    state = load(run / RunFolder.CHECKPOINT, False, None).model.h[0].mlp.act
    assert f"h.0.mlp.act: σ = {float(state.sigma.detach()):.6g}" in card
    assert "--learn_sigma" in card
    assert "transformers 5.0 or newer" in card
    summary = (run / RunFolder.RESULTS).read_text().splitlines()[-1]
    assert summary in card


@torch.no_grad()
def test_the_library_loads_it_without_its_code(folder, remote):
    transformers = importlib.import_module("transformers")
    zilu.register_transformers()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    assert type(model.h[0].mlp.act) is zilu.ZiLU
    ids = torch.arange(10)[None]
    torch.testing.assert_close(
        model(input_ids=ids).logits, remote(input_ids=ids).logits, rtol=1e-5, atol=1e-6
    )


def test_its_tokenizer_gives_the_bytes(folder):
    transformers = importlib.import_module("transformers")
    found = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    ours = tokenizers.load("bytes", "")
    text = bytes(range(32, 127)).decode() + "é世\n\n\0\r\n <|endoftext|> \U0001f600"
    assert found(text)["input_ids"] == ours.encode(text)
    assert found.decode(ours.encode(text)) == text
    assert found.eos_token_id == ours.end_of_text


def test_gpt2_lines_are_encoded_one_by_one(tmp_path):
    """A byte-level encoding whose merges go across the end of a line."""
    letters = tokenizer.letters_of_bytes()
    newline, space = letters[10], letters[32]
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    merges = [(newline, newline), (newline, space), (space, "a"), ("a", "b")]
    vocabulary |= {a + b: 256 + i for i, (a, b) in enumerate(merges)}
    ours = tokenizers._byte_level("x", "0", vocabulary, merges, by_lines=True)
    found = tokenizer._backend(ours)
    for text in ("a\n\n ab a\nb", "\n\n\n", " a \n  b\r\n\nab", "", "<|endoftext|>\n\na"):
        assert found.encode(text).ids == ours.encode(text)
    whole = tokenizers._byte_level("x", "0", vocabulary, merges)
    assert whole.encode("a\n\n\nb") != ours.encode("a\n\n\nb")


@pytest.mark.parametrize("dataset", ["wikitext103", "jsonl/x", "openwebtext", "bin/x"])
def test_gpt2_has_the_ids_of_the_training(dataset, tmp_path):
    """Of lines, or of whole documents, where special strings are text like any other."""
    transformers = pytest.importorskip("transformers", minversion="5")
    data_path = os.environ.get("ZILU_TEST_DATA")
    if data_path is None:
        pytest.skip("ZILU_TEST_DATA names no folder with GPT-2's tokenizer")
    config = LanguageDataConfig(dataset=dataset, tokenizer="gpt2", data_path=data_path)
    written = tokenizer.write(config, 64, tmp_path)
    found = transformers.AutoTokenizer.from_pretrained(tmp_path)
    is_by_lines = dataset == "wikitext103"
    load = tokenizers.load if is_by_lines else tokenizers.load_for_documents
    ours = load("gpt2", data_path)
    for text in ("a\n\n\nb\n\n", "one<|endoftext|>two", " a \n b"):
        ids = ours.encode(text)
        assert found(text)["input_ids"] == ids
        assert tokenizers.load_for(dataset, "gpt2", data_path).encode(text) == ids
    assert (found.eos_token_id in found("one<|endoftext|>two")["input_ids"]) == is_by_lines
    assert written["by_lines"] == is_by_lines


def test_an_activation_of_transformers_needs_no_code(text_folder, tmp_path, here, capsys):
    pytest.importorskip("transformers", minversion="5")
    flags = (*TINY, "--data_path", text_folder, "--activation", "GELU", "--dropout", "0.3")
    run = trained(language_main, tmp_path / "run", *flags)
    folder = exported(run, "hf", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["resid_pdrop"]) == ("gpt2", 0.3)
    assert not list(folder.glob("*.py"))
    capsys.readouterr()
    # And back: the exported weights start a run of other activations.
    argv = (*TINY, "--data_path", text_folder, "--init_from", folder, "--lr", "1e-30")
    again = trained(language_main, tmp_path / "again", *argv, "--activation", "GELU")
    ours, back = (load(r / RunFolder.CHECKPOINT, False, None).model for r in (run, again))
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], value, rtol=0, atol=1e-6)


@torch.no_grad()
def test_blocks_of_llamas_kind(text_folder, tmp_path, here, capsys):
    """All of them at once; the check of the export compares the outputs, and so does this."""
    transformers = pytest.importorskip("transformers", minversion="5")
    blocks = ("--mlp", "glu", "--norm", "rms", "--positions", "rope", "--qk_norm", "--no_bias")
    flags = (*TINY, *blocks, "--data_path", text_folder, *LEARNED, "--lr", "1e-2")
    with torch.enable_grad():
        run = trained(language_main, tmp_path / "run", *flags)
    folder = exported(run, "hf", tmp_path / "model")
    assert "largest difference" in capsys.readouterr().out
    ours = load(run / RunFolder.CHECKPOINT, False, None).model
    names = ours.state_dict().keys()
    assert not [name for name in names if name.endswith("bias") or name.startswith("wpe")]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    ids = torch.arange(24).view(2, 12) * 7 % 257
    wanted = ours(ids)
    torch.testing.assert_close(theirs.eval()(input_ids=ids).logits, wanted, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(wanted[:, 1:], wanted[:, :-1])


def test_the_folder_starts_a_run(run, folder, text_folder, tmp_path):
    argv = (*TINY, "--data_path", text_folder, "--init_from", folder, "--lr", "1e-30")
    again = trained(language_main, tmp_path / "again", *argv, "--activation", "ReLU")
    ours, back = (load(r / RunFolder.CHECKPOINT, False, None).model for r in (run, again))
    assert torch.allclose(ours.wte.weight, back.wte.weight, atol=1e-6)
    assert torch.allclose(ours.h[0].mlp.c_fc.weight, back.h[0].mlp.c_fc.weight, atol=1e-6)


@pytest.mark.parametrize("kind", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_a_network_of_transformers(kind, text_folder, tmp_path, here, capsys):
    sites, weight = configuration(kind, tmp_path / "config")
    flags = flags_of(tmp_path / "config", text_folder)
    run = trained(language_main, tmp_path / "run", *flags, "--activation", "ZiLU", "--learn_sigma")
    folder = exported(run, "hf", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "zilu_hf"
    assert config["activation"]["sites"] == sites
    again = trained(
        language_main, tmp_path / "again", *flags, "--init_from", folder, "--lr", "1e-30",
        "--activation", "SiLU",
    )  # fmt: skip
    ours, back = (
        load(each / RunFolder.CHECKPOINT, False, None).model.state_dict() for each in (run, again)
    )
    torch.testing.assert_close(
        back[f"network.{weight}"], ours[f"network.{weight}"], atol=1e-6, rtol=0
    )
    plain = exported(again, "hf", tmp_path / "plain")
    assert json.loads((plain / "config.json").read_text())["model_type"] == kind
    assert not list(plain.glob("*.py"))
    third = trained(
        language_main, tmp_path / "third", *flags, "--init_from", plain, "--lr", "1e-30",
        "--activation", "ReLU",
    )  # fmt: skip
    back = load(third / RunFolder.CHECKPOINT, False, None).model.state_dict()
    torch.testing.assert_close(
        back[f"network.{weight}"], ours[f"network.{weight}"], atol=1e-6, rtol=0
    )


# --- graphs ---


@pytest.mark.parametrize(
    ("kind", "to"),
    [
        ("run", "pt2"),
        pytest.param("run", "onnx", marks=pytest.mark.slow),
        pytest.param("images", "pt2", marks=pytest.mark.slow),
        pytest.param("images", "onnx", marks=pytest.mark.slow),
    ],
)
def test_graphs_take_other_sizes(kind, to, request, tmp_path, here, capsys):
    """The check compares two batches, of other sizes and for language of other lengths."""
    skip_without_packages(to)
    path = exported(request.getfixturevalue(kind), to, tmp_path / f"model.{to}")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    if to == "onnx":
        model = importlib.import_module("onnx").load(path)
        facts = {each.key: each.value for each in model.metadata_props}["export.json"]
    else:
        extra = {"export.json": ""}
        torch.export.load(path, extra_files=extra)
        facts = extra["export.json"]
    assert json.loads(facts)["args"]["activation"] == "ZiLU"


@pytest.mark.slow
@pytest.mark.parametrize("to", ["pt2", "onnx"])
def test_a_graph_of_a_network_of_transformers(to, text_folder, tmp_path, here, capsys):
    skip_without_packages(to)
    configuration("llama", tmp_path / "config")
    flags = flags_of(tmp_path / "config", text_folder)
    run = trained(language_main, tmp_path / "run", *flags, "--activation", "ZiLU", "--expand_gate")
    exported(run, to, tmp_path / f"model.{to}")
    assert "largest difference" in capsys.readouterr().out


# --- timm, torchvision ---


def test_a_network_of_timm(image_folder, tmp_path, here, capsys):
    timm = pytest.importorskip("timm")
    flags = ("--model", "timm/test_vit", "--data_path", image_folder, "--resize", "16")
    flags = (*IMAGES[:2], "--batch_size", "8", "--num_workers", "0", *flags)
    run = trained(vision_main, tmp_path / "run", *flags, *LEARNED)
    folder = exported(run, "timm", tmp_path / "model")
    assert "largest difference" in capsys.readouterr().out
    assert timm.__name__ in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("model", "size", "to", "activation"),
    [
        pytest.param(
            "torchvision/shufflenet_v2_x0_5", "32", "torchvision", "GELU_s", marks=pytest.mark.slow
        ),
        pytest.param("resnet18", "32", "torchvision", "SquarePlus", marks=pytest.mark.slow),
        pytest.param("resnet50", "32", "timm", "xATLU", marks=pytest.mark.slow),
        pytest.param("vgg11", "32", "torchvision", "ReLU2", marks=pytest.mark.slow),
        pytest.param("vit-tiny", "16", "timm", "GoLU", marks=pytest.mark.slow),
        pytest.param("vit-medium", "16", "timm", "PReLU", marks=pytest.mark.slow),
        pytest.param("torchvision/googlenet", "32", "torchvision", "ZiLU", marks=pytest.mark.slow),
    ],
)
def test_counterparts(model, size, to, activation, image_folder, tmp_path, here, capsys):
    pytest.importorskip(to)
    own = {"resnet": ("--stem", "imagenet"), "vgg11": ("--head", "imagenet")}
    flags = next((own[start] for start in own if model.startswith(start)), ())
    flags += ("--model", model, "--data_path", image_folder, "--activation", activation)
    flags = ("--dataset", "imagefolder", "--resize", size, "--batch_size", "8", *flags)
    run = trained(vision_main, tmp_path / "run", *flags, "--num_workers", "0")
    exported(run, to, tmp_path / "model")
    assert "largest difference" in capsys.readouterr().out


# --- mistakes ---


def test_mistakes_without_a_network(mistake, run, images, tmp_path):
    assert "no such run folder" in mistake(tmp_path / "nowhere", "hf")
    assert "is no run folder with args.txt" in mistake(tmp_path, "hf")
    assert "did you mean onnx" in mistake(run, "onn")
    assert "name it model.onnx" in mistake(run, "onnx")
    assert "writes a folder" in mistake(run, "hf", "model.onnx")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    assert "exists already; give --overwrite" in mistake(run, "hf", "full")
    assert "holds other things" in mistake(run, "hf", "full", "--overwrite")
    assert (tmp_path / "full" / "mine").exists()
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run, unfinished)
    results = unfinished / RunFolder.RESULTS
    results.write_text("".join(results.read_text().splitlines(keepends=True)[:1]))
    assert "has not finished" in mistake(unfinished, "hf")
    assert "no averaged weights" in mistake(run, "pt2", "model.pt2", "--ema")
    assert "of a language model; take hf, onnx or pt2" in mistake(run, "timm")
    assert "of a vision model; take timm" in mistake(images, "hf")
    assert "no counterpart there" in mistake(images, "timm")
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"no checkpoint")
    assert "not a readable checkpoint" in mistake(broken, "hf")


def test_packages_that_are_missing_or_old(mistake, run, monkeypatch):
    real = importlib.metadata.version
    found = {"transformers": "4.57.1"}

    def version(name):
        if name in ("onnx", "onnxruntime"):
            raise importlib.metadata.PackageNotFoundError(name)
        return found.get(name) or real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert "pip install 'transformers>=5'" in mistake(run, "hf")
    assert "pip install onnx" in mistake(run, "onnx", "model.onnx")


def test_an_export_is_replaced_whole_or_not_at_all(run, tmp_path, mistake, monkeypatch):
    path = tmp_path / "model.pt2"
    path.write_bytes(b"an earlier export")

    def other(request, folder):
        return {"difference": 1.0, "with": "another version"}

    monkeypatch.setattr(checking, "_ask", other)
    line = mistake(run, "pt2", "model.pt2", "--overwrite")
    assert "other outputs" in line
    assert path.read_bytes() == b"an earlier export"
    assert [each.name for each in tmp_path.iterdir()] == ["model.pt2"]


def test_a_full_disk(run, mounted, mistake_in):
    folder, _ = mounted
    (folder / "filling").write_bytes(bytes(2**20 - 2**14))
    line = mistake_in(export, run, "--to", "pt2", folder / "model.pt2", "--no_check")
    assert "cannot be written" in line
    assert [each.name for each in folder.iterdir()] == ["filling"]


def test_an_activation_of_ones_own(text_folder, tmp_path, mistake, here, capsys):
    (tmp_path / "mine.py").write_text(
        "import torch\n\n\ndef bend(x):\n    return x * torch.sigmoid(2 * x)\n"
    )
    name = f"{tmp_path / 'mine.py'}:bend"
    flags = (*TINY, "--data_path", text_folder, "--activation", name)
    run = trained(language_main, tmp_path / "run", *flags)
    assert "name --activation" in mistake(run, "hf")
    assert "code of your own" in mistake(run, "hf", "model", "--activation", name)
    exported(run, "pt2", tmp_path / "model.pt2", "--activation", name)
    assert "largest difference" in capsys.readouterr().out
