"""The pixels of one image: what they are, and the order of batches."""

import importlib.util
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from cli.inr import InrDataConfig
from pipelines.images.one_image import load_pixels
from pipelines.images.pixels import PixelLoader, middles
from utils import UserError


def loader(count=23, batch=5, seed=0, passes=3, ranks=(0, 1)):
    numbers = torch.arange(count, dtype=torch.float32)[:, None]
    return PixelLoader(numbers.expand(count, 2), numbers, batch, seed, passes, *ranks)


def numbers(loader, epoch, first=0):
    return [pixels[:, 0].tolist() for _, pixels in loader.batches(epoch, first)]


def test_every_pass_has_each_pixel_once():
    made = loader()
    batches = numbers(made, 1)
    assert len(batches) == len(made) == 14
    assert [len(batch) for batch in batches] == [5] * 13 + [4]  # over the ends of passes
    flat = [*chain(*batches)]
    assert made.num_samples == len(flat) == 69
    passes = [flat[start : start + 23] for start in (0, 23, 46)]
    assert all(sorted(each) == list(range(23)) for each in passes)
    assert passes[0] != passes[1] != passes[2]


def test_order_depends_on_seed_and_epoch_alone():
    assert numbers(loader(), 2) == numbers(loader(), 2)
    assert numbers(loader(), 2) != numbers(loader(), 3)
    assert numbers(loader(), 2) != numbers(loader(seed=1), 2)


@pytest.mark.parametrize("batch", [5, 23])
@pytest.mark.parametrize("world_size", [1, 2, 7])
def test_shares_are_the_batch_from_any_place_in_the_epoch(batch, world_size):
    whole = numbers(loader(batch=batch), 4)
    shares = [loader(batch=batch, ranks=(rank, world_size)) for rank in range(world_size)]
    for first in range(len(whole)):
        together = zip(*(numbers(each, 4, first) for each in shares), strict=True)
        assert [[*chain(*parts)] for parts in together] == whole[first:]


def test_whole_passes_and_evaluations_keep_the_order():
    in_order = [float(n) for n in range(23)]
    assert numbers(loader(batch=23), 1) == [in_order] * 3
    assert [*chain(*numbers(loader(seed=None, passes=1), 9))] == in_order


def test_coordinates_are_those_of_torch():
    """grid_sample with align_corners=False, which gives back each pixel at its own coordinates."""
    image = torch.rand(1, 3, 6, 6)
    grid = middles(6).view(1, 6, 6, 2)
    found = F.grid_sample(image, grid, align_corners=False)
    assert torch.allclose(found, image, atol=1e-6)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_a_file_is_cut_in_the_middle_and_scaled_to_the_range(file):
    data = load_pixels(InrDataConfig(dataset="image", data_path=str(file), side=8))
    middle = np.array(Image.open(file))[:, 2:10]
    assert np.array_equal(data.image, middle)
    ((coordinates, pixels),) = data.test.batches(0)
    assert torch.equal(coordinates, middles(8))
    wanted = 2 * (middle.reshape(64, 3) / 255) - 1
    assert np.allclose(pixels.numpy(), wanted, atol=1e-6)
    gray = load_pixels(InrDataConfig(dataset="image", data_path=str(file), side=8, gray=True))
    luma = middle @ [0.299, 0.587, 0.114]
    assert np.abs(gray.image[..., 0] - luma).max() <= 1
    assert gray.digest != data.digest


def test_a_photograph_is_scaled_with_antialiasing():
    data = load_pixels(InrDataConfig(dataset="china", side=32))
    sklearn = pytest.importorskip("sklearn.datasets")
    whole = Image.fromarray(sklearn.load_sample_image("china.jpg")).crop((106, 0, 533, 427))
    wanted = np.array(whole.resize((32, 32), Image.Resampling.BILINEAR), float)
    nearest = np.array(whole.resize((32, 32), Image.Resampling.NEAREST), float)
    # The crop is half a pixel beside ours, whose middle is cut out after the scaling.
    assert np.abs(data.image - wanted).mean() < np.abs(data.image - nearest).mean() / 2


def test_held_out_pixels_are_not_trained_on():
    config = InrDataConfig(side=8, val_fraction=0.25)
    data = load_pixels(config)
    train, val, test = (
        {tuple(point) for coordinates, _ in each.batches(1) for point in coordinates.tolist()}
        for each in (data.train, data.val, data.test)
    )
    assert len(val) == 16
    assert train.isdisjoint(val)
    assert train | val == test
    assert numbers(load_pixels(config, data_seed=5).val, 1) == numbers(data.val, 1)
    other = load_pixels(InrDataConfig(side=8, val_fraction=0.25, split_seed=1))
    assert numbers(other.val, 1) != numbers(data.val, 1)


def test_a_fraction_of_one_validates_the_fit():
    data = load_pixels(InrDataConfig(side=8, val_fraction=1.0))
    assert numbers(data.val, 1) == numbers(data.test, 1)
    assert len(data.train.pixels) == 64


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_a_share_of_nothing_is_refused(fraction):
    with pytest.raises(UserError, match="--val_fraction"):
        load_pixels(InrDataConfig(side=8, val_fraction=fraction))


def test_without_scikit_learn_its_photographs_are_not_there(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        load_pixels(InrDataConfig(side=8))
