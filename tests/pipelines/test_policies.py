"""RandAugment and its kin: pixels are those of Pillow's operations, draws the libraries'."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chi2_contingency, ks_2samp
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from pipelines.images.augment import ON_HOST, Transform
from pipelines.images.operations import NAMES, SHAPES, Resampling, operate
from pipelines.images.policies import TIMM_NAMES, TimmRandAugment, policy

BLACK = torch.zeros(3, dtype=torch.uint8)
MEAN, STD = (0.49, 0.48, 0.44), (0.24, 0.25, 0.26)
FILL = tuple(round(255 * each) for each in MEAN)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(count, size, seed=0):
    """Return noise, smooth pictures, one of two colours, and one of one colour: (count, ..., 3)."""
    images = torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=seeded(seed))
    images[::2] = functional.resize(images[::2, :, :3, :3], [size, size], antialias=True)
    images[0] = 77
    images[1] = 77
    images[1, :, size // 2] = 200
    return images.permute(0, 2, 3, 1).contiguous()


def by_torchvision(image, name, magnitude, filter_name="nearest"):
    """Return an image (H, W, 3) after an operation of torchvision on a Pillow image."""
    policy = v2.RandAugment(interpolation=InterpolationMode(filter_name))
    changed = policy._apply_image_or_video_transform(
        Image.fromarray(image.numpy()), name, magnitude, policy.interpolation, policy._fill
    )
    return np.asarray(changed)


def argument_of(name, magnitude):
    """Return the argument here of what torchvision calls by this magnitude."""
    if name in ("Brightness", "Color", "Contrast", "Sharpness"):
        return 1 + magnitude
    if name.startswith("Translate"):
        return -int(magnitude)
    return {"Posterize": int(magnitude), "Solarize": 255 * magnitude}.get(name, magnitude)


def assert_same_pixels(ours, theirs, name, argument):
    off = np.abs(ours.numpy().astype(int) - theirs)
    if name == "Rotate" and argument % 45 == 0:  # where pixels lie just between two values
        assert off.max() <= 1
        assert (off > 0).mean() < 0.1
    else:
        assert not off.any(), (name, argument, off.max())


SPACES = {
    "RandAugment": (v2.RandAugment, 31),
    "TrivialAugment": (v2.TrivialAugmentWide, 31),
    "AutoAugment": (v2.AutoAugment, 10),
}


def spaces_and_filters():
    """Yield both; TrivialAugment, the widest of the spaces, comes with every filter."""
    for space in SPACES:
        for name in ("nearest", "bilinear", "bicubic"):
            is_taken = space == "TrivialAugment" or name == "bilinear"
            yield pytest.param(space, name, marks=[] if is_taken else [pytest.mark.slow])


@pytest.mark.parametrize(("space", "filter_name"), spaces_and_filters())
def test_operations_equal_torchvisions_of_pillow_images(space, filter_name):
    """At every strength that the classes have, both ways."""
    cls, bins = SPACES[space]
    for size in (9, 32):
        images = pictures(6, size)
        for name, (strengths, signed) in cls._AUGMENTATION_SPACE.items():
            if name not in SHAPES and filter_name != "nearest":
                continue  # it moves no pixels
            values = strengths(bins, size, size)
            values = [0.0] if values is None else values.tolist()
            for value, sign in itertools.product(values[:: 1 if size == 9 else 7], (1, -1)):
                magnitude = float(value) * (sign if signed else 1)
                argument = argument_of(name, magnitude)
                ours = operate(
                    name, images, torch.full((6,), argument, dtype=torch.float64),
                    Resampling(filter_name, BLACK),
                )  # fmt: skip
                for image, result in zip(images, ours, strict=True):
                    theirs = by_torchvision(image, name, magnitude, filter_name)
                    assert_same_pixels(result, theirs, name, argument)


def test_each_image_of_a_batch_has_its_own_argument():
    images = pictures(8, 16)
    factors = torch.linspace(-0.9, 0.9, 8, dtype=torch.float64)
    for name in ("Rotate", "ShearY", "Contrast", "Sharpness", "Brightness"):
        arguments = factors * 30 if name == "Rotate" else factors + (name != "ShearY")
        ours = operate(name, images, arguments, Resampling("bilinear", BLACK))
        for image, argument, result in zip(images, arguments, ours, strict=True):
            alone = operate(name, image[None], argument[None], Resampling("bilinear", BLACK))
            assert torch.equal(alone[0], result)


# --- draws ---


class Recording:
    """Make one of torchvision's classes record what it would do."""

    def __init__(self, cls, **options):
        self.seen, seen = [], []
        self.seen = seen

        class Recorded(cls):
            def _apply_image_or_video_transform(self, image, name, magnitude, **_):
                seen.append((name, magnitude))
                return image

        self.transform = Recorded(**options)

    def draws(self, count, size):
        image = torch.zeros(3, size, size, dtype=torch.uint8)
        calls = []
        for _ in range(count):
            before = len(self.seen)
            self.transform(image)
            calls.append([(n, round(argument_of(n, m), 5)) for n, m in self.seen[before:]])
        return calls


def our_draws(text, count, size, seed=1):
    drawn = policy(text, size)(count, seeded(seed))
    return [
        [(NAMES[o], round(a, 5)) for o, a in zip(*each, strict=True)]
        for each in zip(drawn.operations.tolist(), drawn.arguments.tolist(), strict=True)
    ]


def alike(ours, theirs):
    """Return the p-value of two lists of categories having one distribution."""
    ours, theirs = Counter(ours), Counter(theirs)
    names = sorted({*ours, *theirs})
    rare = [name for name in names if ours[name] + theirs[name] < 12]
    table = [[each[name] for name in names if name not in rare] for each in (ours, theirs)]
    if rare:
        for row, each in zip(table, (ours, theirs), strict=True):
            row.append(sum(each[name] for name in rare))
    return chi2_contingency(table).pvalue


@pytest.mark.parametrize(
    ("text", "cls", "options"),
    [
        ("randaugment", v2.RandAugment, {}),
        ("randaugment-n3-m20", v2.RandAugment, {"num_ops": 3, "magnitude": 20}),
        ("trivialaugment", v2.TrivialAugmentWide, {}),
    ],
)
def test_draws_are_torchvisions(text, cls, options):
    torch.manual_seed(0)
    theirs = Recording(cls, **options).draws(4000, 32)
    ours = our_draws(text, 8000, 32)
    assert {len(each) for each in ours} == {len(each) for each in theirs}
    for layer in range(len(ours[0])):
        assert alike([x[layer] for x in ours], [x[layer] for x in theirs]) > 0.001
    assert {step for each in theirs for step in each} <= {step for each in ours for step in each}


@pytest.mark.parametrize("name", ["imagenet", "cifar10", "svhn"])
def test_policies_are_torchvisions(name):
    torch.manual_seed(0)
    recorded = Recording(v2.AutoAugment, policy=v2.AutoAugmentPolicy(name))
    theirs = [tuple(each) for each in recorded.draws(6000, 32)]
    ours = [
        tuple(step for step in each if step[0] != "Identity")
        for each in our_draws(f"autoaugment-{name}", 12_000, 32)
    ]
    assert alike(ours, theirs) > 0.001
    assert our_draws("autoaugment", 50, 32) == our_draws("autoaugment-imagenet", 50, 32)


def test_what_is_drawn_is_done_one_operation_after_another():
    transform = Transform(MEAN, STD, 16, "cpu", auto_augment="randaugment-n3-m12")
    images = pictures(60, 16, seed=4)
    choices = transform.draw(60, seeded(2))
    assert choices["operations"].shape == (60, 3)
    ours = transform(images, choices)
    changed = []
    for image, operations, arguments in zip(
        images, choices["operations"].tolist(), choices["arguments"].tolist(), strict=True
    ):
        for number, argument in zip(operations, arguments, strict=True):
            name = NAMES[number]
            magnitude = {
                "Brightness": argument - 1, "Color": argument - 1, "Contrast": argument - 1,
                "Sharpness": argument - 1, "TranslateX": -argument, "TranslateY": -argument,
                "Solarize": argument / 255,
            }.get(name, argument)  # fmt: skip
            image = torch.from_numpy(by_torchvision(image, name, magnitude, "bilinear").copy())
        changed.append(image)
    assert torch.equal(ours, Transform(MEAN, STD, 16, "cpu")(torch.stack(changed), {}))


def test_an_image_does_not_depend_on_those_beside_it():
    transform = Transform(MEAN, STD, 16, "cpu", auto_augment="rand-m9-mstd0.5-inc1")
    images = pictures(40, 16)
    choices = transform.draw(40, seeded())
    whole = transform(images, choices)
    assert ON_HOST in choices
    for part in (slice(0, 1), slice(7, 20), slice(20, 20)):
        chosen = {name: values[part] for name, values in choices.items()}
        assert torch.equal(transform(images[part], chosen), whole[part])


# --- timm's ---

timm_augment = pytest.importorskip("timm.data.auto_augment")

DEIT = "rand-m9-mstd0.5-inc1"
# What timm calls the operations here, without and with inc1.
PLAIN = {"TranslateX": "TranslateXRel", "TranslateY": "TranslateYRel"}
INCREASING = PLAIN | {
    name: f"{name}Increasing"
    for name in ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")
}


def timm_name(name, increasing):
    return (INCREASING if increasing else PLAIN).get(name, name)


@pytest.mark.parametrize("increasing", [0, 1])
def test_timms_operations(increasing):
    """Arguments are timm's, either way, and pixels with them are those of timm's functions."""
    ours, size = TimmRandAugment(24, inc=increasing), 24
    images = pictures(6, size)
    resampling = Resampling("bicubic", torch.tensor(FILL, dtype=torch.uint8))
    options = {"fillcolor": FILL, "resample": Image.Resampling.BICUBIC}
    for name, level in itertools.product(TIMM_NAMES, (0.0, 0.3, 4.5, 9.0, 9.7, 10.0)):
        theirs = timm_name(name, increasing)
        to_arguments = timm_augment.LEVEL_TO_ARG[theirs]
        tries = [to_arguments(level, {}) if to_arguments else () for _ in range(30)]
        levels = torch.full((2,), level, dtype=torch.float64)
        found = ours.argument(name, levels, torch.tensor([1.0, -1.0], dtype=torch.float64))
        if tries[0]:
            expected = {each[0] for each in tries}
            if name.startswith("Translate"):
                expected = {each * size for each in expected}
            if name == "Posterize":
                expected = {max(each, 1) for each in expected}  # of 0 bits nothing would be left
            assert set(found.tolist()) == expected, (name, level)
        for argument in set(found.tolist()):
            result = operate(
                name, images, torch.full((6,), argument, dtype=torch.float64), resampling
            )
            given = argument / size if name.startswith("Translate") else argument
            given = int(given) if name in ("Posterize", "SolarizeAdd") else given
            for image, each in zip(images, result, strict=True):
                changed = timm_augment.NAME_TO_OP[theirs](
                    Image.fromarray(image.numpy()), *([given] if tries[0] else []), **options
                )
                assert_same_pixels(each, np.asarray(changed), name, argument)


def timm_draws(text, count):
    """Return what timm's transform does to each of `count` images, as names and arguments."""
    seen = []

    def recorder(name):
        def record(image, *arguments, **_):
            seen.append((name, *arguments))
            return image

        return record

    transform = timm_augment.rand_augment_transform(text, {"img_mean": FILL})
    for operation in transform.ops:
        operation.aug_fn = recorder(operation.name)
    calls = []
    for _ in range(count):
        before = len(seen)
        transform(None)
        calls.append(seen[before:])
    return calls


@pytest.mark.parametrize(
    "text",
    [DEIT, "rand-m5-n3-p0.8", "rand-m9-mstd101-inc1", "rand-m15-mmax20-mstd2-inc1", "rand"],
)
def test_timms_draws(text):
    np.random.seed(0)
    theirs = timm_draws(text, 6000)
    increasing = "inc1" in text
    ours = [
        [(timm_name(name, increasing), argument) for name, argument in each if name != "Identity"]
        for each in our_draws(text, 12_000, 1)  # one pixel wide, pixels are shares of the width
    ]
    assert alike(map(len, ours), map(len, theirs)) > 0.001
    ours, theirs = ([step for each in steps for step in each] for steps in (ours, theirs))
    assert alike([step[0] for step in ours], [step[0] for step in theirs]) > 0.001
    for name in {step[0] for step in theirs if len(step) > 1}:
        mine, its = ([each[1] for each in steps if each[0] == name] for steps in (ours, theirs))
        if name.startswith("Posterize"):
            its = [max(each, 1) for each in its]
        assert ks_2samp(mine, np.round(its, 5)).pvalue > 0.0005, name


def test_timms_fill_is_the_datas_mean_and_torchvisions_is_black():
    turn = {"operations": torch.full((1, 1), NAMES.index("Rotate"), dtype=torch.uint8)}
    turn |= {ON_HOST: turn["operations"], "arguments": torch.full((1, 1), 45.0).double()}
    white = torch.full((1, 9, 9, 3), 255, dtype=torch.uint8)
    for text, fill in ((DEIT, FILL), ("randaugment", (0, 0, 0))):
        corner = Transform((0.0,) * 3, (1 / 255,) * 3, 9, "cpu", auto_augment=text)
        if text == DEIT:
            corner = Transform(MEAN, STD, 9, "cpu", auto_augment=text)
            found = corner(white, turn)[0, :, 0, 0] * torch.tensor(STD) + torch.tensor(MEAN)
            assert torch.allclose(255 * found, torch.tensor(fill).float(), atol=1e-3)
        else:
            assert corner(white, turn)[0, :, 0, 0].tolist() == list(fill)
