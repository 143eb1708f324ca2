"""A network that is sharded over processes: the losses of one that each process has whole."""

import json
import re
import shutil

import pytest
import torch
from helpers.close_runs import assert_close, losses
from helpers.resumable import (
    KILL,
    TERM,
    TRY_AGAIN,
    assert_same_result,
    assert_same_run,
    results,
)
from torch import nn

from cli.training import TrainingConfig
from models import build_model
from run_folder.checkpoint import load_checkpoint, load_values
from training import sharding
from training.blocks import repeated_blocks
from training.optimization import build_optimizer
from utils import UserError

# Both orders of adding two ranks' gradients give the same bits, but the clipped norm is summed over
# other parts: fp32 rounds it otherwise, by some 1e-7. A wrong mean or share would be off by 1e-2.
CLOSE = 2e-5

LANGUAGE = (
    "--dataset", "text", "--tokenizer", "bytes", "--num_layers", "2", "--embedding_dim", "18",
    "--num_attention_heads", "2", "--max_seq_length", "32", "--batch_size", "7",
    "--num_epochs", "2", "--dropout", "0", "--grad_accum_steps", "2", "--device", "cpu",
    "--eval_interval", "3", "--activation", "ZiLU", "--learn_sigma", "--stats", "2", "--ema", "0.9",
    "--save_interval", "2", "--lr", "1e-2", "--scheduler", "cosine",
)  # fmt: skip
VISION = (
    "--dataset", "imagefolder", "--batch_size", "14", "--num_epochs", "2", "--lr", "1e-3",
    "--device", "cpu", "--augment", "--optimizer", "sgd", "--max_steps", "4", "--stats", "2",
)  # fmt: skip
RESNET = (*VISION, "--model", "resnet20")


@pytest.fixture(scope="module")
def run(forked, data_path):
    def run(module, folder, *flags, processes=2, code=0, **options):
        flags = (*flags, "--data_path", data_path[module], "--output_dir", folder)
        codes, output = forked(module, *flags, processes=processes, **options)
        assert codes == [code] * processes or code is None, output
        return output

    return run


@pytest.fixture(scope="module")
def gpt2(run, tmp_path_factory):
    """Runs of the language model: `whole`, where each process has all of it, and `parts`."""
    folder = tmp_path_factory.mktemp("gpt2")
    run("language_main", folder / "whole", *LANGUAGE)
    run("language_main", folder / "parts", *LANGUAGE, "--shard", "--sample", "1")
    return folder


def sizes(folder):
    """The numbers of parameters and optimizer that each process has, and of all together."""
    files = sorted((folder / "shards").glob("*/*.pt"))
    rows = [load_values(file)["tensors"] for file in files]
    saved = load_checkpoint(folder / "checkpoint.pt")
    whole = [p for name, p in saved["model"].items() if f"/model/{name}" in rows[0]]
    state = [x for each in saved["optimizer"]["state"].values() for x in each.values() if x.dim()]
    own = [
        sum(x.numel() for name, x in of_rank.items() if not name.startswith("/ema"))
        for of_rank in rows
    ]
    return own, sum(x.numel() for x in (*whole, *state))


def test_a_sharded_language_model_has_the_losses_of_a_whole_one(gpt2):
    """Uneven batches, shares without a sample, sums of gradients, averages and a learned sigma."""
    whole, parts = gpt2 / "whole", gpt2 / "parts"
    assert_close(parts, whole, CLOSE)
    assert (parts / "model.txt").read_text() == (whole / "model.txt").read_text()
    sigmas = [
        json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["sigma"]
        for folder in (parts, whole)
    ]
    assert sigmas[0] == pytest.approx(sigmas[1])
    assert all(abs(sigma - 1) > 1e-4 for sigma in sigmas[0].values())
    own, all_of_it = sizes(parts)
    assert sum(own) == all_of_it
    assert max(own) < 0.51 * all_of_it


def test_a_sharded_run_is_evaluated_and_started_from_like_any_other(run, gpt2, tmp_path):
    checkpoint = gpt2 / "parts/checkpoint.pt"
    run("language_main", tmp_path / "t", "--test_only", "--checkpoint", checkpoint, processes=1)
    found = re.findall(r"\] Loss: ([\d.]+)", (tmp_path / "t/test_results.txt").read_text())
    record = json.loads((gpt2 / "parts/metrics.jsonl").read_text().splitlines()[-1])
    wanted = [record[split]["loss"] for split in ("test", "test_ema")]
    assert list(map(float, found)) == pytest.approx(wanted, rel=1e-6)
    run(
        "language_main", tmp_path / "next", *LANGUAGE, "--init_from", gpt2 / "parts",
        "--max_steps", "1", "--lr", "1e-9", "--ema", "0", processes=1,
    )  # fmt: skip
    assert losses(tmp_path / "next")[-1] == pytest.approx(record["test"]["loss"], rel=1e-5)


def test_killed_in_an_epoch_it_goes_on_with_two_processes_and_with_one(run, gpt2, tmp_path):
    """The same number gives the same bits; another number the same up to rounding."""
    killed = tmp_path / "killed"
    flags = (*LANGUAGE, "--shard", "--resume")
    run("language_main", killed, *flags, faults={1: ("step", KILL, 5)}, code=None)
    assert load_checkpoint(killed / "checkpoint.pt")["step"] == 4
    alone = shutil.copytree(killed, tmp_path / "alone")
    elsewhere = tmp_path / "elsewhere"
    output = run("language_main", elsewhere, "--resume", killed)
    assert "step 4" in output
    assert_same_result(elsewhere, gpt2 / "parts")
    output = run("language_main", alone, *flags, processes=1)
    assert "processes was 2 and is 1: results agree to tolerance only" in output
    assert "shards" not in {path.name for path in alone.iterdir()}
    assert_close(alone, gpt2 / "whole", CLOSE)


@pytest.mark.slow
def test_a_run_of_one_process_goes_on_with_two(run, gpt2, tmp_path):
    """Its tensors are in one part, from which each of the two takes its own."""
    folder = tmp_path / "run"
    flags = (*LANGUAGE, "--shard", "--resume")
    stop = {0: ("step", KILL, 5)}
    run("language_main", folder, *flags, processes=1, faults=stop, code=None)
    assert load_checkpoint(folder / "checkpoint.pt")["step"] == 4
    output = run("language_main", folder, *flags)
    assert "processes was 1 and is 2: results agree to tolerance only" in output
    assert_close(folder, gpt2 / "whole", CLOSE)
    assert len([*folder.glob("shards/*/*.pt")]) == 2


def test_damage_to_a_part_is_one_line(run, gpt2, tmp_path):
    """Whoever reads the checkpoint; and the run is not begun anew."""
    folder = shutil.copytree(gpt2 / "parts", tmp_path / "run")
    model = load_checkpoint(folder / "checkpoint.pt")["model"]
    assert all(value.isfinite().all() for value in model.values())
    (part,) = folder.glob("shards/*/1.pt")
    whole = part.read_bytes()
    for content, what in (
        (whole[:3000] + bytes(100) + whole[3100:], "not a readable part"),
        (part.with_name("0.pt").read_bytes(), "of another checkpoint"),
        (None, "is missing"),
    ):
        part.write_bytes(content) if content else part.unlink()
        with pytest.raises(UserError, match=what):
            load_checkpoint(folder / "checkpoint.pt")
    output = run("language_main", folder, *LANGUAGE, "--shard", "--resume", code=2)
    assert "is missing" in output
    assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["gn", "bn"])
def test_a_sharded_image_network_has_the_losses_of_a_whole_one(run, tmp_path, norm):
    flags = (*RESNET, "--norm", norm, *(["--sync_batchnorm"] if norm == "bn" else []))
    run("vision_main", tmp_path / "whole", *flags)
    run("vision_main", tmp_path / "parts", *flags, "--shard", "--activation_checkpointing")
    assert_close(tmp_path / "parts", tmp_path / "whole", CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["schedulefree/AdamWScheduleFree", "RMSprop"])
def test_other_optimizers_resume_exactly_in_parts(run, tmp_path, optimizer):
    flags = (
        *LANGUAGE, "--ema", "0", "--scheduler", "none", "--optimizer", optimizer, "--lr", "1e-3",
        "--dropout", "0.1", "--shard", "--resume", "--activation_checkpointing",
    )  # fmt: skip
    run("language_main", tmp_path / "whole", *flags)
    stop = {1: ("step", TERM, 3)}
    run("language_main", tmp_path / "parts", *flags, faults=stop, code=TRY_AGAIN)
    run("language_main", tmp_path / "parts", *flags)
    assert results(tmp_path / "parts") == results(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ("--model", "vit-tiny", "--patch_size", "4"),
        ("--model", "timm/convnext_atto", "--num_epochs", "1", "--resize", "32"),
        # Not by Adam: a norm's bias before another norm has no gradient but rounding's, and Adam
        # makes a step of that. After two steps the running statistics leave numbers near 0 deep
        # inside, where such a bias decides whether a channel is dead.
        ("--model", "torchvision/mobilenet_v3_small", "--sync_batchnorm", "--optimizer", "sgd"),
    ],
)
def test_networks_of_all_packages(run, tmp_path, flags):
    flags = (*VISION, "--optimizer", "adamw", "--lr", "1e-4", "--max_steps", "2", *flags)
    run("vision_main", tmp_path / "whole", *flags)
    run("vision_main", tmp_path / "parts", *flags, "--shard")
    assert_close(tmp_path / "parts", tmp_path / "whole", 1e-4)


@pytest.mark.slow
def test_a_hugging_face_network_in_mixed_precision(run, tmp_path):
    """fp16 too, whose scaler skips a step on all ranks where one of them would."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 99}
    transformers.LlamaConfig(**sizes).save_pretrained(tmp_path / "llama")
    flags = (
        "--dataset", "text", "--tokenizer", "bytes", "--model", f"hf/{tmp_path / 'llama'}",
        "--max_seq_length", "32", "--batch_size", "8", "--num_epochs", "1", "--device", "cpu",
        "--stats", "2", "--use_amp", "--grad_accum_steps", "2",
    )  # fmt: skip
    for dtype in ("bf16", "fp16"):
        folders = [tmp_path / f"{dtype}{number}" for number in range(2)]
        for folder, shard in zip(folders, ([], ["--shard"]), strict=True):
            run("language_main", folder, *flags, "--amp_dtype", dtype, *shard)
        assert losses(folders[1]) == pytest.approx(losses(folders[0]), rel=2e-3)


@pytest.mark.slow
def test_one_process_trains_with_shard_as_without(run, tmp_path):
    for name, flags in (("a", ()), ("b", ("--shard",))):
        run("language_main", tmp_path / name, *LANGUAGE, *flags, "--max_steps", "2", processes=1)
    assert results(tmp_path / "a") == results(tmp_path / "b")


# --- what cannot be sharded ---


def test_an_optimizer_of_whole_matrices_is_refused(run, tmp_path):
    flags = (*LANGUAGE, "--shard", "--optimizer", "Muon", "--ema", "0")
    output = run("language_main", tmp_path / "run", *flags, code=2)
    assert "--optimizer Muon needs whole matrices" in output
    assert "Traceback" not in output
    assert not (tmp_path / "run/checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("name", "by_number"),
    [
        ("adamw", True), ("sgd", True), ("NAdam", True), ("timm/lion", True), ("timm/adan", True),
        ("schedulefree/AdamWScheduleFree", True), ("Adafactor", False), ("timm/lamb", False),
        ("timm/cadamw", False), ("timm/muon", False), ("timm/lars", False),
    ],
)  # fmt: skip
def test_which_optimizers_work_number_by_number(name, by_number):
    own = {"momentum": None, "nesterov": None, "beta1": None, "beta2": None}
    config = TrainingConfig(optimizer=name, weight_decay=0.1)
    if config.has_library_optimizer:
        config = TrainingConfig(optimizer=name, weight_decay=0.1, **own)
    try:
        sharding.check_optimizer(name, lambda network: build_optimizer(network, config))
    except UserError:
        assert not by_number
    else:
        assert by_number


# --- blocks ---


def blocks_of(package, name):
    builders = pytest.importorskip(package)
    with torch.device("meta"):
        make = builders.create_model if package == "timm" else getattr(builders, name)
        model = make(name) if package == "timm" else make()
    blocks = repeated_blocks(model)
    share = sum(p.numel() for b in blocks.values() for p in b.parameters())
    kinds = {type(block).__name__ for block in blocks.values()}
    return kinds, len(blocks), share / sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("package", "name", "kinds", "count"),
    [
        ("torchvision.models", "resnet50", {"Bottleneck"}, 16),
        ("torchvision.models", "swin_t", {"SwinTransformerBlock", "PatchMerging"}, 15),
        ("torchvision.models", "mobilenet_v2", {"InvertedResidual"}, 17),
        ("torchvision.models", "vgg11", set(), 0),
        ("timm", "convnext_atto", {"ConvNeXtBlock"}, 12),
        ("timm", "vit_tiny_patch16_224", {"Block"}, 12),
        ("timm", "densenet121", {"DenseLayer"}, 58),
    ],
)  # fmt: skip
def test_the_blocks_are_those_of_the_papers(package, name, kinds, count):
    found, number, share = blocks_of(package, name)
    assert (found, number) == (kinds, count)
    assert share > 0.5 or not count


def test_a_block_that_shares_a_weight_is_no_block():
    blocks = [nn.Sequential(nn.Linear(2, 2)) for _ in range(2)]

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(2, 2), nn.Linear(2, 2)

    blocks = nn.ModuleList(Block() for _ in range(3))
    blocks[2].two.weight = blocks[0].one.weight
    assert list(repeated_blocks(nn.Sequential(blocks))) == ["0.1"]


# --- recomputed activations ---


def bytes_kept(model, inputs):
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(inputs)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in kept}
    return output, sum(size for place, size in storages.items() if place not in own)


@pytest.mark.parametrize("network", ["gpt2", "resnet20"])
def test_recomputed_blocks_keep_less_and_give_the_same_bits(network):
    """With dropout, which draws the same again, and BatchNorm, which follows a batch once."""
    from training.recompute import recompute_blocks

    found = []
    for recomputed in (False, True):
        torch.manual_seed(0)
        if network == "gpt2":
            model = build_model(
                "gpt2", nn.GELU, vocab_size=31, max_seq_length=16, embedding_dim=8,
                num_attention_heads=2, num_layers=4, dropout=0.3,
            )  # fmt: skip
            batches = torch.randint(31, (3, 4, 16))
        else:
            model = build_model("resnet20", nn.ReLU, 10, 8)
            batches = torch.randn(3, 4, 3, 8, 8)
        if recomputed:
            recompute_blocks(model)
        optimizer, losses = torch.optim.SGD(model.parameters(), 0.1), []
        for batch in batches:
            output, size = bytes_kept(model, batch)
            losses.append(output.square().mean())
            losses[-1].backward()
            optimizer.step()
            optimizer.zero_grad()
        found.append((losses, model.state_dict(), size))
    (losses, state, size), (again, state_again, size_again) = found
    assert [x.item() for x in losses] == [x.item() for x in again]
    assert state.keys() == state_again.keys()
    assert all(torch.equal(value, state_again[name]) for name, value in state.items())
    assert size_again < 0.5 * size


def test_an_input_that_is_written_over_is_refused():
    """A block that works in place on its own input would compute something else again."""
    from training.recompute import recompute_blocks

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.one, self.two = nn.ReLU(inplace=True), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.two(self.one(self.act(x)))

    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(Block(), Block()))
    recompute_blocks(model)
    with pytest.raises(UserError, match="written over"):
        model(torch.randn(3, 4))


@pytest.mark.parametrize(
    "module", ["language_main", pytest.param("vision_main", marks=pytest.mark.slow)]
)
def test_runs_with_recomputed_blocks_are_the_same_runs(run, tmp_path, module):
    flags = {"language_main": (*LANGUAGE, "--dropout", "0.2"), "vision_main": RESNET}[module]
    for name, more in (("a", ()), ("b", ("--activation_checkpointing",))):
        run(module, tmp_path / name, *flags, *more, "--max_steps", "3", processes=1)
    assert_same_run(tmp_path / "b", tmp_path / "a")


def test_a_network_without_blocks_recomputes_nothing(run, tmp_path):
    flags = (*VISION, "--model", "vgg11", "--resize", "32", "--activation_checkpointing")
    output = run("vision_main", tmp_path / "run", *flags, processes=1, code=2)
    assert "no repeated blocks" in output
    assert not (tmp_path / "run/args.txt").exists()
