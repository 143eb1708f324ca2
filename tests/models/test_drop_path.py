"""Stochastic depth and dropout of heads: the draws and the rates, against timm and torchvision."""

import pytest
import timm
import torch
from timm.layers import DropPath as TimmDropPath
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.ops import StochasticDepth

import models
import vision_main
from models.drop_path import DropPath
from models.vit import ViT


@pytest.mark.parametrize("shape", [(64, 3, 2, 2), (64, 5, 4), (64, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_state_of_the_generator_drops_what_timm_and_torchvision_drop(shape, dtype):
    x = torch.randn(shape).to(dtype)
    found = []
    for layer in (DropPath(0.4), TimmDropPath(0.4), StochasticDepth(0.4, "row")):
        torch.manual_seed(1)
        given = x.clone().requires_grad_()
        output = layer.train()(given)
        output.sum().backward()
        found.append((output, given.grad))
        assert torch.equal(layer.eval()(x), x)
    for output, gradient in found[1:]:
        assert torch.equal(output, found[0][0])
        assert torch.equal(gradient, found[0][1])


def test_each_image_draws_for_itself_with_the_given_rate():
    torch.manual_seed(0)
    dropped = DropPath(0.3)(torch.ones(20000, 2, 3))
    rows = dropped.flatten(1)
    assert (rows == rows[:, :1]).all()
    share = (rows[:, 0] == 0).float().mean().item()
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / 20000) ** 0.5
    assert rows[:, 0].unique().tolist() == pytest.approx([0, 1 / 0.7])


def rates_of(network):
    return [
        module.rate if isinstance(module, DropPath) else module.drop_prob
        for module in network.modules()
        if type(module).__name__ == "DropPath"
    ]


RATES = {"drop_path": 0.5, "drop_rate": 0.3}
TIMMS_RATES = {"drop_path_rate": 0.5, "drop_rate": 0.3}


def vits():
    mine = ViT(16, 2, 4, nn.GELU, 5, 8, 4, "layer", **RATES)
    sizes = {"embed_dim": 16, "depth": 4, "num_heads": 2}
    return mine, VisionTransformer(8, 4, num_classes=5, **sizes, **TIMMS_RATES), 8


def resnets():
    mine = models.build_model("resnet18", nn.ReLU, 5, 32, stem="imagenet", **RATES)
    return mine, timm.create_model("resnet18", num_classes=5, **TIMMS_RATES), 32


@pytest.mark.parametrize("networks", [vits, resnets])
def test_a_network_in_training_computes_what_timms_does_at_the_same_draws(networks):
    mine, theirs, size = networks()
    theirs.load_state_dict(mine.state_dict())
    images = torch.randn(6, 3, size, size)

    def output(network, seed):
        torch.manual_seed(seed)
        return network(images)

    both = [output(network.train(), 3) for network in (mine, theirs)]
    torch.testing.assert_close(*both, rtol=1e-4, atol=1e-5)
    both = [output(network.eval(), 3) for network in (mine, theirs)]
    torch.testing.assert_close(*both, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(output(mine.train(), 4), output(mine.train(), 3))


@pytest.mark.parametrize(
    ("name", "timms"), [("resnet34", "resnet34"), ("vit-tiny", "vit_tiny_patch16_224")]
)
def test_blocks_have_timms_rates(name, timms):
    mine = rates_of(models.build_model(name, nn.ReLU, 10, 224, drop_path=0.1))
    # A ViT's block of ours drops both branches by one module.
    theirs = list(dict.fromkeys(rates_of(timm.create_model(timms, drop_path_rate=0.1))))
    assert mine == theirs
    assert len(mine) == {"resnet34": 15, "vit-tiny": 11}[name]


@pytest.mark.parametrize("name", ["vgg11", "resnet20", "vit-tiny"])
def test_rates_add_nothing_to_a_checkpoint_and_none_adds_nothing_at_all(name):
    torch.manual_seed(0)
    plain = models.build_model(name, nn.ReLU)
    torch.manual_seed(0)
    rates = {"drop_rate": 0.2} | ({} if name == "vgg11" else {"drop_path": 0.1})
    dropping = models.build_model(name, nn.ReLU, **rates)
    assert "Drop" not in str(plain)
    assert str(dropping).count("DropPath") == {"vgg11": 0, "resnet20": 8, "vit-tiny": 11}[name]
    assert "Dropout(p=0.2" in str(dropping)
    mine, theirs = plain.state_dict(), dropping.state_dict()
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[each], theirs[each]) for each in mine)


def test_the_rate_of_vggs_three_layers_is_its_own_where_none_is_given():
    def rates(**given):
        network = models.build_model("vgg11", nn.ReLU, head="wide", **given)
        return [module.p for module in network.modules() if isinstance(module, nn.Dropout)]

    assert rates() == [0.5, 0.5]
    assert rates(drop_rate=0.2) == [0.2, 0.2]
    assert rates(drop_rate=0.0) == [0.0, 0.0]


@pytest.mark.slow
def test_torchvisions_networks_have_the_rates_of_their_constructors():
    def rates(network):
        return [each.p for each in network.modules() if isinstance(each, StochasticDepth)]

    # swin_t fixes 0.2, so the constructor is called here as swin_t does.
    swin = SwinTransformer(
        [4, 4], 96, [2, 2, 6, 2], [3, 6, 12, 24], [7, 7], stochastic_depth_prob=0.3
    )
    found = models.build_model("torchvision/swin_t", nn.GELU, 10, 32, drop_path=0.3)
    assert rates(found) == pytest.approx(rates(swin))
    assert rates(models.build_model("torchvision/swin_t", nn.GELU, 10, 32))[-1] == 0.2
    convnext = models.build_model("torchvision/convnext_tiny", nn.GELU, 10, 32, drop_path=0.0)
    assert set(rates(convnext)) == {0.0}


def test_another_packages_network_gets_the_rates_of_its_package():
    name = "efficientnet_b0"
    mine = models.build_model(f"timm/{name}", nn.SiLU, 10, 32, drop_path=0.3, drop_rate=0.4)
    theirs = timm.create_model(name, drop_path_rate=0.3)
    assert rates_of(mine) == rates_of(theirs)
    assert mine.drop_rate == 0.4
    torch.manual_seed(0)
    images = torch.randn(4, 3, 32, 32)
    outputs = []
    for network in (mine, timm.create_model(name, drop_path_rate=0.3, drop_rate=0.4)):
        network.load_state_dict(mine.state_dict(), strict=False)
        network.reset_classifier(0)
        torch.manual_seed(5)
        outputs.append(network.train()(images))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "flag"),
    [
        ("vgg11", "drop_path"),
        ("timm/vgg11", "drop_path"),
        ("torchvision/resnet18", "drop_path"),
        ("torchvision/resnet18", "drop_rate"),
        ("torchvision/vit_b_16", "drop_rate"),  # its dropout is that of every block
    ],
)
def test_a_network_without_such_a_rate_is_refused_before_its_folder_is_made(
    mistake_in, tmp_path, image_folder, model, flag
):
    line = mistake_in(
        vision_main, "--model", model, f"--{flag}", 0.1, "--dataset", "imagefolder",
        "--data_path", image_folder, "--resize", 32, "--device", "cpu",
        "--output_dir", tmp_path / "run",
    )  # fmt: skip
    assert f"--{flag} does not apply to {model}" in line
    assert not (tmp_path / "run").exists()
