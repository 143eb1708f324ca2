"""Draw random-resized crops and cut them out of batches, as torchvision does with Pillow images."""

import math

import torch
from torch import Tensor

from pipelines.images.operations import exact_dtype

ATTEMPTS = 10  # then the whole image is taken
RATIOS = (3 / 4, 4 / 3)  # of width to height; torchvision's and timm's
PRECISION = 2**22  # Pillow's weights are whole numbers of this part
SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}  # how far a filter reaches, in pixels of the result


def draw_crops(count: int, size: int, min_scale: float, generator: torch.Generator) -> Tensor:
    """Draw crops of square images, with the distribution of torchvision's RandomResizedCrop.

    Args:
        count: how many.
        size: the images' side in pixels.
        min_scale: the least share of the area.
        generator: on the CPU.

    Returns:
        int64 (count, 4): top, left, height and width.
    """
    shape = (ATTEMPTS, count)
    area = size * size * _uniform(shape, min_scale, 1, generator)
    ratio = _uniform(shape, math.log(RATIOS[0]), math.log(RATIOS[1]), generator).exp()
    width, height = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (width > 0) & (width <= size) & (height > 0) & (height <= size)
    return _placed(first_that_fits(fits, height, width, size), size, generator)


def first_that_fits(fits: Tensor, height: Tensor, width: Tensor, otherwise: int) -> Tensor:
    """Return heights and widths (2, count) of the first of several attempts that fits.

    Args:
        fits, height, width: (attempts, count).
        otherwise: height and width where none does.
    """
    first = fits.byte().argmax(0, keepdim=True)  # of equal ones it is the first
    sides = torch.stack([height.gather(0, first)[0], width.gather(0, first)[0]])
    return torch.where(fits.any(0), sides, otherwise).long()


def _placed(sides: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Place rectangles of these heights and widths (2, count) anywhere: (count, 4)."""
    places = torch.rand(sides.shape, generator=generator, dtype=torch.float64)
    corner = (places * (size - sides + 1)).long()
    return torch.cat([corner, sides]).T.contiguous()


def draw_rectangles(
    count: int,
    size: int,
    areas: tuple[float, float],
    ratios: tuple[float, float],
    generator: torch.Generator,
) -> Tensor:
    """Draw rectangles that are smaller than square images, as random erasing does.

    Args:
        count: how many.
        size: the images' side in pixels.
        areas: the least and the greatest share of the area.
        ratios: the least and the greatest ratio of height to width.
        generator: on the CPU.

    Returns:
        int64 (count, 4): top, left, height and width, the last two 0 where ten attempts failed.
    """
    shape = (ATTEMPTS, count)
    area = size * size * _uniform(shape, *areas, generator)
    ratio = _uniform(shape, math.log(ratios[0]), math.log(ratios[1]), generator).exp()
    height, width = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (height < size) & (width < size)
    return _placed(first_that_fits(fits, height, width, 0), size, generator)


def _uniform(
    shape: tuple[int, ...], least: float, greatest: float, generator: torch.Generator
) -> Tensor:
    drawn = torch.rand(shape, generator=generator, dtype=torch.float64)
    return least + (greatest - least) * drawn


def resized_crop(images: Tensor, crops: Tensor, name: str) -> Tensor:
    """Cut a crop out of each image and scale it to the image's size.

    The result is that of torchvision's resized_crop of a Pillow image, which is antialiased.

    Args:
        images: uint8 (B, size, size, 3).
        crops: int64 (B, 4), as `draw_crops` returns them, on the images' device.
        name: the filter, "bilinear" or "bicubic".

    Returns:
        uint8 (B, size, size, 3).
    """
    batch, size, _, channels = images.shape
    top, left, height, width = crops.unbind(1)
    dtype = exact_dtype(images.device)
    values = images.permute(0, 2, 1, 3).to(dtype)  # (B, W, H, 3): the columns first
    for start, length in ((left, width), (top, height)):
        weights = _weights(start, length, size, name, dtype)  # (B, new, old)
        scaled = torch.bmm(weights, values.reshape(batch, size, size * channels))
        values = torch.floor((scaled + PRECISION / 2) / PRECISION).clamp_(0, 255)
        values = values.view(batch, size, size, channels).transpose(1, 2)
    return values.byte().transpose(1, 2).contiguous()


def _weights(start: Tensor, length: Tensor, size: int, name: str, dtype: torch.dtype) -> Tensor:
    """Return by how much each old pixel counts in each new one, times PRECISION: (B, new, old)."""
    start, length = (each.to(dtype).view(-1, 1, 1) for each in (start, length))
    steps = torch.arange(size, device=start.device, dtype=dtype)
    old = steps - start  # (B, 1, old): places in the crop
    scale = length / torch.full_like(length, size)
    middle = (steps[:, None] + 0.5) * scale  # (B, new, 1)
    stretch = scale.clamp(min=1)  # where the result is smaller, the filter is as much wider
    reach = SUPPORT[name] * stretch
    first = (middle - reach + 0.5).trunc().clamp(min=0)
    last = torch.minimum((middle + reach + 0.5).trunc(), length)
    distance = ((old - middle + 0.5) * (torch.ones_like(stretch) / stretch)).abs()
    weights = _filter(distance, name) * ((old >= first) & (old < last))
    weights = weights / weights.sum(2, keepdim=True) * PRECISION
    return (weights + weights.sign() * 0.5).trunc()


def _filter(distance: Tensor, name: str) -> Tensor:
    if name == "bilinear":
        return (1 - distance).clamp(min=0)
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * -0.5
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0))
