"""Mixup and CutMix: pixels, labels and draws are torchvision's, partners are timm's."""

import numpy as np
import pytest
import torch
from helpers.image_folders import load_folder, write_folder
from scipy.stats import chi2_contingency, kstest
from torchvision.transforms import v2

from dataset import load_images
from pipelines.images.augment import Transform
from pipelines.images.loaders import MemoryLoader
from pipelines.images.mixing import Mixing, mixed
from utils import UserError, mixed_seed

SIZE, CLASSES = 12, 5
BOTH = Mixing(0.8, 1.0, 0.5, CLASSES)


def batch(count=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, SIZE, SIZE, generator=generator)
    return images, torch.randint(CLASSES, (count,), generator=generator)


def by_torchvision(images, labels, partners, others, mix):
    """Mix each image with its partner by torchvision's classes: pairs, of which it takes the first.

    They roll a batch by one, which changes the places of two images.
    """
    if mix.rectangle is None:
        transform, params = v2.MixUp(num_classes=CLASSES), {"lam": mix.share}
    else:
        top, bottom, left, right = mix.rectangle
        transform = v2.CutMix(num_classes=CLASSES)
        params = {"box": (left, top, right, bottom), "lam_adjusted": mix.share}
    transform.make_params = lambda _: params
    pairs = [
        transform(torch.stack([image, partner]), torch.stack([label, other]))
        for image, label, partner, other in zip(images, labels, partners, others, strict=True)
    ]
    return torch.stack([x[0] for x, _ in pairs]), torch.stack([y[0] for _, y in pairs])


@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0)])
def test_pixels_and_soft_labels_equal_torchvisions(alphas):
    mixing = Mixing(*alphas, 0.5, CLASSES)
    for seed in range(20):
        images, labels = batch(7, seed)
        mix = mixing.draw(SIZE, seed)
        partners, others = images.flip(0), labels.flip(0)
        expected = by_torchvision(images, labels, partners, others, mix)
        assert torch.equal(mixed(images, partners, mix), expected[0])
        soft = mixing.soft_labels(labels, others, mix)
        assert torch.equal(soft, expected[1])
        assert torch.allclose(soft.sum(1), torch.ones(7))


def test_a_batch_equals_timms(monkeypatch):
    """At the same draws, label smoothing included; its partners are those in the mirror."""
    timm = pytest.importorskip("timm.data.mixup")
    for mixing in (Mixing(0.8, 0.0, 0.5, CLASSES), Mixing(0.0, 1.0, 0.5, CLASSES)):
        for seed in range(10):
            images, labels = batch(6, seed)
            mix = mixing.draw(SIZE, seed)
            theirs = timm.Mixup(mixing.mixup, mixing.cutmix, label_smoothing=0.1,
                                num_classes=CLASSES)  # fmt: skip
            monkeypatch.setattr(
                theirs, "_params_per_batch", lambda mix=mix: (mix.share, mix.rectangle is not None)
            )
            box = lambda *_, mix=mix, **__: (mix.rectangle, mix.share)  # noqa: E731
            monkeypatch.setattr(timm, "cutmix_bbox_and_lam", box)
            expected, soft = theirs(images.clone(), labels)
            ours = mixed(images, images.flip(0), mix)
            torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
            smoothed = mixing.soft_labels(labels, labels.flip(0), mix) * 0.9 + 0.1 / CLASSES
            torch.testing.assert_close(smoothed, soft, rtol=0, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixups_share_has_the_beta_distribution(alpha):
    shares = [Mixing(alpha, 0.0, 0.5, 2).draw(SIZE, seed).share for seed in range(2000)]
    assert kstest(shares, "beta", (alpha, alpha)).pvalue > 0.001


def test_rectangles_are_torchvisions():
    """Categories of the share that is left and of the corner's place."""
    torch.manual_seed(0)
    transform, image = v2.CutMix(alpha=1.0, num_classes=2), [torch.zeros(2, 3, SIZE, SIZE)]
    theirs = []
    for _ in range(3000):
        params = transform.make_params(image)
        left, top, *_ = params["box"]
        theirs.append((round(params["lam_adjusted"] * 4), left // 4, top // 4))
    ours = []
    for seed in range(6000):
        mix = Mixing(0.0, 1.0, 0.5, 2).draw(SIZE, mixed_seed(seed))
        ours.append((round(mix.share * 4), mix.rectangle.left // 4, mix.rectangle.top // 4))
    cells = sorted({*theirs, *ours})
    table = np.array([[each.count(cell) for cell in cells] for each in (ours, theirs)])
    assert chi2_contingency(table[:, table.sum(0) > 15]).pvalue > 0.001


@pytest.mark.parametrize("switch", [0.0, 0.3, 1.0])
def test_one_of_the_two_per_batch(switch):
    mixing = Mixing(0.2, 1.0, switch, 2)
    share = np.mean([mixing.draw(SIZE, seed).rectangle is not None for seed in range(2000)])
    assert abs(share - switch) < 0.04
    assert mixing.draw(SIZE, 3) == mixing.draw(SIZE, 3)


# --- in a loader ---


def loader(mixing, count=23, **options):
    images = np.random.RandomState(0).randint(0, 256, (count, SIZE, SIZE, 3), np.uint8)
    transform = Transform((0.5,) * 3, (0.25,) * 3, SIZE, "cpu", mixing=mixing, **options)
    return MemoryLoader(images, np.arange(count) % CLASSES, transform, 5, "cpu", data_seed=3)


def test_a_loaders_batches_are_the_plain_ones_mixed():
    """The whole rule stands here, so that a seed gives the same batches in every version."""
    plain = list(loader(None, crop=True, flip=True).batches(2))
    ours = list(loader(BOTH, crop=True, flip=True).batches(2))
    kinds = set()
    for number, ((images, labels), (found, soft)) in enumerate(zip(plain, ours, strict=True)):
        mix = BOTH.draw(SIZE, mixed_seed("mix", 3, 2, number))
        kinds.add(mix.rectangle is None)
        expected = by_torchvision(images, labels, images.flip(0), labels.flip(0), mix)
        assert torch.equal(found, expected[0])
        assert torch.equal(soft, expected[1])
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert (soft.dtype, soft.shape) == (torch.float32, (len(found), CLASSES))
    assert kinds == {True, False}


def test_load_images_mixes_training_batches_alone(tmp_path):
    folder = str(write_folder(tmp_path / "images"))
    data = load_folder(folder, mixup=0.2, cutmix=1.0, val_fraction=0.5)
    for split, shape in ((data.train, (4, 3)), (data.val, (4,)), (data.test, (4,))):
        _, targets = next(iter(split.batches(0)))
        assert targets.shape == shape


@pytest.mark.parametrize(
    "options",
    [
        {"auto_augment": "randaug"}, {"mixup": -1}, {"random_erasing": 1.5},
        {"erasing_mode": "random", "random_erasing": 0.5}, {"random_resized_crop": 0.3},
        {"repeated_augmentation": 0}, {"test_size": 12},
    ],
)  # fmt: skip
def test_load_images_refuses_what_the_flags_refuse(options):
    with pytest.raises(UserError, match=f"^--{next(iter(options))}[: ]"):
        load_images("digits", batch_size=4, **options)
