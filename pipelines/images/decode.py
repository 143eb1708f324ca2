"""Decode an image file: upright, RGB, eight bits per channel, on white where it is transparent.

The numbers in image files have many meanings. What has a meaning in eight bits gets it: 0 is black
and 255 white. What has none (floating-point numbers, integers without a range) is refused.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin, TiffImagePlugin
from PIL.JpegImagePlugin import JpegImageFile

from utils import UserError

# Pillow takes a photo of 200 megapixels, or a long description, for an attack; see _bound_size.
Image.MAX_IMAGE_PIXELS = None
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
# Nothing but the orientation is read of a photo's EXIF data, whatever is odd in the rest.
warnings.filterwarnings("ignore", module=TiffImagePlugin.__name__)

# 4 bytes a pixel in memory, so at most a quarter of a GiB of a JPEG, one GiB of others.
MOST_JPEG_PIXELS = 2**26
MOST_PIXELS = 2**28

GROUND = (255, 255, 255, 255)  # white, as browsers show what is transparent

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
WITH_ALPHA = ("P", "PA", "LA", "La", "RGBA", "RGBa")  # a palette's colours may have it
WHITE_IS_ZERO = 0  # of TIFF's PhotometricInterpretation
SIGNED = 2  # of TIFF's SampleFormat
SIXTEEN_BITS = ("PNG", "PPM", "JPEG2000", "ICO")  # formats whose long numbers end at 65535


def decode(path: str | Path) -> Image.Image:
    """Decode any image file as a PIL image, RGB, turned upright as its EXIF data says.

    Transparent parts are put on white. A JPEG of more than MOST_JPEG_PIXELS comes at a half, a
    quarter or an eighth of its size.

    Raises:
        UserError: the file cannot be read as an image, or its numbers have no meaning in 8 bits.
    """
    # torchvision's decode_jpeg gives the same pixels in half the time, but only for JPEG, and it
    # is deprecated and warns about that.
    try:
        with Image.open(path) as file:
            _bound_size(file)
            stored = _stored_form(file)
            file.load()
            turn = _turn(file)
            image = _rgb(file, stored)
            return image if turn is None else image.transpose(turn)
    except Exception as error:  # PIL raises half a dozen kinds, by format and damage
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: cannot be read as an image ({reason}); put a readable one in its place, and"
            " --resume goes on; or start with --skip_broken, which leaves such files out"
        ) from None


def _bound_size(file: Image.Image) -> None:
    """Have a large JPEG scaled while it is decoded; refuse other images that are too large."""
    width, height = file.size
    if isinstance(file, JpegImageFile):
        if width * height > MOST_JPEG_PIXELS:
            # A JPEG has at most 65535 x 65535 pixels, an eighth of which fits.
            factor = next(f for f in (2, 4, 8) if width * height <= MOST_JPEG_PIXELS * f * f)
            file.draft(None, (width // factor, height // factor))
    elif width * height > MOST_PIXELS:
        raise ValueError(
            f"{width}x{height} pixels; {MOST_PIXELS:,} at most, or a JPEG, which is scaled while it"
            " is decoded"
        )


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return what turns an image upright; None where its EXIF data cannot be read or say nothing.

    ImageOps.exif_transpose also writes the EXIF data again, and fails where any field is odd.
    """
    try:
        orientation: Any = image.getexif().get(ExifTags.Base.Orientation)
        if isinstance(orientation, bytes):  # one byte, where the standard has two
            orientation = int.from_bytes(orientation, "little")
        return UPRIGHT.get(orientation)
    except Exception:  # struct.error, SyntaxError, OSError, ...
        return None


def _stored_form(file: Image.Image) -> str:
    """Return how a PNG stores its pixels, "L;2" for example; Pillow forgets it while loading."""
    return str(file.tile[0][3]) if isinstance(file, PngImagePlugin.PngImageFile) else ""


def _rgb(image: Image.Image, stored: str) -> Image.Image:
    alpha = _alpha_of_key(image, stored)
    image = _in_eight_bits(image)
    if alpha is None and image.mode not in WITH_ALPHA:
        return image.convert("RGB")
    if alpha is not None:
        image = image.convert("RGB")  # without the key, which Pillow would apply once more
        image.putalpha(alpha)
    return _on_ground(image)


def _on_ground(image: Image.Image) -> Image.Image:
    """Return an image that has alpha on GROUND, as RGB."""
    if image.mode == "La":  # which has no direct way to RGBA
        image = image.convert("LA")
    image = image.convert("RGBA")
    ground = Image.new("RGBA", image.size, GROUND)
    return Image.alpha_composite(ground, image).convert("RGB")


def _alpha_of_key(image: Image.Image, stored: str) -> Image.Image | None:
    """Return the alpha of an image in which one colour, the key, stands for transparent.

    None where there is no key. PNG and GIF have it. Palettes are left to Pillow, which otherwise
    compares a key of 2, 4 or 16 bits with pixels of 8.
    """
    key: Any = image.info.get("transparency")
    if key is None or image.mode in WITH_ALPHA:
        return None
    if image.mode == "1":
        key = bool(key)
    elif stored in ("L;2", "L;4"):
        key = key * 255 // (2 ** int(stored[-1]) - 1)
    elif stored == "RGB;16B":  # Pillow keeps the upper halves alone; so near is near enough
        key = [part >> 8 for part in key]
    differs = np.asarray(image) != np.array(key)
    if image.mode == "RGB":
        differs = differs.any(2)
    return Image.fromarray(np.where(differs, 255, 0).astype(np.uint8))


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """Return an image of longer numbers with its upper eight bits; others as they are.

    Raises:
        ValueError: its numbers have no such meaning.
    """
    if SIGNED in np.atleast_1d(_tag(image, TiffImagePlugin.SAMPLEFORMAT, 1)):
        raise ValueError(f"signed numbers, mode {image.mode}, have no meaning in 8 bits")
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    bits = _bits_of_range(image)
    if not bits:
        raise ValueError(
            f"numbers of mode {image.mode} in a {image.format} have no meaning in 8 bits"
        )
    values = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
    if _tag(image, TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, None) == WHITE_IS_ZERO:
        values = 255 - values  # Pillow does so for 8 bits and fewer
    return Image.fromarray(values)


def _bits_of_range(image: Image.Image) -> int | None:
    """Return how many bits white has in an image of long numbers, None where that is not known."""
    if image.mode == "F":
        return None
    if image.mode.startswith("I;16") and image.format == "TIFF":
        bits: int = _tag(image, TiffImagePlugin.BITSPERSAMPLE, (16,))[0]  # 12 or 16
        return bits
    return 16 if image.format in SIXTEEN_BITS else None


def _tag(image: Image.Image, tag: int, default: Any) -> Any:
    return getattr(image, "tag_v2", {}).get(tag, default)
