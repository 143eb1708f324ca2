"""Learning rates by layer and frozen parts: against timm's groups, and by what a run changes."""

import json

import pytest
import timm
import timm.optim
import torch
from helpers.resumable import KILL, assert_same_run
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torchvision.models import get_model

import models
import vision_main
from cli.vision import VisionTrainingConfig
from models.activation import create_activation
from models.vit import ViT
from run_folder.checkpoint import load_checkpoint
from training.freezing import freeze
from training.layer_decay import layers_of
from training.optimization import build_optimizer, parameter_groups
from zilu import replace_activations

FACTOR, DECAY = 0.75, 0.05


def by_name(network, groups):
    """Return the share of the learning rate and the weight decay of each parameter."""
    names = {id(p): name for name, p in network.named_parameters()}
    return {
        names[id(p)]: (group["lr_scale"], group["weight_decay"])
        for group in groups
        for p in group["params"]
    }


def ours(network):
    return by_name(network, parameter_groups(network, DECAY, "weights", FACTOR))


def timms(network):
    excepted = network.no_weight_decay() if hasattr(network, "no_weight_decay") else ()
    return by_name(
        network,
        timm.optim.param_groups_layer_decay(
            network, DECAY, no_weight_decay_list=excepted, layer_decay=FACTOR
        ),
    )


# --- learning rates by layer ---


def test_a_vit_has_timms_groups():
    mine = ours(ViT(16, 2, 4, nn.GELU, 5, 8, 4, "layer"))
    theirs = timms(VisionTransformer(8, 4, num_classes=5, embed_dim=16, depth=4, num_heads=2))
    assert mine == theirs
    assert mine["head.weight"] == (1.0, DECAY)
    assert mine["norm.weight"] == mine["blocks.3.norm1.weight"] == (FACTOR, 0.0)
    assert mine["pos_embed"] == (FACTOR**5, 0.0)


def test_a_resnet_has_timms_groups():
    assert ours(models.build_model("resnet18", nn.ReLU)) == timms(timm.create_model("resnet18"))


def test_a_vgg_has_timms_groups():
    mine = ours(models.build_model("vgg11", nn.ReLU))
    theirs = timms(timm.create_model("vgg11_bn", pretrained=False))
    features = {name: each for name, each in theirs.items() if name.startswith("features")}
    assert {name: each for name, each in mine.items() if name.startswith("features")} == features
    assert mine["classifier.weight"] == theirs["head.fc.weight"] == (1.0, DECAY)


@pytest.mark.parametrize(
    "name",
    [
        "convnext_atto", "mobilenetv3_small_050", "cait_xxs24_224", "levit_128s", "regnetx_002",
        "deit_tiny_distilled_patch16_224", "efficientnet_b0", "resmlp_12_224",
        "coatnet_pico_rw_224",
    ],
)  # fmt: skip
def test_layers_of_timms_networks_are_timms(name):
    network = timm.create_model(name)
    matcher = network.group_matcher(coarse=False)
    theirs = timm.models.group_parameters(network, matcher, reverse=True)
    assert layers_of(network, set()) == theirs


@pytest.mark.parametrize(
    ("torchvisions", "timms_name"),
    [
        ("resnet18", "resnet18"),
        ("convnext_tiny", "convnext_tiny"),
        ("swin_t", "swin_tiny_patch4_window7_224"),
        ("vit_b_16", "vit_base_patch16_224"),
    ],
)
def test_torchvisions_networks_have_as_much_in_each_layer_as_timms(torchvisions, timms_name):
    def sizes(network):
        layers = layers_of(network, set())
        found = {}
        for name, parameter in network.named_parameters():
            found[layers[name]] = found.get(layers[name], 0) + parameter.numel()
        return found

    with torch.device("meta"):  # no weights are drawn
        theirs = get_model(torchvisions)
    assert sizes(theirs) == sizes(timm.create_model(timms_name))


@pytest.mark.parametrize("name", ["resnet20", "timm/resnet18"])
def test_parameters_of_activations_are_in_the_layer_before_them_and_change_no_other(name):
    def learned():
        return create_activation("ZiLU", learnable=True)

    plain, network = (models.build_model(name, each, 10, 32) for each in (nn.ReLU, learned))
    with_sigma, without = ours(network), ours(plain)
    sigmas = {n: each for n, each in with_sigma.items() if n not in without}
    assert {n: each for n, each in with_sigma.items() if n in without} == without
    assert len(sigmas) == len(list(network.named_parameters())) - len(without) > 0
    stem = next(each for n, each in sigmas.items() if n.startswith("act1"))
    assert stem == (without["conv1.weight"][0], 0.0)
    block = next(each for n, each in sigmas.items() if n.startswith("layer2.0"))
    assert block == (without["layer2.0.conv1.weight"][0], 0.0)


OPTIMIZERS = [
    "sgd", "adam", "adamw", "RMSprop", "Muon", "timm/lamb", "timm/muon", "timm/lookahead_adamw",
    "timm/lion", "schedulefree/AdamWScheduleFree", "schedulefree/RAdamScheduleFree",
]  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_trains_a_layer_at_its_own_rate(name):
    """The rate of all but the head is set to zero, as the loop sets it, and only the head moves."""
    torch.manual_seed(0)
    network = ViT(16, 2, 2, nn.GELU, 5, 8, 4, "layer")
    given = {"momentum": None, "nesterov": None, "beta1": None, "beta2": None}
    given = {} if name in ("sgd", "adam", "adamw", "Muon") else given
    config = VisionTrainingConfig(
        optimizer=name, lr=0.1, weight_decay=0.0, layer_decay=FACTOR, **given
    )
    optimizer = build_optimizer(network, config)
    scales = sorted({group["lr_scale"] for group in optimizer.param_groups})
    assert scales == pytest.approx([FACTOR**k for k in (3, 2, 1, 0)])
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    for _ in range(7):  # RAdam begins in its sixth; an odd number of Lion's steps is no way back
        network(torch.randn(4, 3, 8, 8)).square().sum().backward()
        for group in optimizer.param_groups:
            group["lr"] = 0.1 if group["lr_scale"] == 1 else 0.0
        optimizer.step()
        optimizer.zero_grad()
    moved = {n for n, p in network.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"head.weight", "head.bias"}


def test_muons_second_rate_and_layers_multiply():
    network = ViT(16, 2, 2, nn.GELU, 5, 8, 4, "layer")
    config = VisionTrainingConfig(
        optimizer="Muon", lr=0.02, layer_decay=0.5,
        optimizer_args='{"adjust_lr_fn": "original", "adamw_lr": 0.002}',
    )  # fmt: skip
    found = by_name(network, build_optimizer(network, config).param_groups)
    assert found["head.weight"][0] == pytest.approx(0.1)
    assert found["blocks.0.mlp.fc1.weight"][0] == 0.25
    assert found["blocks.0.norm1.weight"][0] == pytest.approx(0.025)


RUN = (
    "--model", "resnet20", "--dataset", "imagefolder", "--batch_size", "16", "--num_epochs", "2",
    "--device", "cpu", "--seed", "0",
)  # fmt: skip


@pytest.fixture(scope="module")
def train(forked, image_folder, tmp_path_factory):
    """Run vision_main on tiny images, and return the run folder."""

    def train(*flags, folder=None, code=0, **options):
        folder = folder or tmp_path_factory.mktemp("run") / "run"
        where = ("--data_path", image_folder, "--output_dir", folder)
        codes, output = forked("vision_main", *RUN, *where, *flags, **options)
        assert set(codes) == {code}, output
        folder.joinpath("printed.log").write_text(output)
        return folder

    return train


def weights(folder):
    return load_checkpoint(folder / "checkpoint.pt")["model"]


def test_a_step_of_a_run_moves_each_layer_by_its_share_of_the_rate(train):
    step = ("--optimizer", "sgd", "--momentum", 0, "--weight_decay", 0, "--clip_grad_norm", 0)
    step += ("--max_steps", 1)
    before = weights(train(*step, "--lr", 1e-30))
    plain = train(*step, "--lr", 0.5)
    layered = train(*step, "--lr", 0.5, "--layer_decay", 0.5)
    layers = layers_of(models.build_model("resnet20", nn.ReLU), set())
    last = max(layers.values())
    assert last == 10  # a stem, nine blocks and the head
    after, scaled = weights(plain), weights(layered)
    for name, layer in layers.items():
        move = (after[name] - before[name]) * 0.5 ** (last - layer)
        torch.testing.assert_close(scaled[name] - before[name], move, rtol=1e-3, atol=1e-6)
    records = [json.loads((each / "metrics.jsonl").read_text()) for each in (plain, layered)]
    assert records[0]["lr"] == records[1]["lr"] == 0.5


def test_a_network_whose_layers_are_unknown_is_refused(mistake_in, image_folder, tmp_path):
    line = mistake_in(
        vision_main, *RUN, "--model", "torchvision/squeezenet1_0", "--resize", 32,
        "--data_path", image_folder, "--output_dir", tmp_path / "run", "--layer_decay", 0.5,
    )  # fmt: skip
    assert "--layer_decay" in line
    assert not (tmp_path / "run").exists()


# --- frozen parts ---


@pytest.fixture(scope="module")
def start(train):
    """A run whose weights the frozen ones start from, statistics of norms included."""
    return train("--learn_sigma", "--num_epochs", 1)


def is_norm(name):
    return "bn" in name or "downsample.1" in name


@pytest.mark.parametrize(
    ("parts", "flags", "processes"),
    [
        ("trunk", ("--use_amp",), 1),
        ("norms", ("--optimizer", "sgd"), 1),
        ("trunk,norms", (), 2),
        ("norms", ("--drop_path", 0.3, "--weight_decay", 0.1, "--decay", "all"), 2),
    ],
)
def test_what_is_frozen_stays_bit_for_bit_and_the_rest_is_trained(
    train, start, parts, flags, processes
):
    folder = train(
        "--init_from", start, "--freeze", parts, "--learn_sigma", "--stats", 3, *flags,
        processes=processes,
    )  # fmt: skip
    before, after = weights(start), weights(folder)
    changing = {name: value for name, value in before.items() if not name.endswith("sigma0")}
    for name, value in changing.items():
        is_frozen = is_norm(name) if parts == "norms" else not name.startswith("fc.")
        assert torch.equal(after[name], value) == is_frozen, name
    state = load_checkpoint(folder / "checkpoint.pt")["optimizer"]["state"]
    network = models.build_model("resnet20", lambda: create_activation("ZiLU", learnable=True))
    names = [name for name, _ in network.named_parameters()]
    frozen = [n for n in names if (is_norm(n) if parts == "norms" else not n.startswith("fc."))]
    assert len(state) == len(names) - len(frozen)
    lines = (folder / "stats.jsonl").read_text().splitlines()
    looked = [json.loads(line)["sites"] for line in lines if "sites" in line]
    norms = [each["gradient_norm"] for sites in looked for each in sites.values()]
    assert norms
    assert all((norm is None) == parts.startswith("trunk") for norm in norms)


def test_a_frozen_trunk_computes_in_training_what_it_does_in_evaluation():
    torch.manual_seed(0)
    network = models.build_model("resnet20", nn.ReLU)
    images = torch.randn(8, 3, 8, 8)
    network(images)  # for statistics of their own
    expected = network.eval()(images)
    freeze(network, ["trunk"])
    torch.testing.assert_close(network.train()(images), expected)
    assert not network.bn1.training
    assert network.layer1[0].act1.training
    trained = [name for name, p in network.named_parameters() if p.requires_grad]
    assert trained == ["fc.weight", "fc.bias"]


def test_frozen_norms_leave_the_activation_inside_them_alone():
    network = timm.create_model("test_efficientnet", num_classes=5)
    replace_activations(network, "ZiLU", learnable=True)
    freeze(network, ["norms"])
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    inside = [p for norm in norms for p in norm.act.parameters()]
    assert inside
    assert all(p.requires_grad for p in inside)
    network.train()
    assert not any(norm.training for norm in norms)
    assert all(norm.act.training for norm in norms)
    assert not any(norm.act.training for norm in norms if network.eval())


def test_both_heads_of_a_distilled_network_are_its_head():
    network = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=5)
    freeze(network, ["trunk"])
    trained = {n for n, p in network.named_parameters() if p.requires_grad}
    assert trained == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}


def test_a_run_with_everything_is_killed_and_goes_on_bit_for_bit(train, start):
    flags = (
        "--init_from", start, "--learn_sigma", "--freeze", "norms", "--layer_decay", 0.8,
        "--drop_path", 0.4, "--drop_rate", 0.3, "--save_interval", "2", "--stats", "4",
        "--scheduler", "cosine", "--warmup", "2",
    )  # fmt: skip
    whole = train(*flags)
    killed = train(*flags, faults={0: ("step", KILL, 9)}, code=-KILL)
    assert (killed / "checkpoint.pt").exists()
    train(*flags, "--resume", folder=killed)
    assert_same_run(killed, whole)
    # The draws count: from the same weights, without them, another network comes of it.
    other = train(*flags, "--drop_path", 0)
    assert not torch.equal(weights(other)["fc.weight"], weights(whole)["fc.weight"])


def test_a_checkpoint_of_a_run_with_rates_is_evaluated_as_it_was(train, forked, image_folder):
    folder = train("--drop_path", 0.4, "--drop_rate", 0.3)
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    codes, output = forked(
        "vision_main", "--test_only", "--output_dir", folder, "--data_path", image_folder
    )
    assert codes == [0], output
    assert f"Loss: {last['test']['loss']:.8f}" in output


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--model", "vit-tiny", "--freeze", "norms"), "no BatchNorm"),
        (("--freeze", "trunk", "--sync_batchnorm"), "--sync_batchnorm"),
        (("--freeze", "head"), "--freeze"),
        (("--layer_decay", "1.5"), "--layer_decay"),
    ],
)
def test_what_cannot_be_frozen_is_refused_before_the_folder_is_made(
    mistake_in, image_folder, tmp_path, flags, named
):
    line = mistake_in(
        vision_main, *RUN, "--data_path", image_folder, "--output_dir", tmp_path / "run", *flags
    )
    assert named in line
    assert not (tmp_path / "run").exists()
