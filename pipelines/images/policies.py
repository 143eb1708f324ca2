"""Draw operations for images as RandAugment, TrivialAugment and AutoAugment do.

torchvision's tables of operations and strengths are read off its classes. Its draws are made from
the global generator, one for a whole batch; here they are an image's own, from a given generator.
timm's RandAugment, which DeiT and its followers use, has other operations and strengths.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torchvision.transforms import v2

from cli.augmentation import AUTO_AUGMENT_POLICIES, auto_augment_settings
from pipelines.images.operations import IDENTITY, NAMES

BINS = 31  # strengths of RandAugment and TrivialAugment, by torchvision's default
POLICY_BINS = 10  # strengths of AutoAugment's policies


class Drawn(NamedTuple):
    """Hold what is done to images, one operation after another.

    Attributes:
        operations: int64 (count, layers), numbers of operations.NAMES.
        arguments: float64 (count, layers).
    """

    operations: Tensor
    arguments: Tensor


class Policy(Protocol):
    """Describe what draws operations for `count` images."""

    def __call__(self, count: int, generator: torch.Generator) -> Drawn: ...


def policy(text: str, size: int) -> Policy:
    """Return the policy that --auto_augment names, for images of this side in pixels."""
    name, settings = auto_augment_settings(text)
    if name == "trivialaugment":
        return TrivialAugment(size)
    if name == "randaugment":
        return RandAugment(size, int(settings.get("n", 2)), int(settings.get("m", 9)))
    if name == "rand":
        return TimmRandAugment(size, **settings)
    return AutoAugment(size, settings.get("policy", AUTO_AUGMENT_POLICIES[0]))


class Space:
    """Hold the operations of one of torchvision's classes, with their arguments by strength.

    Args:
        cls: the class.
        bins: how many strengths there are.
        size: the images' side in pixels.
    """

    def __init__(self, cls: type, bins: int, size: int):
        self.names: list[str] = [*cls._AUGMENTATION_SPACE]  # type: ignore[attr-defined]
        self.numbers = torch.tensor([NAMES.index(name) for name in self.names])
        made = [cls._AUGMENTATION_SPACE[name] for name in self.names]  # type: ignore[attr-defined]
        strengths = [strength(bins, size, size) for strength, _ in made]
        signed = torch.tensor([is_signed for _, is_signed in made])
        # (operations, bins, 2): of each operation and strength, as it is and negated
        self.arguments = torch.stack(
            [
                torch.stack([_argument(name, each), _argument(name, -each if sign else each)], 1)
                for name, each, sign in zip(
                    self.names,
                    [torch.zeros(bins) if each is None else each for each in strengths],
                    signed.tolist(),
                    strict=True,
                )
            ]
        )

    def drawn(self, chosen: Tensor, strength: Tensor, generator: torch.Generator) -> Drawn:
        """Return operations and arguments for numbers of `names` and strengths, of any shape."""
        negated = torch.randint(2, chosen.shape, generator=generator)
        return Drawn(self.numbers[chosen], self.arguments[chosen, strength, negated])


def _argument(name: str, strength: Tensor) -> Tensor:
    """Return what torchvision makes of a strength, as the operations here take it."""
    strength = strength.double()
    if name in ("Brightness", "Color", "Contrast", "Sharpness"):
        return 1 + strength
    if name in ("TranslateX", "TranslateY"):
        return -strength.trunc()  # in whole pixels, and to the right where it is positive
    if name == "Solarize":
        return 255 * strength
    return strength


class RandAugment:
    """Draw as torchvision's RandAugment: `layers` operations, all of one strength."""

    def __init__(self, size: int, layers: int, strength: int):
        self.space, self.layers, self.strength = Space(v2.RandAugment, BINS, size), layers, strength

    def __call__(self, count: int, generator: torch.Generator) -> Drawn:
        shape = (count, self.layers)
        chosen = torch.randint(len(self.space.names), shape, generator=generator)
        return self.space.drawn(chosen, torch.full(shape, self.strength), generator)


class TrivialAugment:
    """Draw as torchvision's TrivialAugmentWide: one operation, of any strength."""

    def __init__(self, size: int):
        self.space = Space(v2.TrivialAugmentWide, BINS, size)

    def __call__(self, count: int, generator: torch.Generator) -> Drawn:
        chosen = torch.randint(len(self.space.names), (count, 1), generator=generator)
        strength = torch.randint(BINS, (count, 1), generator=generator)
        return self.space.drawn(chosen, strength, generator)


class AutoAugment:
    """Draw as torchvision's AutoAugment: one of 25 pairs of operations, each left out at times."""

    def __init__(self, size: int, name: str):
        self.space = space = Space(v2.AutoAugment, POLICY_BINS, size)
        pairs = v2.AutoAugment(v2.AutoAugmentPolicy(name))._policies
        steps = [step for pair in pairs for step in pair]
        self.chosen = torch.tensor([space.names.index(step[0]) for step in steps]).view(-1, 2)
        self.chances = torch.tensor([step[1] for step in steps]).view(-1, 2)
        self.strengths = torch.tensor([step[2] or 0 for step in steps]).view(-1, 2)

    def __call__(self, count: int, generator: torch.Generator) -> Drawn:
        pair = torch.randint(len(self.chosen), (count,), generator=generator)
        is_used = torch.rand(count, 2, generator=generator) <= self.chances[pair]
        drawn = self.space.drawn(self.chosen[pair], self.strengths[pair], generator)
        return _left_out(drawn, ~is_used)


def _left_out(drawn: Drawn, left_out: Tensor) -> Drawn:
    return drawn._replace(operations=drawn.operations.masked_fill(left_out, NAMES.index(IDENTITY)))


# --- timm's ---

TIMM_NAMES = (
    "AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd",
    "Color", "Contrast", "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY",
)  # fmt: skip
TIMM_LARGEST = 10  # magnitude, unless mmax says otherwise; magnitudes are in tenths of the range


class TimmRandAugment:
    """Draw as timm's RandAugment: `n` operations, each used with a chance of `p`.

    Args:
        size: the images' side in pixels.
        m: magnitude.
        n: operations.
        p: the chance of each.
        mstd: standard deviation of an image's magnitude about `m`; above 100 it is uniform in 0..m.
        mmax: the largest magnitude.
        inc: operations grow stronger with the magnitude, where some otherwise grow weaker.
    """

    def __init__(
        self,
        size: int,
        m: float = TIMM_LARGEST,
        n: float = 2,
        p: float = 0.5,
        mstd: float = 0.0,
        mmax: float = 0.0,
        inc: float = 0,
    ):
        self.size, self.magnitude, self.layers, self.chance = size, m, int(n), p
        self.deviation, self.largest, self.increases = mstd, mmax or TIMM_LARGEST, bool(inc)
        self.numbers = torch.tensor([NAMES.index(name) for name in TIMM_NAMES])

    def __call__(self, count: int, generator: torch.Generator) -> Drawn:
        shape = (count, self.layers)
        chosen = torch.randint(len(TIMM_NAMES), shape, generator=generator)
        is_used = torch.rand(shape, generator=generator) <= self.chance
        level = self._levels(shape, generator)
        sign = 1.0 - 2 * torch.randint(2, shape, generator=generator)
        arguments = torch.zeros(shape, dtype=torch.float64)
        for number, name in enumerate(TIMM_NAMES):
            here = chosen == number
            arguments[here] = self.argument(name, level[here], sign[here])
        return _left_out(Drawn(self.numbers[chosen], arguments), ~is_used)

    def _levels(self, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        if self.deviation > 100:
            level = self.magnitude * torch.rand(shape, generator=generator, dtype=torch.float64)
        else:
            level = torch.full(shape, self.magnitude, dtype=torch.float64)
            if self.deviation:
                normal = torch.randn(shape, generator=generator, dtype=torch.float64)
                level += self.deviation * normal
        return level.clamp(0, self.largest)

    def argument(self, name: str, level: Tensor, sign: Tensor) -> Tensor:
        """Return what an operation takes for magnitudes and signs (1 or -1), float64."""
        share = level / TIMM_LARGEST
        if name == "Rotate":
            return share * 30 * sign
        if name in ("ShearX", "ShearY"):
            return share * 0.3 * sign
        if name in ("TranslateX", "TranslateY"):
            return share * 0.45 * sign * self.size
        if name == "Posterize":
            bits = (share * 4).trunc()
            return (4 - bits if self.increases else bits).clamp(1, 8)  # 0 bits fail in Pillow 13
        if name == "Solarize":
            limit = (share * 256).trunc().clamp(max=256)
            return 256 - limit if self.increases else limit
        if name == "SolarizeAdd":
            return (share * 110).trunc().clamp(max=128)
        if name in ("Color", "Contrast", "Brightness", "Sharpness"):
            return (1 + share * 0.9 * sign).clamp(min=0.1) if self.increases else share * 1.8 + 0.1
        return torch.zeros_like(level)  # AutoContrast, Equalize, Invert
