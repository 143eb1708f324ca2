"""Weights that timm and torchvision publish, or files of others save: --pretrained, --init_from."""

import argparse
import json
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
import yaml
from helpers.commands import command
from helpers.small_images import CLASSES
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import vision_main
from cli.vision import VisionConfig
from models import pretrained
from pipelines.images.load import as_card_says, load_images
from tasks.vision import VisionProgram
from training.freezing import freeze
from training.initial_weights import digest_of
from zilu.replacement.gradual import Gradual

timm = pytest.importorskip("timm")

SIZES = {
    "timm/test_vit.r160_in1k": 32, "timm/convnext_atto": 32, "timm/efficientnet_lite0": 32,
    "timm/regnetx_002": 32, "timm/mobilenetv3_small_050": 32, "timm/test_byobnet": 32,
    "torchvision/resnet18": 32, "torchvision/squeezenet1_0": 40, "torchvision/mnasnet0_5": 32,
    "torchvision/shufflenet_v2_x0_5": 32, "torchvision/swin_t": 32,
}  # fmt: skip


def package_network(name, num_classes=CLASSES, seed=3):
    """The package's own network, with random weights and statistics."""
    torch.manual_seed(seed)
    package, _, architecture = name.partition("/")
    size = {"img_size": SIZES.get(name, 32)} if "vit" in name else {}
    if package == "timm":
        network = timm.create_model(architecture, num_classes=num_classes, **size)
    else:
        network = torchvision.models.get_model(architecture, num_classes=num_classes)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def built(*flags, num_classes=CLASSES, size=32, gradual=True):
    """The network that vision_main.py starts with, and how it comes from old to new activations."""
    config = command(VisionConfig, "--device", "cpu", *flags).config
    program = VisionProgram(config)
    program.gradual = Gradual() if gradual else None
    weights = program._begin(None)
    data = SimpleNamespace(num_classes=num_classes, image_size=size)
    return program.network(data, weights).eval(), program


def plain(state):
    return state


def ddp(state):
    return {"model": {f"module.{name}": x for name, x in state.items()}, "epoch": 3}


def timms(state):
    """As timm's train.py saves: its averages are those to be used."""
    wrong = {name: x + 1 if x.is_floating_point() else x for name, x in state.items()}
    args = argparse.Namespace(lr=1.0, model="x")
    return {"state_dict": wrong, "state_dict_ema": state, "args": args, "arch": "x", "epoch": 1}


def torchvisions(state):
    """As torchvision's reference scripts save with --model-ema."""
    wrong = {name: torch.zeros_like(x) for name, x in state.items()}
    ema = {"n_averaged": torch.tensor(7)} | {f"module.{name}": x for name, x in state.items()}
    return {"model": wrong, "model_ema": ema, "args": argparse.Namespace(a=1), "lr_scheduler": {}}


def compiled(state):
    return {"state_dict": {f"_orig_mod.module.{name}": x for name, x in state.items()}}


FORMS = (plain, ddp, timms, torchvisions, compiled)


def saved(path, state, number):
    """Save a state dict in one of the forms in use; returns the path."""
    if number % 6 == 5:
        save_file({name: x.contiguous() for name, x in state.items()}, f"{path}.safetensors")
        return f"{path}.safetensors"
    legacy = number % 6 == 0
    file = f"{path}.{'pth' if number % 2 else 'bin'}"
    torch.save(FORMS[number % 6](state), file, _use_new_zipfile_serialization=not legacy)
    return file


@pytest.mark.parametrize("name", SIZES)
def test_before_replacing_the_logits_are_the_packages(tmp_path, name):
    number, size = list(SIZES).index(name), SIZES[name]
    own = package_network(name)
    file = saved(tmp_path / "weights", own.state_dict(), number)
    network, program = built("--model", name, "--init_from", file, size=size)
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = own.to(memory_format=torch.channels_last)(images)
        start = network(images)
        torch.testing.assert_close(start, expected)
        program.gradual.set(1)
        end = network(images)
        assert not torch.equal(end, start)
        swapped, _ = built("--model", name, "--init_from", file, size=size, gradual=False)
        assert torch.equal(end, swapped(images))
        assert torch.equal(start, expected)
    assert len(program.gradual.old) == len(network.replacement.replaced)
    if name != "torchvision/squeezenet1_0":  # whose head is a convolution, and cannot be told
        assert_only_the_head_moves(network, images)


def assert_only_the_head_moves(network, images):
    """Make a step of the optimizer on a network whose trunk is frozen."""
    freeze(network.train(), ["trunk"])
    before = {key: value.clone() for key, value in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network(images).square().sum().backward()
    optimizer.step()
    moved = {key for key, value in network.state_dict().items() if not value.equal(before[key])}
    assert moved == {key for key, value in network.named_parameters() if value.requires_grad}


# --- a package's own weights ---


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Weights for 1000 classes, in torch.hub's cache and on timm's hub."""
    folder = tmp_path / "hub/checkpoints"
    folder.mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    networks = {name: package_network(name, 1000) for name in ("torchvision/resnet18",)}
    torch.save(networks["torchvision/resnet18"].state_dict(), folder / "resnet18-f37072fd.pth")
    vit = timm.create_model("test_vit", num_classes=1000).eval()  # at its own 160 px
    networks["timm/test_vit"] = vit
    monkeypatch.setattr(
        "timm.models._builder.load_state_dict_from_hf", lambda *_, **__: vit.state_dict()
    )
    return networks


@pytest.mark.parametrize(("name", "size"), [("torchvision/resnet18", 32), ("timm/test_vit", 160)])
def test_published_weights_and_their_head(cache, name, size, capsys):
    """Kept for as many classes; else a new one from the init seed, and all else is published."""
    own, flags = cache[name], ("--model", name, "--pretrained", "--resize", size)
    network, _ = built(*flags, num_classes=1000, size=size)
    images = torch.randn(2, 3, size, size)
    torch.testing.assert_close(network(images), own(images), rtol=1e-4, atol=1e-5)
    assert "the head for 1000 classes is kept" in capsys.readouterr().out
    seeds = [built(*flags, "--init_seed", seed, size=size)[0] for seed in (0, 0, 1)]
    assert "1000 classes, and the data have 10" in capsys.readouterr().out
    states = [network.state_dict() for network in seeds]
    head = {n for n, x in own.state_dict().items() if x.shape != states[0][n].shape}
    assert len(head) == 2
    for key, value in own.state_dict().items():
        assert key in head or torch.equal(states[2][key], value)
    weight = next(key for key in head if key.endswith("weight"))
    assert torch.equal(states[0][weight], states[1][weight])
    assert not torch.equal(states[0][weight], states[2][weight])


def test_timm_fits_positions_to_another_size(cache, tmp_path):
    network, _ = built("--model", "timm/test_vit", "--pretrained", "--resize", 32)
    file = saved(tmp_path / "weights", cache["timm/test_vit"].state_dict(), 0)
    same, _ = built("--model", "timm/test_vit", "--init_from", file, "--resize", 32)
    assert network.pos_embed.shape == (1, 5, 64)
    for key, value in network.state_dict().items():
        if not key.startswith("head."):
            torch.testing.assert_close(same.state_dict()[key], value)


def test_the_card_is_the_packages():
    card = pretrained.card("timm/tf_efficientnet_lite0")
    config = timm.get_pretrained_cfg("tf_efficientnet_lite0")
    assert card.weights == "timm/tf_efficientnet_lite0.in1k"
    assert (tuple(card.mean), tuple(card.std)) == (config.mean, config.std)
    assert (card.size, card.shorter_side, card.interpolation) == (224, 256, "bicubic")
    for tag, side in (("", 232), (".IMAGENET1K_V1", 256), (".IMAGENET1K_V2", 232)):
        card = pretrained.card(f"torchvision/resnet50{tag}")
        assert (card.size, card.shorter_side, card.interpolation) == (224, side, "bilinear")
        assert card.weights.endswith(tag or "V2")


def test_images_come_as_torchvisions_own_transforms_bring_them(tmp_path):
    """ImageNet's test images, at the card's size and at another one."""
    random = torch.Generator().manual_seed(0)
    for split in ("train", "val"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            pixels = torch.randint(256, (300, 280, 3), generator=random, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(tmp_path / split / name / "x.png")
    how = torchvision.models.EfficientNet_B0_Weights.DEFAULT.transforms()
    flags = ("--dataset", "imagenet", "--data_path", tmp_path, "--batch_size", 2)
    config = command(VisionConfig, *flags).config.data
    card = pretrained.card("torchvision/efficientnet_b0").preprocessing()
    data = load_images(as_card_says(config, card), num_workers=0, progress=False,
                       normalisation=(card["mean"], card["std"]))  # fmt: skip
    images, targets = next(iter(data.test.batches(0)))
    for image, target in zip(images, targets, strict=True):
        file = Image.open(tmp_path / "val" / data.class_names[target] / "x.png")
        torch.testing.assert_close(image, how(file), atol=0.02, rtol=0)  # it resizes tensors' way
    config = command(VisionConfig, *flags, "--resize", 112).config.data
    data = load_images(as_card_says(config, card), num_workers=0, progress=False)
    assert (data.image_size, data.test._loader.dataset._read.shorter_side) == (112, 128)


# --- whole runs ---


@pytest.fixture
def run(image_folder, capsys):
    def run(folder, *flags):
        argv = [
            "--dataset", "imagefolder", "--data_path", image_folder, "--batch_size", 50,
            "--num_epochs", 1, "--device", "cpu", "--output_dir", folder, *flags,
        ]  # fmt: skip
        capsys.readouterr()
        assert vision_main.main([str(word) for word in argv]) == 0
        return capsys.readouterr().out

    return run


def test_size_and_normalisation_follow_the_weights(cache, run, tmp_path):
    """From the card into the run, --test_only, --resume, and a run that starts from that one."""
    flags = ("--model", "timm/test_vit", "--pretrained", "--lr", "1e-30")
    first = tmp_path / "first"
    output = run(first, *flags, "--activation", "GELU")
    assert "activations of the weights (6 GELU) are replaced by GELU, at once" in output
    said = yaml.safe_load((first / "args.txt").read_text())["resolved"]
    config = timm.get_pretrained_cfg("test_vit")
    assert (said["image_size"], said["mean"]) == (config.input_size[-1], list(config.mean))
    assert said["weights_card"] == "timm/test_vit.r160_in1k"
    assert said["init_from_sha256"] == digest_of(cache["timm/test_vit"].state_dict())
    record = json.loads((first / "metrics.jsonl").read_text().splitlines()[-1])
    assert f"Loss: {record['test']['loss']:.8f} " in run(first, "--test_only")
    run(first, *flags, "--activation", "GELU", "--num_epochs", 2, "--resume")
    output = run(tmp_path / "second", "--model", "timm/test_vit", "--init_from", first, "--lr",
                 "1e-30", "--activation", "GELU")  # fmt: skip
    assert "160x160" in output
    assert "the head for 10 classes is kept" in output
    assert "are replaced" not in output
    said = yaml.safe_load((tmp_path / "second/args.txt").read_text())["resolved"]
    assert said["mean"] == list(config.mean)
    test = json.loads((tmp_path / "second/metrics.jsonl").read_text().splitlines()[-1])["test"]
    assert test["loss"] == pytest.approx(record["test"]["loss"], rel=1e-5)


def test_what_a_swap_alone_costs(run, tmp_path):
    """Two lines: the network with its own activations, and with the new ones."""
    file = saved(tmp_path / "weights", package_network("torchvision/resnet18").state_dict(), 1)
    flags = ("--model", "torchvision/resnet18", "--init_from", file, "--resize", 32, "--test_only")
    run(tmp_path / "swap", *flags, "--activation", "ZiLU")
    run(tmp_path / "same", *flags, "--activation", "ReLU")
    own, swapped, again, same = (
        line.partition(" | ")
        for name in ("swap", "same")
        for line in (tmp_path / name / "test_results.txt").read_text().splitlines()
    )
    assert own[0] == again[0] == same[0] != swapped[0]
    assert ", its own activations | " in own[2]
    assert "torchvision/resnet18, ZiLU | " in swapped[2]


# --- mistakes ---


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "resnet18", "--pretrained"], "resnet18 has no published weights; take timm/"),
        (["--model", "torchvision/resnet18.V9", "--pretrained"], "torchvision's are IMAGENET1K_V1"),
        (["--model", "timm/test_vit", "--pretrained", "--init_from", "x"], "are two starts"),
        (["--model", "timm/nf_regnet_b0", "--pretrained"], "has no weights of timm/nf_regnet_b0"),
        (["--model", "resnet20", "--replace_gradually", "1ep"], "with no activation to replace"),
        (["--model", "torchvision/resnet18", "--replace_gradually", "x"], "expected steps (500)"),
    ],
)
def test_flags_that_cannot_be(mistake_in, tmp_path, flags, message):
    flags = ("--dataset", "digits", "--device", "cpu", *flags, "--output_dir", tmp_path / "run")
    assert message in mistake_in(vision_main, *flags)
    assert not (tmp_path / "run").exists()


def test_offline(mistake_in, tmp_path, monkeypatch):
    """With the address of the file, and what to do with it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "_opener", None)  # it keeps the proxies of its first call
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    def refused(*_, **__):
        raise OSError("Connection refused")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", refused)
    for model, address in (
        ("torchvision/alexnet", "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"),
        ("timm/resnet18", "https://huggingface.co/timm/resnet18.a1_in1k"),
    ):
        flags = ("--dataset", "digits", "--model", model, "--pretrained", "--device", "cpu")
        line = mistake_in(vision_main, *flags, "--output_dir", tmp_path / "run")
        assert "cannot be had (" in line
        assert f"bring the file from {address} and give --init_from FILE" in line


def test_files_that_are_no_weights(mistake_in, tmp_path):
    state = package_network("timm/test_byobnet").state_dict()
    files = {}
    for name, content in (("whole", nn.Linear(2, 2)), ("none", {"epoch": 3}), ("list", [1, 2])):
        files[name] = tmp_path / f"{name}.pth"
        torch.save(content, files[name])
    for number, name in ((1, "cut.pth"), (0, "old.bin"), (5, "cut.safetensors")):
        files[name] = tmp_path / name
        files[name].write_bytes(Path(saved(tmp_path / "good", state, number)).read_bytes()[:5000])
    (tmp_path / "text.pt").write_text("no weights\n")
    torch.save({**state, "further": torch.ones(2)}, tmp_path / "further.pth")
    torch.save({n: x[..., None] for n, x in state.items()}, tmp_path / "shapes.pth")
    expected = {
        **dict.fromkeys(files.values(), ""),
        files["whole"]: "torch.save(model.state_dict(), FILE)",
        files["none"]: "holds no tensors by name",
        tmp_path / "text.pt": "not whole, or it holds other things",
        tmp_path / "further.pth": "also has further (1 such); take the --model that it is of",
        tmp_path / "shapes.pth": " there and ",
        tmp_path / "missing.pth": "no such checkpoint",
    }
    for path, message in expected.items():
        flags = ("--dataset", "digits", "--model", "timm/test_byobnet", "--device", "cpu")
        line = mistake_in(
            vision_main, *flags, "--init_from", path, "--resize", 32, "--output_dir", tmp_path / "x"
        )
        assert str(path) in line
        assert message in line
        assert not (tmp_path / "x").exists()


def test_code_in_a_file_is_not_run(mistake_in, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    for new in (True, False):
        torch.save({"a": Trap()}, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
        flags = ("--dataset", "digits", "--model", "timm/test_byobnet", "--device", "cpu")
        mistake_in(vision_main, *flags, "--init_from", tmp_path / "x.pth")
        assert not (tmp_path / "sprung").exists()
