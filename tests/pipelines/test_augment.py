"""Augmentation gives what torchvision gives, one image at a time."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import chi2_contingency, chisquare, kstest
from torchvision import transforms
from torchvision.transforms.v2 import functional

from pipelines.images import augment
from pipelines.images.augment import Transform, color_jitter, crop_flip, rotate, rotations

MEAN, STD = (0.49, 0.48, 0.44), (0.24, 0.25, 0.26)
ALL = {"crop": True, "flip": True, "rotate": 15.0, "jitter": True, "noise": 1.0}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_bytes(*shape, seed=0):
    return torch.randint(256, shape, dtype=torch.uint8, generator=seeded(seed))


def varied(transform, pixels, seed=0):
    """Transform `pixels` as a training loader would, in one batch."""
    choices = transform.draw(len(pixels), seeded(seed))
    noise = transform.draw_noise(len(pixels), seeded(seed)) if transform.noise else None
    return transform(pixels, choices, noise)


def reference_crop_flip(image, dy, dx, flip, padding):
    """Crop and flip one image (H, W, C) by torchvision."""
    height, width, _ = image.shape
    planes = functional.pad(image.permute(2, 0, 1), [padding])
    planes = functional.crop(planes, dy, dx, height, width)
    return (functional.horizontal_flip(planes) if flip else planes).permute(1, 2, 0)


def test_crop_flip_equals_torchvision_at_every_offset():
    cases = list(itertools.product(range(9), range(9), (False, True)))
    images = random_bytes(len(cases), 32, 32, 3)
    dy, dx, flip = (torch.tensor(column) for column in zip(*cases, strict=True))
    ours = crop_flip(images, dy, dx, flip, 4)
    for image, case, result in zip(images, cases, ours, strict=True):
        assert torch.equal(result, reference_crop_flip(image, *case, 4)), case


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 3), st.data())
def test_crop_flip_of_any_shape(height, width, padding, data):
    offset = st.integers(0, 2 * padding)
    cases = data.draw(st.lists(st.tuples(offset, offset, st.booleans()), min_size=1, max_size=4))
    images = random_bytes(len(cases), height, width, 3)
    dy, dx, flip = (torch.tensor(column) for column in zip(*cases, strict=True))
    ours = crop_flip(images, dy, dx, flip, padding)
    for image, case, result in zip(images, cases, ours, strict=True):
        assert torch.equal(result, reference_crop_flip(image, *case, padding))


class TestDistribution:
    """8x8 images have padding 1, hence 3 x 3 x 2 results, which must all be equally likely."""

    image = torch.arange(1, 193, dtype=torch.uint8).view(8, 8, 3)
    cells = tuple(itertools.product(range(3), range(3), (False, True)))
    draws = 18_000

    def count(self, results):
        known = {
            reference_crop_flip(self.image, *cell, 1).numpy().tobytes(): cell for cell in self.cells
        }
        assert len(known) == 18
        found = [known[np.ascontiguousarray(result).tobytes()] for result in results]
        return np.array([found.count(cell) for cell in self.cells])

    def ours(self, flip=True):
        transform = Transform((0, 0, 0), (1 / 255,) * 3, 8, "cpu", crop=True, flip=flip)
        output = varied(transform, self.image.expand(self.draws, 8, 8, 3).contiguous(), 1)
        return self.count(output.permute(0, 2, 3, 1).round().byte().numpy())

    def torchvisions(self):
        torch.manual_seed(2)
        transform = transforms.Compose(
            [transforms.RandomCrop(8, padding=1), transforms.RandomHorizontalFlip()]
        )
        planes = self.image.permute(2, 0, 1)
        return self.count([transform(planes).permute(1, 2, 0).numpy() for _ in range(self.draws)])

    def test_ours_is_uniform_and_torchvisions_too_and_both_are_alike(self):
        ours, theirs = self.ours(), self.torchvisions()
        assert chisquare(ours).pvalue > 0.01
        assert chisquare(theirs).pvalue > 0.01
        assert chi2_contingency([ours, theirs]).pvalue > 0.01

    def test_without_flip_nothing_is_mirrored(self):
        counts = self.ours(flip=False)
        assert not counts[1::2].any()
        assert chisquare(counts[::2]).pvalue > 0.01


@pytest.mark.parametrize(("size", "padding"), [(28, 4), (32, 4), (64, 8), (224, 28)])
def test_padding_is_an_eighth_and_black(size, padding):
    transform = Transform(MEAN, STD, size, "cpu", crop=True)
    white = torch.full((64, size, size, 3), 255, dtype=torch.uint8)
    output = varied(transform, white)
    black = -torch.tensor(MEAN) / torch.tensor(STD)
    rows = torch.isclose(output, black.view(1, 3, 1, 1)).all(1).all(2)  # (B, H): black rows
    assert rows.sum(1).max() == padding


@pytest.mark.parametrize(("size", "most"), [(32, 15), (9, 15), (64, 179), (1, 30)])
def test_rotation_equals_torchvisions_of_a_pillow_image(size, most):
    degrees = most * (2 * torch.rand(40, generator=seeded(), dtype=torch.float64) - 1)
    images = random_bytes(40, size, size, 3)
    ours = rotate(images, rotations(degrees, size))
    for image, angle, result in zip(images, degrees.tolist(), ours, strict=True):
        theirs = transforms.functional.rotate(Image.fromarray(image.numpy()), angle)
        assert np.array_equal(result.numpy(), np.asarray(theirs)), angle


def test_rotations_are_drawn_evenly_and_come_after_crop_and_flip():
    transform = Transform(MEAN, STD, 32, "cpu", crop=True, flip=True, rotate=15)
    pixels = random_bytes(2000, 32, 32, 3)
    choices = transform.draw(2000, seeded())
    cos, sin = choices["rotation"][:, :2].unbind(1)
    drawn = -torch.rad2deg(torch.atan2(sin.double(), cos.double()))
    assert kstest(drawn.numpy(), "uniform", (-15, 30)).pvalue > 0.01
    cropped = crop_flip(pixels, choices["dy"], choices["dx"], choices["flip"], 4)
    expected = Transform(MEAN, STD, 32, "cpu")(rotate(cropped, choices["rotation"]), {})
    assert torch.equal(transform(pixels, choices), expected)
    without = Transform(MEAN, STD, 32, "cpu", crop=True, flip=True).draw(2000, seeded())
    assert all(torch.equal(choices[name], value) for name, value in without.items())


@pytest.mark.parametrize("seed", range(3))
def test_color_jitter_equals_torchvision(seed):
    images = torch.rand(16, 3, 9, 7, generator=seeded(seed))
    images[0] = 0.3  # gray: no hue
    images[1] = 0  # black: no saturation
    images[2, :, ::2] = images[2, :1, ::2].round()  # black, white and ties
    brightness, contrast, saturation = torch.rand(3, 16, generator=seeded(seed + 10)) * 2
    hue = torch.rand(16, generator=seeded(seed + 20)) - 0.5
    ours = color_jitter(images, brightness, contrast, saturation, hue)
    for i, image in enumerate(images):
        theirs = functional.adjust_brightness(image, brightness[i].item())
        theirs = functional.adjust_contrast(theirs, contrast[i].item())
        theirs = functional.adjust_saturation(theirs, saturation[i].item())
        theirs = functional.adjust_hue(theirs, hue[i].item())
        torch.testing.assert_close(ours[i], theirs, rtol=0, atol=1e-5)


def test_color_jitter_draws_torchvisions_ranges(monkeypatch):
    drawn = []

    def spy(images, *factors):
        drawn.append(factors)
        return images

    monkeypatch.setattr(augment, "color_jitter", spy)
    varied(Transform(MEAN, STD, 1, "cpu", jitter=True), random_bytes(4000, 1, 1, 3))
    ranges = [(0.8, 0.4), (0.8, 0.4), (0.8, 0.4), (-0.1, 0.2)]  # (low, width)
    for factor, bounds in zip(drawn[0], ranges, strict=True):
        assert kstest(factor.numpy(), "uniform", bounds).pvalue > 0.01
    assert np.abs(np.corrcoef(torch.stack(drawn[0]).numpy()) - np.eye(4)).max() < 0.06


def test_jitter_is_applied_before_normalising():
    pixels = random_bytes(5, 8, 8, 3)
    jittered = varied(Transform(MEAN, STD, 8, "cpu", jitter=True), pixels)
    spread = 2 * torch.rand(4, 5, generator=seeded()) - 1
    planes = pixels.permute(0, 3, 1, 2) / 255
    expected = color_jitter(planes, *(1 + 0.2 * spread[:3]), 0.1 * spread[3])
    expected = functional.normalize(expected, MEAN, STD)
    torch.testing.assert_close(jittered, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(jittered, Transform(MEAN, STD, 8, "cpu")(pixels, {}), atol=0.01)


def test_normalise_equals_torchvision():
    pixels = random_bytes(7, 12, 12, 3)
    ours = Transform(MEAN, STD, 12, "cpu")(pixels, {})
    theirs = torch.stack(
        [transforms.Normalize(MEAN, STD)(transforms.ToTensor()(image.numpy())) for image in pixels]
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)
    assert ours.dtype == torch.float32
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_noise_is_gaussian_with_the_given_deviation():
    pixels = random_bytes(50, 16, 16, 3)
    plain = Transform(MEAN, STD, 16, "cpu")(pixels, {})
    noisy = varied(Transform(MEAN, STD, 16, "cpu", noise=0.3), pixels)
    assert noisy.is_contiguous(memory_format=torch.channels_last)
    noise = (noisy - plain).flatten().numpy()
    assert kstest(noise, "norm", (0, 0.3)).pvalue > 0.01


def test_the_bytes_are_left_alone():
    pixels = random_bytes(6, 16, 16, 3)
    before = pixels.clone()
    varied(Transform(MEAN, STD, 16, "cpu", **ALL), pixels)
    assert torch.equal(pixels, before)


def in_parts(transform, pixels, cuts):
    """Do what `varied` does, in several batches."""
    choices = transform.draw(len(pixels), seeded())
    noise = transform.draw_noise(len(pixels), seeded())
    bounds = [0, *cuts, len(pixels)]
    parts = [slice(*pair) for pair in itertools.pairwise(bounds)]
    return torch.cat(
        [
            transform(pixels[part], {k: v[part] for k, v in choices.items()}, noise[part])
            for part in parts
        ]
    )


@settings(deadline=None, max_examples=50)
@given(size=st.integers(1, 20), count=st.integers(0, 9), data=st.data())
def test_an_image_does_not_depend_on_those_beside_it(size, count, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=4)))
    transform = Transform(MEAN, STD, size, "cpu", **ALL)
    pixels = random_bytes(count, size, size, 3)
    assert torch.equal(in_parts(transform, pixels, cuts), varied(transform, pixels))


def test_nor_does_a_large_one_with_several_threads():
    """torch sums a tensor to one number with all its threads, rows of several with one each."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        transform = Transform(MEAN, STD, 184, "cpu", **ALL)
        pixels = random_bytes(3, 184, 184, 3)
        for cuts in ([1], [1, 2]):
            assert torch.equal(in_parts(transform, pixels, cuts), varied(transform, pixels))
    finally:
        torch.set_num_threads(before)


def test_what_is_drawn_is_in_range_and_of_the_count_asked_for():
    choices = Transform(MEAN, STD, 32, "cpu", **ALL).draw(1000, seeded())
    assert {len(values) for values in choices.values()} == {1000}
    for name in ("dy", "dx"):
        assert sorted(set(choices[name].tolist())) == list(range(9))
    assert not Transform(MEAN, STD, 32, "cpu", noise=1.0).draw(1000, seeded())
