"""From raw bytes to network input: crop, flip, jitter, normalise, noise, all on whole batches.

Nothing here looks at a value on the device, so nothing waits for a GPU: every shape is known
beforehand, and every choice per image is an index or a factor in a tensor. On a CPU an image's
result does not depend, to the last bit, on which others share its batch.
"""

import torch


def crop_flip(images, dy, dx, flip, padding):
    """Pad with black, cut a window of the old size at (dy, dx), then mirror it where `flip`.

    images: uint8 (B, H, W, C), contiguous; dy, dx: int64 (B,) in 0..2*padding; flip: bool (B,).
    Returns uint8 (B, H, W, C): torchvision's pad, crop and hflip, one image at a time.
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


def color_jitter(images, brightness, contrast, saturation, hue):
    """Change the four in this order, with one factor per image, as torchvision's ColorJitter does.

    images: float (B, 3, H, W) in 0..1; each factor: float (B,), hue in turns (-0.5..0.5).
    The order is fixed (torchvision draws one per image): a batch then is one sequence of
    operations, whatever was drawn.
    """
    brightness, contrast, saturation, hue = (
        factor.view(-1, 1, 1, 1) for factor in (brightness, contrast, saturation, hue)
    )
    images = (images * brightness).clamp(0, 1)
    # Rows first: of one image at once, torch sums in another order than of several.
    mean = _gray(images).mean(3, keepdim=True).mean(2, keepdim=True)
    images = _blend(images, mean, contrast)
    images = _blend(images, _gray(images), saturation)
    return _turn_hue(images, hue)


def _gray(images):
    red, green, blue = images.split(1, dim=1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def _blend(images, other, ratio):
    return (ratio * images + (1 - ratio) * other).clamp(0, 1)


def _turn_hue(images, turns):
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


FACTORS = ("brightness", "contrast", "saturation", "hue")


class Transform:
    """Makes network input of raw bytes, with what was asked for in between.

    Called with uint8 (B, H, W, 3) pixels, H = W = image_size, what `draw` chose for these images
    and a batch of noise, it returns float32 (B, 3, H, W), normalised, in channels_last memory
    format, on `device`, where all of these are too. B may be 0.

    mean, std: per channel, of pixels scaled to 0..1; noise: standard deviation, after normalising.
    """

    def __init__(
        self, mean, std, image_size, device, *, crop=False, flip=False, jitter=False, noise=0.0
    ):
        # (byte/255 - mean)/std as one multiplication and one addition, with a factor for every
        # byte of an image: long rows are vectorised, a broadcast over 3 channels is not (9 times
        # slower); torch.addcmul (20 times) and a table of the 256 values (70 times) were slower.
        mean, std = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
        pixels = image_size * image_size
        self.scale = (1 / (255 * std)).float().repeat(pixels).to(device)
        self.shift = (-mean / std).float().repeat(pixels).to(device)
        self.padding = round(image_size / 8)
        self.crop, self.flip, self.jitter, self.noise = crop, flip, jitter, noise

    def draw(self, count, generator):
        """What is chosen for each of `count` images: CPU tensors (count,) by name."""
        choices = {}
        if self.crop:
            dy, dx = torch.randint(2 * self.padding + 1, (2, count), generator=generator)
            flip = torch.zeros(count, dtype=torch.bool)
            if self.flip:
                flip = torch.randint(2, (count,), generator=generator).bool()
            choices |= {"dy": dy, "dx": dx, "flip": flip}
        if self.jitter:
            spread = 2 * torch.rand(4, count, generator=generator) - 1
            choices |= zip(FACTORS, (*(1 + 0.2 * spread[:3]), 0.1 * spread[3]), strict=True)
        return choices

    def draw_noise(self, count, generator):
        """Noise for a batch of `count` images: float32 (count, H * W * 3), on `device`.

        The generator has to be one of that device.
        """
        noise = torch.randn(count, len(self.scale), generator=generator, device=generator.device)
        return noise.mul_(self.noise)

    def __call__(self, pixels, choices, noise=None):
        batch, height, width, _ = pixels.shape
        if self.crop:
            place = (choices[name] for name in ("dy", "dx", "flip"))
            pixels = crop_flip(pixels, *place, self.padding)
        values = pixels.float()
        if self.jitter:
            images = values.permute(0, 3, 1, 2) / 255
            images = color_jitter(images, *(choices[name] for name in FACTORS))
            values = images.permute(0, 2, 3, 1).contiguous() * 255
        values = values.flatten(1).mul_(self.scale).add_(self.shift)
        if noise is not None:
            values.add_(noise)
        return values.view(batch, height, width, 3).permute(0, 3, 1, 2)
