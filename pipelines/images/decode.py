"""Decode an image file: upright, RGB, eight bits per channel, on white where it is transparent.

The numbers in image files have many meanings. What has a meaning in eight bits gets it: 0 is black
and 255 white. What has none (floating-point numbers, integers without a range) is refused.
"""

import errno
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin, TiffImagePlugin
from PIL.JpegImagePlugin import JpegImageFile

from pipelines.images.interfaces import Encoded
from utils import UserError

# Pillow takes a photo of 200 megapixels, or a long description, for an attack; see _bound_size.
Image.MAX_IMAGE_PIXELS = None
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
# Nothing but the orientation is read of a photo's EXIF data, whatever is odd in the rest.
warnings.filterwarnings("ignore", module=TiffImagePlugin.__name__)

# A pixel takes 4 bytes in memory, and an image with transparency is there twice. (The decoder of
# progressive JPEGs takes 6 more for every pixel of the file, however small the result.)
MOST_JPEG_PIXELS = 2**26
MOST_PIXELS = 2**28

GROUND = (255, 255, 255)  # white, as browsers show what is transparent

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
RAW, PLANES = 1, 2  # of TIFF's Compression and PlanarConfiguration
WITH_PADDING = ("TGA", "ICO")  # formats whose fourth byte may be alpha or nothing
JPEG_2000_START = b"\xff\x4f\xff\x51"  # of its codestream and of the sizes in it
SIXTEEN_BITS = ("PNG", "PPM", "JPEG2000", "ICO")  # formats whose long numbers end at 65535


class BrokenImage(UserError):
    """Say that a file is damaged, or holds what is no image: reading it again will not help."""


def decode(path: str | Path | Encoded) -> Image.Image:
    """Decode any image file as a PIL image, RGB, turned upright as its EXIF data says.

    Transparent parts are put on white. A JPEG of more than MOST_JPEG_PIXELS comes at a half, a
    quarter or an eighth of its size.

    Raises:
        BrokenImage: the file is damaged, or its numbers have no meaning in 8 bits.
        UserError: the file cannot be read now: no permission, too little memory, a failing disk.
    """
    # torchvision's decode_jpeg gives the same pixels in half the time, but only for JPEG, and it
    # is deprecated and warns about that.
    try:
        with Image.open(_opened(path)) as file:
            _bound_size(file)
            stored = _stored_form(file)
            file.load()
            turn = _turn(file)
            image = _rgb(file, stored)
            return image if turn is None else image.transpose(turn)
    except UserError:
        raise
    except Exception as error:  # PIL raises half a dozen kinds, by format and damage
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if _is_passing(error):
            raise UserError(f"{path}: cannot be read now ({reason}); try again") from None
        raise BrokenImage(
            f"{path}: cannot be read as an image ({reason}); put a readable one in its place, and"
            " --resume goes on; or start with --skip_broken, which leaves such files out"
        ) from None


def _opened(path: str | Path | Encoded) -> str | Path | io.BytesIO:
    return path if isinstance(path, str | Path) else io.BytesIO(path.read())


def _is_passing(error: Exception) -> bool:
    """Return whether an error is the system's, and not the file's."""
    if isinstance(error, OSError):  # Pillow's own have no number
        return error.errno not in (None, errno.ENOENT, errno.ELOOP)  # a link to nowhere is broken
    return isinstance(error, MemoryError)


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
    """Return how a file stores its pixels, where that matters; Pillow forgets it while loading.

    It is "L;2" for example of a PNG, and the number of bits of a JPEG 2000.

    Raises:
        ValueError: Pillow does not read this form right.
    """
    if isinstance(file, PngImagePlugin.PngImageFile):
        return str(file.tile[0][3])
    bits = np.max(_tag(file, TiffImagePlugin.BITSPERSAMPLE, 8))
    in_planes = _tag(file, TiffImagePlugin.PLANAR_CONFIGURATION, 1) == PLANES
    if in_planes and bits > 8 and _tag(file, TiffImagePlugin.COMPRESSION, RAW) == RAW:
        raise ValueError(f"a TIFF of planes of {bits} bits, which Pillow reads as 8")
    return str(_jpeg_2000_bits(file)) if file.format == "JPEG2000" else ""


def _jpeg_2000_bits(file: Any) -> int:
    """Return the bits of a number in a JPEG 2000 file.

    Raises:
        ValueError: Pillow does not read such numbers right: signed ones, and colour of more than 8
            bits, whose brightest values it makes 0.
    """
    place = file.fp.tell()
    file.fp.seek(0)
    start = file.fp.read(2**20)
    file.fp.seek(place)
    sizes = start[start.find(JPEG_2000_START) :][40:]  # the number of components, 3 bytes for each
    kinds = set(sizes[2 : 2 + 3 * int.from_bytes(sizes[:2], "big") : 3])
    bits = max((kind & 127) + 1 for kind in kinds)
    if max(kinds) > 127 or len(kinds) > 1 or (bits > 8 and file.mode != "I;16"):
        raise ValueError(f"a JPEG 2000 of {bits} bits in mode {file.mode}, which Pillow misreads")
    return bits


def _rgb(image: Image.Image, stored: str) -> Image.Image:
    alpha = _alpha_of_key(image, stored)
    image = _in_eight_bits(image)
    if stored.isdigit() and int(stored) < 8:
        image = image.point(_stretched(int(stored)) * len(image.getbands()))
    if alpha is None and (image.mode not in WITH_ALPHA or _is_padding(image)):
        return image.convert("RGB")
    if alpha is not None:
        image = image.convert("RGB")  # without the key, which Pillow would apply once more
        image.putalpha(alpha)
    return _on_ground(image)


def _stretched(bits: int) -> list[int]:
    """Return what makes 0..255 of numbers of fewer bits, which Pillow leaves in the upper ones."""
    white = 256 - 2 ** (8 - bits)
    return [min(255, round(value * 255 / white)) for value in range(256)]


def _is_padding(image: Image.Image) -> bool:
    """Return whether the fourth channel is 0 everywhere, in a format where that may be no alpha."""
    return (
        image.format in WITH_PADDING
        and image.mode == "RGBA"
        and image.getchannel("A").getextrema() == (0, 0)
    )


def _on_ground(image: Image.Image) -> Image.Image:
    """Return an image that has alpha on GROUND, as RGB."""
    if image.mode == "La":  # which has no direct way to RGBA
        image = image.convert("LA")
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    ground = Image.new("RGB", image.size, GROUND)
    ground.paste(image, mask=image)
    return ground


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
        white = 2 ** int(stored[-1]) - 1
        key = (key & white) * 255 // white
    elif stored == "RGB;16B":  # Pillow keeps the upper halves alone; so near is near enough
        key = [part >> 8 for part in key]
    differs = np.asarray(image) != np.array(key)
    if image.mode == "RGB":
        differs = differs.any(2)
    return Image.fromarray(differs * np.uint8(255))


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
