"""Random-resized crops and random erasing: pixels and draws are torchvision's, and timm's."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chisquare, ks_2samp
from torchvision import transforms
from torchvision.transforms.v2 import InterpolationMode, functional

from pipelines.images.augment import ERASED, Transform, erase
from pipelines.images.crops import draw_crops, draw_rectangles, resized_crop

MEAN, STD = (0.49, 0.48, 0.44), (0.24, 0.25, 0.26)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=0):
    return torch.randint(256, shape, dtype=torch.uint8, generator=seeded(seed))


@pytest.mark.parametrize("filter_name", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [1, 8, 33, 64])
def test_a_crop_equals_torchvisions_of_a_pillow_image(size, filter_name):
    images, crops = noise(100, size, size, 3), draw_crops(100, size, 0.08, seeded())
    crops[0] = torch.tensor([0, 0, size, size])
    crops[1] = torch.tensor([size - 1, 0, 1, 1])
    ours = resized_crop(images, crops, filter_name)
    for image, crop, result in zip(images, crops.tolist(), ours, strict=True):
        theirs = functional.resized_crop(
            Image.fromarray(image.numpy()), *crop, [size, size], InterpolationMode(filter_name)
        )
        assert np.array_equal(result.numpy(), np.asarray(theirs)), crop


@pytest.mark.parametrize("least", [0.08, 0.6, 1.0])
def test_crops_are_drawn_as_torchvisions(least):
    torch.manual_seed(0)
    image = torch.zeros(3, 40, 40)
    ratio = (3 / 4, 4 / 3)
    theirs = np.array(
        [transforms.RandomResizedCrop.get_params(image, (least, 1), ratio) for _ in range(4000)]
    )
    ours = draw_crops(8000, 40, least, seeded(1)).numpy()
    for ours_by, theirs_by in zip(ours.T, theirs.T, strict=True):  # top, left, height, width
        assert ks_2samp(ours_by, theirs_by).pvalue > 0.001
    for each in (ours, theirs):  # what is at the border, and what is the whole
        assert (each >= 0).all()
        assert (each[:, :2] + each[:, 2:] <= 40).all()
    shapes = [each[:, 2] / each[:, 3] for each in (ours, theirs)]
    assert ks_2samp(*shapes).pvalue > 0.001
    whole = [(each[:, 2:] == 40).all(1).mean() for each in (ours, theirs)]
    assert abs(whole[0] - whole[1]) < 0.03


def test_a_transform_crops_and_then_mirrors_half_of_the_images():
    transform = Transform(MEAN, STD, 16, "cpu", crop=True, flip=True, min_scale=0.3)
    images = noise(400, 16, 16, 3)
    choices = transform.draw(400, seeded())
    cropped = resized_crop(images, choices["crop"], "bilinear")
    flip = choices["flip"]
    cropped[flip] = cropped[flip].flip(2)
    assert torch.equal(transform(images, choices), Transform(MEAN, STD, 16, "cpu")(cropped, {}))
    assert chisquare([flip.sum(), (~flip).sum()]).pvalue > 0.001
    unmirrored = Transform(MEAN, STD, 16, "cpu", crop=True, min_scale=0.3)
    assert not unmirrored.draw(400, seeded())["flip"].any()


# --- random erasing ---


def test_what_is_erased_equals_torchvisions():
    images = torch.randn(50, 12, 12, 3, generator=seeded())
    rectangles = draw_rectangles(50, 12, *ERASED["const"], seeded())
    speckles = torch.randn(50, 12, 12, 3, generator=seeded(1))
    for fill in (torch.zeros(1), speckles):
        ours = erase(images, rectangles, fill)
        for number, (top, left, height, width) in enumerate(rectangles.tolist()):
            theirs = images[number].permute(2, 0, 1)
            values = fill.expand(images.shape)[number].permute(2, 0, 1)
            values = values[:, top : top + height, left : left + width]
            theirs = functional.erase(theirs, top, left, height, width, values)
            assert torch.equal(ours[number].permute(2, 0, 1), theirs)


def torchvisions_rectangles(count, size):
    torch.manual_seed(0)
    image, drawn = torch.zeros(3, size, size), []
    for _ in range(count):
        top, left, height, width, _ = transforms.RandomErasing.get_params(
            image, *ERASED["const"], [0]
        )
        drawn.append((top, left, height, width))
    return np.array(drawn)


def timms_rectangles(count, size):
    erasing = pytest.importorskip("timm.data.random_erasing")
    random.seed(0)
    torch.manual_seed(0)
    ours = erasing.RandomErasing(1.0, mode="pixel", device="cpu")
    drawn = []
    for _ in range(count):
        erased = (ours(torch.zeros(3, size, size))[0] != 0).nonzero()
        first, last = erased.amin(0).tolist(), erased.amax(0).tolist()
        drawn.append((*first, last[0] - first[0] + 1, last[1] - first[1] + 1))
    return np.array(drawn)


@pytest.mark.parametrize(
    ("mode", "theirs"), [("const", torchvisions_rectangles), ("pixel", timms_rectangles)]
)
def test_rectangles_are_drawn_as_the_librarys(mode, theirs):
    ours = draw_rectangles(6000, 24, *ERASED[mode], seeded(1)).numpy()
    theirs = theirs(3000, 24)
    for ours_by, theirs_by in zip(ours.T, theirs.T, strict=True):
        assert ks_2samp(ours_by, theirs_by).pvalue > 0.001
    areas = [each[:, 2] * each[:, 3] for each in (ours, theirs)]
    assert ks_2samp(*areas).pvalue > 0.001


def test_one_image_in_four_is_erased_and_only_there():
    transform = Transform((0.0,) * 3, (1 / 255,) * 3, 16, "cpu", erasing=0.25)
    white = torch.full((2000, 16, 16, 3), 255, dtype=torch.uint8)
    choices = transform.draw(2000, seeded())
    output = transform(white, choices)
    black = (output == 0).all(1).flatten(1).sum(1)  # pixels, of each image
    assert torch.equal(black, choices["erased"][:, 2] * choices["erased"][:, 3])
    erased = int((black > 0).sum())
    assert chisquare([erased, 2000 - erased], [500, 1500]).pvalue > 0.001
    assert torch.isclose(output, torch.tensor(255.0), atol=1e-3).sum() + 3 * black.sum() == (
        output.numel()
    )
