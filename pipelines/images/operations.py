"""Change uint8 images as Pillow does, in batches, each image by an argument of its own.

These are the operations of RandAugment, TrivialAugment and AutoAugment. In their published recipes
torchvision and timm apply Pillow's, one image at a time. The results here are Pillow's to the last
bit, on any device; but where a rotation by a multiple of 45 degrees has its pixels just between two
values, some are off by 1 of 255. torchvision's own operations on tensors have other results (54 of
200 images that were changed at random differed), and its rotations and shears copy their matrices
to the device and wait for it.

Images are (B, H, W, 3); arguments are float64 (B,), and float32 on MPS, which has no others.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pipelines.images.interfaces import Device


class Resampling(NamedTuple):
    """Say how images are resampled where they are turned, sheared or moved.

    Attributes:
        filter: "nearest", "bilinear" or "bicubic".
        fill: uint8 (3,), on the images' device: the colour where nothing was.
    """

    filter: str
    fill: Tensor


def exact_dtype(device: Device) -> torch.dtype:
    """Return the type in which Pillow calculates; MPS has none as long."""
    return torch.float32 if torch.device(device).type == "mps" else torch.float64


# --- colours ---


def luma(images: Tensor) -> Tensor:
    """Return the gray images int64 (B, H, W, 1) that Pillow converts to."""
    red, green, blue = images.long().split(1, dim=-1)
    return (19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16


def _blend(other: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """Go from `other` to the images by this factor, or beyond them."""
    other = other.float()
    factor = factor.float().view(-1, 1, 1, 1)
    return (other + factor * (images.float() - other)).clamp_(0, 255).byte()


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    return _blend(images.new_zeros(1), images, factor)


def color(images: Tensor, factor: Tensor) -> Tensor:
    return _blend(luma(images), images, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    mean = luma(images).sum((1, 2), keepdim=True).to(factor.dtype) / images[0, ..., 0].numel()
    return _blend((mean + 0.5).floor(), images, factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    height, width = images.shape[1:3]
    smooth = images.long()
    if min(height, width) > 2:
        inside = smooth[:, 1:-1, 1:-1]
        total = 4 * inside  # the middle counts five times
        for row in range(3):
            for column in range(3):
                total = total + smooth[:, row : row + height - 2, column : column + width - 2]
        inside.copy_((2 * total + 13) // 26)  # a thirteenth, rounded; the edge stays
    return _blend(smooth, images, factor)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    dropped = 8 - bits.long().clamp(1, 8)  # Pillow 13 refuses 0 bits
    mask = 256 - torch.bitwise_left_shift(torch.ones_like(dropped), dropped)
    return images & mask.byte().view(-1, 1, 1, 1)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    limit = threshold.ceil().short().view(-1, 1, 1, 1)
    return torch.where(images < limit, images, 255 - images)


def solarize_add(images: Tensor, added: Tensor) -> Tensor:
    brighter = (images.short() + added.short().view(-1, 1, 1, 1)).clamp_(max=255).byte()
    return torch.where(images < 128, brighter, images)


def invert(images: Tensor, _: Tensor) -> Tensor:
    return 255 - images


def autocontrast(images: Tensor, unused: Tensor) -> Tensor:
    low, high = (each.to(unused.dtype)[..., None] for each in _darkest_and_lightest(images))
    # A number divided by a tensor would be multiplied by its reciprocal, which rounds twice.
    scale = torch.full_like(low, 255) / (high - low).clamp(min=1)
    levels = torch.arange(256, device=images.device)
    table = (levels * scale + -low * scale).clamp(0, 255).long()
    return _through_table(images, torch.where(high > low, table, levels))


def equalize(images: Tensor, _: Tensor) -> Tensor:
    counts = images.new_zeros(len(images) * 3 * 256, dtype=torch.int64)
    places = _places_in_table(images)
    counts = counts.scatter_add_(0, places, counts.new_ones(1).expand_as(places))
    counts = counts.view(-1, 3, 256)
    lightest = _darkest_and_lightest(images)[1].long()[..., None]
    step = (images[0, ..., 0].numel() - counts.gather(2, lightest)) // 255
    below = counts.cumsum(2) - counts
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    levels = torch.arange(256, device=images.device)
    return _through_table(images, torch.where(step > 0, table, levels))


def _darkest_and_lightest(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest value of each channel, (B, 3)."""
    pixels = images.flatten(1, 2)
    return pixels.amin(1), pixels.amax(1)


def _places_in_table(images: Tensor) -> Tensor:
    """Return where each byte's entry stands in tables (B, 3, 256), laid flat."""
    tables = torch.arange(len(images) * 3, device=images.device).view(-1, 1, 1, 3)
    return (256 * tables + images).flatten()


def _through_table(images: Tensor, table: Tensor) -> Tensor:
    """Replace each byte by its entry in `table` (B, 3, 256)."""
    return table.byte().flatten().index_select(0, _places_in_table(images)).view(images.shape)


# --- shapes ---


def shear_x(images: Tensor, factor: Tensor, resampling: Resampling) -> Tensor:
    return affine(images, _matrix(factor, one=factor), resampling)


def shear_y(images: Tensor, factor: Tensor, resampling: Resampling) -> Tensor:
    return affine(images, _matrix(factor, three=factor), resampling)


def translate_x(images: Tensor, pixels: Tensor, resampling: Resampling) -> Tensor:
    return affine(images, _matrix(pixels, two=pixels), resampling)


def translate_y(images: Tensor, pixels: Tensor, resampling: Resampling) -> Tensor:
    return affine(images, _matrix(pixels, five=pixels), resampling)


def rotate(images: Tensor, degrees: Tensor, resampling: Resampling) -> Tensor:
    """Rotate counter-clockwise about the middle."""
    angle = -torch.deg2rad(degrees.remainder(360))
    cos, sin = (torch.round(each, decimals=15) for each in (angle.cos(), angle.sin()))
    y, x = (side / 2 for side in images.shape[1:3])
    rows = (cos, sin, cos * -x + sin * -y + x, -sin, cos, -sin * -x + cos * -y + y)
    return affine(images, torch.stack(rows, 1), resampling)


def _matrix(
    like: Tensor,
    one: Tensor | None = None,
    two: Tensor | None = None,
    three: Tensor | None = None,
    five: Tensor | None = None,
) -> Tensor:
    """Return matrices (B, 6) that change nothing but in these places."""
    zeros, ones = torch.zeros_like(like), torch.ones_like(like)
    given = (ones, one, two, three, ones, five)
    return torch.stack([zeros if each is None else each for each in given], 1)


def affine(images: Tensor, matrices: Tensor, resampling: Resampling) -> Tensor:
    """Take the pixel at (x, y) from (a x + b y + c, d x + e y + f) of the image.

    Args:
        images: uint8 (B, H, W, 3), contiguous.
        matrices: (B, 6): a to f.
        resampling: the filter, and the colour where nothing was.
    """
    height, width = images.shape[1:3]
    a, b, c, d, e, f = (each.view(-1, 1, 1) for each in matrices.unbind(1))
    column = torch.arange(width, device=images.device)
    row = torch.arange(height, device=images.device)[:, None]
    if resampling.filter == "nearest":
        # In numbers of 16 bits behind the point, as Pillow does where nothing is interpolated.
        first = (c + a * 0.5 + b * 0.5, f + d * 0.5 + e * 0.5)
        a, b, d, e, x0, y0 = (
            torch.floor(each * 2**16 + 0.5).long() for each in (a, b, d, e, *first)
        )
        x, y = (x0 + a * column + b * row) >> 16, (y0 + d * column + e * row) >> 16
        pixels = _pixels(images, y.clamp(0, height - 1), x.clamp(0, width - 1))
    else:
        across, down = column + 0.5, row + 0.5
        x, y = (each.to(matrices.dtype) for each in (across, down))
        x, y = a * x + b * y + c, d * x + e * y + f  # (B, H, W)
        pixels = _interpolated(images, x - 0.5, y - 0.5, resampling.filter)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return torch.where(inside[..., None], pixels, resampling.fill)


def _pixels(images: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Return each image's pixels (B, H, W, 3) at rows and columns (B, H, W)."""
    batch, height, width, channels = images.shape
    image = torch.arange(batch, device=images.device).view(-1, 1, 1)
    place = (image * height + row) * width + column
    return images.reshape(-1, channels).index_select(0, place.view(-1)).view(images.shape)


def _interpolated(images: Tensor, x: Tensor, y: Tensor, name: str) -> Tensor:
    """Return the pixels at (x, y), both (B, H, W), between those around them."""
    height, width = images.shape[1:3]
    taps, between = {
        "bilinear": (range(2), _line),
        "bicubic": (range(-1, 3), _cubic),
    }[name]
    left, top = x.floor(), y.floor()
    dx, dy = (x - left)[..., None], (y - top)[..., None]
    columns = [(left.long() + tap).clamp_(0, width - 1) for tap in taps]
    rows = [(top.long() + tap).clamp_(0, height - 1) for tap in taps]
    lines = [
        between([_pixels(images, row, column).to(x.dtype) for column in columns], dx)
        for row in rows
    ]
    return between(lines, dy).clamp_(0, 255).byte()


def _line(values: Sequence[Tensor], share: Tensor) -> Tensor:
    first, second = values
    return first + (second - first) * share


def _cubic(values: Sequence[Tensor], share: Tensor) -> Tensor:
    """Return Pillow's cubic through the middle two of four values."""
    v1, v2, v3, v4 = values
    slope = v3 - v1
    second = 2 * (v1 - v2) + v3 - v4
    third = -v1 + v2 - v3 + v4
    return v2 + share * (slope + share * (second + share * third))


# --- by name ---

COLOURS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Brightness": brightness,
    "Color": color,
    "Contrast": contrast,
    "Sharpness": sharpness,
    "Posterize": posterize,
    "Solarize": solarize,
    "SolarizeAdd": solarize_add,
    "AutoContrast": autocontrast,
    "Equalize": equalize,
    "Invert": invert,
}
SHAPES: dict[str, Callable[[Tensor, Tensor, Resampling], Tensor]] = {
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateX": translate_x,
    "TranslateY": translate_y,
    "Rotate": rotate,
}
IDENTITY = "Identity"
NAMES = (IDENTITY, *COLOURS, *SHAPES)  # an operation's number is its place here


def operate(name: str, images: Tensor, argument: Tensor, resampling: Resampling) -> Tensor:
    """Return the images (B, H, W, 3) after the operation of that name.

    Args:
        name: one of NAMES.
        images: uint8 (B, H, W, 3), contiguous.
        argument: (B,): factor, bits, threshold, pixels or degrees, where the operation has one.
        resampling: of operations that move pixels.
    """
    if name in SHAPES:
        return SHAPES[name](images, argument, resampling)
    return COLOURS[name](images, argument) if name in COLOURS else images


def operate_on_each(
    images: Tensor,
    operations: Tensor,
    arguments: Tensor,
    counts: Sequence[int],
    resampling: Resampling,
) -> Tensor:
    """Return the images after an operation each.

    Args:
        images: uint8 (B, H, W, 3), contiguous.
        operations: int64 (B,): numbers of NAMES.
        arguments: (B,).
        counts: how many of `operations` are each of NAMES. With it nothing is asked of the device.
        resampling: of operations that move pixels.
    """
    by_operation = operations.argsort(stable=True).split(list(counts))
    result = images.clone()
    for name, chosen in zip(NAMES, by_operation, strict=True):
        if len(chosen) and name != IDENTITY:
            changed = operate(name, images[chosen], arguments[chosen], resampling)
            result.index_copy_(0, chosen, changed)
    return result
