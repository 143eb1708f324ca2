"""Counts of operations: by hand, by fvcore's published figures, and in what a run writes."""

import pytest
import torch
from torch import nn

from cli.vision import VisionConfig
from models.operations import forward_flops
from tasks.classification import Classification
from tasks.vision import VisionProgram


def network(**flags):
    config = VisionConfig.from_values({"device": "cpu"} | flags)
    size = flags.get("resize") or 32
    return VisionProgram(config).network_for(flags.pop("classes", 10), size)


def test_by_hand():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 64, 5)
    ).train()
    statistics = model[1].running_mean.clone()
    assert forward_flops(model, torch.randn(1, 3, 8, 8)) == 2 * (64 * 4 * 27 + 4 * 64 * 5)
    assert model.training
    assert torch.equal(model[1].running_mean, statistics)


# Multiply-adds, in units of 1e9: of torchvision's model pages (ResNet-18, ResNet-50), He et al.
# (2016), table 1 and section 4.2 (40.6 million for ResNet-20 with shortcuts without weights).
@pytest.mark.parametrize(
    ("name", "size", "published"),
    [("resnet20", 32, 0.0406), ("resnet18", 224, 1.814), ("resnet50", 224, 4.089)],
)
def test_published_figures(name, size, published):
    model = network(model=name, resize=size, stem="cifar" if size == 32 else "imagenet")
    assert model.forward_flops / 2e9 == pytest.approx(published, rel=0.02)


def test_attention_counts():
    """Compare with the products of a ViT's blocks, written down."""
    model = network(model="vit-tiny", resize=32, patch_size=4)
    width, depth, tokens = 192, 12, 64 + 1
    block = 12 * width * width * tokens + 2 * tokens * tokens * width
    rest = 48 * width * 64 + width * 10
    assert model.forward_flops == pytest.approx(2 * (depth * block + rest), rel=1e-3)


def test_a_step_is_three_times_a_forward_pass():
    model = network(model="resnet20")
    assert Classification("CrossEntropy").flops(model) == 3 * model.forward_flops
    assert Classification("CrossEntropy").flops(nn.Linear(2, 2)) is None
