"""Turn raw bytes into network input: crop, flip, rotate, jitter, normalise, erase, in batches.

Nothing here looks at a value on the device, so nothing waits for a GPU: every shape is known
beforehand, and every choice per image is an index or a factor in a tensor. On a CPU an image's
result does not depend, to the last bit, on which others share its batch.
"""

from collections.abc import Sequence

import torch

from pipelines.images.crops import draw_crops, draw_rectangles, resized_crop
from pipelines.images.interfaces import Choices, Device
from pipelines.images.mixing import Mixing
from pipelines.images.operations import NAMES, Resampling, exact_dtype, operate_on_each
from pipelines.images.policies import TimmRandAugment, policy


def crop_flip(
    images: torch.Tensor, dy: torch.Tensor, dx: torch.Tensor, flip: torch.Tensor, padding: int
) -> torch.Tensor:
    """Pad with black, cut a window of the old size at (dy, dx), then mirror it where `flip`.

    The result is that of torchvision's pad, crop and hflip, one image at a time.

    Args:
        images: uint8 (B, H, W, C), contiguous.
        dy: int64 (B,), the window's first row, in 0..2*padding.
        dx: int64 (B,), its first column, in 0..2*padding.
        flip: bool (B,).
        padding: black pixels added on each side.

    Returns:
        uint8 (B, H, W, C).
    """
    batch, height, width, channels = images.shape
    if not batch:  # which has no runs
        return images
    padded = images.new_zeros(
        2, batch, height + 2 * padding, width + 2 * padding, channels
    )  # as it is, and mirrored
    inside = padded[:, :, padding : padding + height, padding : padding + width]
    inside[0] = images
    inside[1] = images.flip(2)
    # Mirroring a window at dx is the window at 2*padding - dx of the mirrored image, so that the
    # whole operation is one copy of B*H runs of W pixels. On 2 cores with 32x32 images this gives
    # 400-600 thousand images/s with normalisation; torch.where on both results 310, a gather of
    # pixels packed into int32 215. A padded, mirrored copy of the whole set would give 800, for
    # three times the memory.
    dx = torch.where(flip, 2 * padding - dx, dx)
    image = flip * batch + torch.arange(batch, device=images.device)
    row = (image * padded.shape[2] + dy)[:, None] + torch.arange(height, device=images.device)
    start = row * padded.shape[3] + dx[:, None]  # (B, H): the first pixel of each run
    runs = padded.view(-1).unfold(0, width * channels, channels)  # a view: the run at each pixel
    return runs.index_select(0, start.view(-1)).view(images.shape)


def rotations(degrees: torch.Tensor, size: int) -> torch.Tensor:
    """Return how to rotate images of this side about their centres, counter-clockwise.

    Args:
        degrees: float64 (B,).
        size: pixels.

    Returns:
        int64 (B, 4), for `rotate`: cosine, sine, and from where the result's first pixel comes, x
        and y, in Pillow's fixed-point numbers of 16 bits behind the point.
    """
    angle = -torch.deg2rad(degrees)
    cos, sin = angle.cos(), angle.sin()
    centre, first = size / 2, 0.5 - size / 2  # the first pixel's middle, from the centre
    x, y = centre + (cos + sin) * first, centre + (cos - sin) * first
    return torch.floor(torch.stack([cos, sin, x, y], 1) * 2**16 + 0.5).long()


def rotate(images: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Rotate each image, with black where nothing was.

    The result is that of torchvision's rotate of a Pillow image, which takes the nearest pixel.

    Args:
        images: uint8 (B, size, size, C), contiguous.
        turns: int64 (B, 4), from `rotations`.

    Returns:
        uint8 (B, size, size, C).
    """
    batch, size, _, channels = images.shape
    cos, sin, first_x, first_y = (part.view(-1, 1, 1) for part in turns.unbind(1))
    column = torch.arange(size, device=images.device)  # (size,)
    row = column[:, None]  # (size, 1)
    x = (first_x + cos * column + sin * row) >> 16  # (B, size, size)
    y = (first_y - sin * column + cos * row) >> 16
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    image = torch.arange(batch, device=images.device).view(-1, 1, 1)
    source = (image * size + y.clamp(0, size - 1)) * size + x.clamp(0, size - 1)
    pixels = images.view(-1, channels).index_select(0, source.view(-1)).view(images.shape)
    return pixels * inside[..., None]


def color_jitter(
    images: torch.Tensor,
    brightness: torch.Tensor,
    contrast: torch.Tensor,
    saturation: torch.Tensor,
    hue: torch.Tensor,
) -> torch.Tensor:
    """Change the four in this order, with one factor per image, as torchvision's ColorJitter does.

    The order is fixed (torchvision draws one per image), so that a batch is one sequence of
    operations for every draw.

    Args:
        images: float (B, 3, H, W) in 0..1.
        brightness: float (B,); 1 changes nothing.
        contrast: likewise.
        saturation: likewise.
        hue: float (B,), in turns of the colour wheel (-0.5..0.5); 0 changes nothing.

    Returns:
        float (B, 3, H, W) in 0..1.
    """
    brightness, contrast, saturation, hue = (
        factor.view(-1, 1, 1, 1) for factor in (brightness, contrast, saturation, hue)
    )
    images = (images * brightness).clamp(0, 1)
    # Rows first: of one image at once, torch sums in another order than of several.
    mean = _gray(images).mean(3, keepdim=True).mean(2, keepdim=True)  # (B, 1, 1, 1)
    images = _blend(images, mean, contrast)
    images = _blend(images, _gray(images), saturation)
    return _turn_hue(images, hue)


def _gray(images: torch.Tensor) -> torch.Tensor:
    """Return the luma (B, 1, H, W) of images (B, 3, H, W), by ITU-R 601 as torchvision has it."""
    red, green, blue = images.split(1, dim=1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def _blend(images: torch.Tensor, other: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
    return (ratio * images + (1 - ratio) * other).clamp(0, 1)


def _turn_hue(images: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Turn the hue of images (B, 3, H, W) by `turns` (B, 1, 1, 1) of the colour wheel."""
    red, green, blue = images.split(1, dim=1)
    value = images.amax(1, keepdim=True)
    chroma = value - images.amin(1, keepdim=True)
    divisor = chroma.clamp(min=1e-20)  # a gray pixel has no hue and needs none
    sixths = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    # HSV to RGB without its six cases: a channel falls below `value` by up to `chroma`, and how
    # far is a trapezium over the hue, shifted by two sixths from channel to channel.
    shifts = torch.arange(5, 0, -2, device=images.device).view(1, 3, 1, 1)  # 5, 3, 1
    place = (shifts + sixths + 6 * turns).remainder(6)
    return value - chroma * torch.minimum(place, 4 - place).clamp(0, 1)


def erase(images: torch.Tensor, rectangles: torch.Tensor, fill: torch.Tensor) -> torch.Tensor:
    """Replace a rectangle of each image by what `fill` has there.

    Args:
        images: float (B, H, W, 3).
        rectangles: int64 (B, 4): top, left, height and width.
        fill: float (B, H, W, 3), or of a shape that is broadcast to it.
    """
    top, left, height, width = (each.view(-1, 1) for each in rectangles.unbind(1))
    row = torch.arange(images.shape[1], device=images.device)
    column = torch.arange(images.shape[2], device=images.device)
    rows = (row >= top) & (row < top + height)  # (B, H)
    columns = (column >= left) & (column < left + width)  # (B, W)
    return torch.where((rows[:, :, None] & columns[:, None])[..., None], fill, images)


FACTORS = ("brightness", "contrast", "saturation", "hue")
ON_HOST = "operations_on_host"  # a choice that is needed where batches are put together

# Shares of the area and ratios of the sides of erased rectangles: torchvision's and timm's.
ERASED = {"const": ((0.02, 0.33), (0.3, 3.3)), "pixel": ((0.02, 1 / 3), (0.3, 1 / 0.3))}


class Transform:
    """Turn raw bytes into network input, augmented as asked for.

    A call maps pixels uint8 (B, H, W, 3), H = W = image_size, to float32 (B, 3, H, W), normalised
    and in channels_last memory format. B may be 0. `draw` and `draw_noise` choose what is random
    in it, so that the caller decides on the generator.

    Args:
        mean: of each channel, of pixels scaled to 0..1.
        std: their standard deviation.
        image_size: the images' side in pixels.
        device: where the pixels are, and the result.
        crop: cut a window out of the image padded by an eighth of its side.
        flip: mirror each image with a chance of one half; only with `crop`.
        rotate: turn each image by up to so many degrees, either way.
        jitter: change brightness, contrast, saturation and hue.
        noise: the standard deviation of Gaussian noise, added after normalising.
        min_scale: with `crop`, cut out random-resized crops of at least this share of the area.
        interpolation: "bilinear" or "bicubic", of such crops and of `auto_augment`, which may have
            "nearest" too.
        auto_augment: what --auto_augment says; after `rotate`.
        erasing: the chance that a rectangle is erased, last of all.
        erasing_mode: "const", by zeros, or "pixel", by noise.
        repeats: copies of an image that an epoch has one after another.
        mixing: how the batches of a training are mixed.

    The last two say what a loader does with the order of images, and with their batches.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        image_size: int,
        device: Device,
        *,
        crop: bool = False,
        flip: bool = False,
        rotate: float = 0.0,
        jitter: bool = False,
        noise: float = 0.0,
        min_scale: float | None = None,
        interpolation: str = "bilinear",
        auto_augment: str | None = None,
        erasing: float = 0.0,
        erasing_mode: str = "const",
        repeats: int = 1,
        mixing: Mixing | None = None,
    ):
        # (byte/255 - mean)/std as one multiplication and one addition, with a factor for every
        # byte of an image: long rows are vectorised, a broadcast over 3 channels is not (9 times
        # slower); torch.addcmul (20 times) and a table of the 256 values (70 times) were slower.
        means = torch.tensor(mean, dtype=torch.float64)
        deviations = torch.tensor(std, dtype=torch.float64)
        pixels = image_size * image_size
        self.scale = (1 / (255 * deviations)).float().repeat(pixels).to(device)  # (H * W * 3,)
        self.shift = (-means / deviations).float().repeat(pixels).to(device)
        self.image_size, self.padding = image_size, round(image_size / 8)
        self.crop, self.flip, self.rotate = crop, flip, rotate
        self.jitter, self.noise = jitter, noise
        self.min_scale, self.interpolation = min_scale, interpolation
        self.policy = policy(auto_augment, image_size) if auto_augment else None
        # timm fills with the mean of the data, torchvision with black.
        of_timm = isinstance(self.policy, TimmRandAugment)
        fill = (255 * means).round().clamp(max=255) if of_timm else torch.zeros(3)
        self.resampling = Resampling(interpolation, fill.byte().to(device))
        self.exact = exact_dtype(device)
        self.erasing, self.erasing_mode = erasing, erasing_mode
        self.repeats, self.mixing = repeats, mixing

    @property
    def erases_with_noise(self) -> bool:
        """Return whether a call wants a choice "speckles" from `draw_normal`."""
        return self.erasing > 0 and self.erasing_mode == "pixel"

    def draw(self, count: int, generator: torch.Generator) -> Choices:
        """Draw what is chosen for each of `count` images: CPU tensors (count,) by name.

        Those of "crop" are dy, dx and flip (see `crop_flip`), or with `min_scale` crop (count, 4)
        (see `draw_crops`) and flip; that of "rotate" is rotation (count, 4) (see `rotations`),
        those of "jitter" are FACTORS. Those of "auto_augment" are operations and arguments
        (count, layers), the first also as ON_HOST; that of "erasing" is erased (count, 4).
        """
        choices: Choices = {}
        if self.crop and self.min_scale:
            choices["crop"] = draw_crops(count, self.image_size, self.min_scale, generator)
            choices["flip"] = torch.zeros(count, dtype=torch.bool)
            if self.flip:
                choices["flip"] = torch.randint(2, (count,), generator=generator).bool()
        elif self.crop:
            dy, dx = torch.randint(2 * self.padding + 1, (2, count), generator=generator)
            flip = torch.zeros(count, dtype=torch.bool)
            if self.flip:
                flip = torch.randint(2, (count,), generator=generator).bool()
            choices |= {"dy": dy, "dx": dx, "flip": flip}
        if self.rotate:
            turns = 2 * torch.rand(count, generator=generator, dtype=torch.float64) - 1
            choices["rotation"] = rotations(self.rotate * turns, self.image_size)
        if self.jitter:
            spread = 2 * torch.rand(4, count, generator=generator) - 1
            choices |= zip(FACTORS, (*(1 + 0.2 * spread[:3]), 0.1 * spread[3]), strict=True)
        if self.policy:
            drawn = self.policy(count, generator)
            choices["operations"] = choices[ON_HOST] = drawn.operations.byte()
            choices["arguments"] = drawn.arguments.to(self.exact)
        if self.erasing:
            is_erased = torch.rand(count, generator=generator) < self.erasing
            drawn_areas = draw_rectangles(
                count, self.image_size, *ERASED[self.erasing_mode], generator
            )
            choices["erased"] = drawn_areas * is_erased[:, None]
        return choices

    def draw_noise(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Draw noise for `count` images: float32 (count, H * W * 3), on the generator's device."""
        return self.draw_normal(count, generator).mul_(self.noise)

    def draw_normal(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Draw standard normal numbers, as many and where `draw_noise` does."""
        return torch.randn(count, len(self.scale), generator=generator, device=generator.device)

    def __call__(
        self, pixels: torch.Tensor, choices: Choices, noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        batch, height, width, _ = pixels.shape
        if self.crop and self.min_scale:
            pixels = resized_crop(pixels, choices["crop"], self.interpolation)
            pixels = torch.where(choices["flip"].view(-1, 1, 1, 1), pixels.flip(2), pixels)
        elif self.crop:
            dy, dx, flip = (choices[name] for name in ("dy", "dx", "flip"))
            pixels = crop_flip(pixels, dy, dx, flip, self.padding)
        if self.rotate:
            pixels = rotate(pixels, choices["rotation"])
        if self.policy and batch:
            pixels = self._operated(pixels, choices)
        values = pixels.float()
        if self.jitter:
            images = values.permute(0, 3, 1, 2) / 255  # (B, 3, H, W)
            images = color_jitter(images, *(choices[name] for name in FACTORS))
            values = images.permute(0, 2, 3, 1).contiguous() * 255
        values = values.flatten(1).mul_(self.scale).add_(self.shift)  # (B, H * W * 3)
        if noise is not None:
            values.add_(noise)
        values = values.view(batch, height, width, 3)
        if self.erasing:
            speckles = choices.get("speckles")
            fill = values.new_zeros(1) if speckles is None else speckles.view(values.shape)
            values = erase(values, choices["erased"], fill)
        return values.permute(0, 3, 1, 2)

    def _operated(self, pixels: torch.Tensor, choices: Choices) -> torch.Tensor:
        """Return the pixels after all layers of operations."""
        operations, arguments = choices["operations"], choices["arguments"]
        for layer, on_host in enumerate(choices[ON_HOST].unbind(1)):
            counts = on_host.bincount(minlength=len(NAMES)).tolist()
            pixels = operate_on_each(
                pixels, operations[:, layer], arguments[:, layer], counts, self.resampling
            )
        return pixels
