"""An image file is decoded upright, in eight bits and on white, whatever form it has."""

import base64
import io
import struct
import warnings
import zlib

import numpy as np
import PIL
import pytest
from helpers.odd_images import exif, jpeg_with_exif, png, tiff, tiff_of_planes
from PIL import Image, ImageOps, PngImagePlugin

from pipelines.images import decode, readers
from utils import UserError

RANDOM = np.random.RandomState(0)
# Pillow 12 reads no YCbCr TIFF of its own, no XPM, and nothing behind a text beyond the end of the
# EXIF data.
needs_pillow_13 = pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13, reason="Pillow 12")


def write_image(path, size=(13, 7), mode="RGB", **options):
    """Write random pixels, and return the path."""
    pixels = RANDOM.randint(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


def decoded(path):
    """Decode a file as (H, W, 3), warnings being errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return np.asarray(decode.decode(path))


def gray_row(tmp_path, content, name="a"):
    """Decode bytes that hold one row of gray pixels, and return the row."""
    path = tmp_path / name
    path.write_bytes(content)
    image = decoded(path)
    assert (image == image[..., :1]).all()
    return image[0, :, 0].tolist()


class TestForms:
    @pytest.mark.parametrize(
        ("mode", "suffix"),
        [
            *((mode, ".jpg") for mode in ("RGB", "L", "CMYK")),
            *((mode, ".png") for mode in ("RGB", "L", "P", "1")),
            *(("RGB", suffix) for suffix in (".bmp", ".webp", ".tiff", ".ppm", ".gif", ".jp2")),
            *((mode, ".tiff") for mode in ("CMYK", "P", "1")),
            pytest.param("YCbCr", ".tiff", marks=needs_pillow_13),
        ],
    )
    def test_modes_and_formats(self, tmp_path, mode, suffix):
        path = write_image(tmp_path / f"a{suffix}", mode=mode)
        expected = np.asarray(Image.open(path).convert("RGB"))
        assert np.array_equal(decoded(path), expected)

    def test_the_content_counts_not_the_name(self, tmp_path):
        path = write_image(tmp_path / "a.jpg", format="PNG")
        expected = np.asarray(Image.open(path))
        assert np.array_equal(decoded(path), expected)


class TestMeaningOfNumbers:
    """0 is black and white is 255: the upper eight bits of the range that the format defines."""

    def test_sixteen_bits_keep_their_upper_eight(self, tmp_path):
        values = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
        Image.fromarray(values).save(tmp_path / "a.png")
        expected = np.repeat((values // 256)[..., None], 3, axis=2)
        assert np.array_equal(decoded(tmp_path / "a.png"), expected)

    @pytest.mark.parametrize("plain", [False, True])
    @pytest.mark.parametrize("white", [1, 15, 100, 255, 256, 1023, 4095, 65535])
    def test_portable_gray_maps(self, tmp_path, white, plain):
        values = np.unique(np.linspace(0, white, 9).astype(int))
        body = values.astype(">u2" if white > 255 else "u1").tobytes()
        if plain:
            body = " ".join(map(str, values)).encode()
        content = b"P%d %d 1 %d\n" % (2 if plain else 5, len(values), white) + body
        exact = values * 255 / white
        assert np.abs(gray_row(tmp_path, content) - exact).max() <= 1

    @pytest.mark.parametrize("white", [1023, 4095, 65535])
    def test_portable_pixel_maps(self, tmp_path, white):
        values = np.linspace(0, white, 9).astype(int)
        content = b"P6 9 1 %d\n" % white + np.repeat(values, 3).astype(">u2").tobytes()
        assert np.abs(gray_row(tmp_path, content) - values * 255 / white).max() <= 1

    @pytest.mark.parametrize(
        ("white_is_zero", "byte_order"), [(False, "<"), (False, ">"), (True, "<")]
    )  # Pillow does not read the fourth
    def test_tiffs_of_sixteen_bits(self, tmp_path, white_is_zero, byte_order):
        values = np.array([0, 255, 256, 0x1234, 0x8000, 65535], f"{byte_order}u2")
        content = tiff(16, 1 - white_is_zero, values.tobytes(), 6, byte_order=byte_order)
        expected = [0, 0, 1, 0x12, 0x80, 255]
        assert gray_row(tmp_path, content) == (
            [255 - value for value in expected] if white_is_zero else expected
        )

    @pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
    def test_tiffs_in_which_zero_is_white_however_packed(self, tmp_path, compression):
        values = RANDOM.randint(0, 65536, (5, 7)).astype(np.uint16)
        Image.fromarray(values).save(tmp_path / "a.tif", compression=compression, tiffinfo={262: 0})
        with Image.open(tmp_path / "a.tif") as file:
            assert file.tag_v2[262] == 0
            stored = np.asarray(file)
        assert np.array_equal(decoded(tmp_path / "a.tif")[..., 1], 255 - (stored >> 8))

    @pytest.mark.parametrize("bits", [1, 2, 4, 8])
    def test_few_bits_in_which_zero_is_white(self, tmp_path, bits):
        levels = 2**bits
        row = np.packbits([int(c) for v in (0, levels - 1) for c in f"{v:0{bits}b}"]).tobytes()
        assert gray_row(tmp_path, tiff(bits, 0, row, 2)) == [255, 0]
        assert gray_row(tmp_path, tiff(bits, 1, row, 2)) == [0, 255]

    def test_tiffs_of_twelve_bits(self, tmp_path):
        row = bytes([0x00, 0x00, 0x10, 0x80, 0x0F, 0xFF])  # 0, 0x010, 0x800, 0xfff
        assert gray_row(tmp_path, tiff(12, 1, row, 4)) == [0, 1, 0x80, 255]

    def test_jpeg_2000_of_sixteen_bits(self, tmp_path):
        values = (np.arange(64, dtype=np.uint16) * 1040).reshape(8, 8)
        Image.fromarray(values).save(tmp_path / "a.jp2")
        assert np.array_equal(decoded(tmp_path / "a.jp2")[..., 0], values >> 8)

    @pytest.mark.parametrize(
        ("bits", "codestream"),
        [
            (
                1,
                "/0//UQApAAAAAAAEAAAAAQAAAAAAAAAAAAAABAAAAAEAAAAAAAAAAAABAAEB/1IADAAAAAEAAAQEAAH/XAAE"
                "QAj/ZAAlAAFDcmVhdGVkIGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjT/kAAKAAAAAAASAAH/k9EABZ//2Q==",
            ),
            (
                4,
                "/0//UQApAAAAAAAEAAAAAQAAAAAAAAAAAAAABAAAAAEAAAAAAAAAAAABAwEB/1IADAAAAAEAAAQEAAH/XAAE"
                "QCD/ZAAlAAFDcmVhdGVkIGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjT/kAAKAAAAAAAUAAH/k98gMAZqIf/Z",
            ),
        ],
    )  # 0, 1, the middle rounded down and white, as OpenJPEG 2.5.4 writes them
    def test_jpeg_2000_of_few_bits(self, tmp_path, bits, codestream):
        white = 2**bits - 1
        expected = [round(value * 255 / white) for value in (0, 1, white // 2, white)]
        found = gray_row(tmp_path, base64.b64decode(codestream))
        assert np.abs(np.subtract(found, expected)).max() <= 1

    @pytest.mark.parametrize(
        ("kind", "mode"), [(15, "RGB"), (15, "RGBA"), (128 + 7, "RGB"), (135, "L")]
    )
    def test_jpeg_2000_that_pillow_misreads_is_refused(self, tmp_path, kind, mode):
        """Pillow makes 0 of the brightest values of 16-bit colour, and ignores a sign."""
        path = write_image(tmp_path / "a.jp2", mode=mode)
        content = bytearray(path.read_bytes())
        place = content.find(decode.JPEG_2000_START) + 42
        channels = len(Image.open(path).getbands())
        assert set(content[place : place + 3 * channels : 3]) == {7}
        content[place : place + 3 * channels : 3] = bytes([kind] * channels)
        path.write_bytes(content)
        with pytest.raises(UserError, match="JPEG 2000"):
            decode.decode(path)

    @pytest.mark.parametrize("compression", [1, 8])
    def test_tiffs_of_planes_of_sixteen_bits_are_refused_unless_packed(self, tmp_path, compression):
        """Pillow reads planes that are not packed as 8 bits."""
        planes = [np.array([[c << 8, 65535]], "<u2").tobytes() for c in (1, 2, 3)]
        stored = [zlib.compress(plane) if compression == 8 else plane for plane in planes]
        (tmp_path / "a.tif").write_bytes(tiff_of_planes(stored, 2, compression))
        if compression == 8:
            assert decoded(tmp_path / "a.tif")[0].tolist() == [[1, 2, 3], [255, 255, 255]]
            return
        with pytest.raises(UserError, match="planes of 16 bits"):
            decode.decode(tmp_path / "a.tif")

    def test_bitmaps_in_which_one_is_black(self, tmp_path):
        assert gray_row(tmp_path, b"P4 8 1\n\x0f") == [255] * 4 + [0] * 4

    @pytest.mark.parametrize(
        ("content", "mode"),
        [
            (tiff(32, 1, np.arange(4, dtype="<u4").tobytes(), 4), "I"),
            (tiff(32, 1, np.arange(4, dtype="<i4").tobytes(), 4, 2), "I"),
            (tiff(16, 1, np.arange(4, dtype="<i2").tobytes(), 4, 2), "I"),
            (tiff(8, 1, np.arange(-2, 2, dtype="i1").tobytes(), 4, 2), "L"),
            (tiff(32, 1, np.linspace(0, 1, 4, dtype="<f4").tobytes(), 4, 3), "F"),
            (tiff(32, 0, np.linspace(0, 1, 4, dtype="<f4").tobytes(), 4, 3), "F"),
            (b"Pf 2 1 -1.0\n" + np.array([0, 1], "<f4").tobytes(), "F"),
        ],
        ids=["uint32", "int32", "int16", "int8", "float", "float white 0", "pfm"],
    )
    def test_numbers_without_a_meaning_are_refused(self, tmp_path, content, mode):
        path = tmp_path / "a.tif"
        path.write_bytes(content)
        with Image.open(path) as file:
            assert file.mode == mode
        with pytest.raises(UserError, match=f"a.tif: .*mode {mode}.* no meaning in 8 bits"):
            decode.decode(path)

    @pytest.mark.parametrize("mode", ["I", "F", "I;16"])
    def test_pillows_own_format_defines_no_range(self, tmp_path, mode):
        Image.new(mode, (4, 4)).save(tmp_path / "a.im")
        with pytest.raises(UserError, match="no meaning in 8 bits"):
            decode.decode(tmp_path / "a.im")


def on_white(colour, alpha):
    """Compute what is seen of a colour with an alpha of 0..255 on white."""
    return np.asarray(colour) * (alpha / 255) + 255 * (1 - alpha / 255)


class TestTransparency:
    """What is transparent shows white."""

    @pytest.mark.parametrize(
        ("mode", "suffix"),
        [
            *(("RGBA", suffix) for suffix in (".png", ".tiff", ".tga", ".webp", ".ico", ".jp2")),
            *(("RGBA", suffix) for suffix in (".avif", ".dds", ".sgi", ".qoi")),
            *(("LA", suffix) for suffix in (".png", ".tiff", ".jp2")),
            ("PA", ".tiff"),
        ],
    )
    def test_alpha_channels(self, tmp_path, mode, suffix):
        image = Image.new("RGBA", (32, 32), (40, 40, 40, 255))
        for x, alpha in ((8, 128), (16, 64), (24, 0)):
            image.paste((40, 40, 40, alpha), (x, 0, x + 8, 32))
        path = tmp_path / f"a{suffix}"
        exact = {".webp": {"lossless": True}, ".avif": {"quality": 100}}
        image.convert(mode).save(path, **exact.get(suffix, {}))
        found = decoded(path)[16, 4::8]
        for pixel, alpha in zip(found, (255, 128, 64, 0), strict=True):
            np.testing.assert_allclose(pixel, on_white((40, 40, 40), alpha), atol=2)

    def test_a_tiff_whose_colours_are_multiplied_by_alpha(self, tmp_path):
        path = tmp_path / "a.tif"
        Image.new("RGBA", (2, 1), (20, 20, 20, 128)).save(path)
        unassociated, associated = (struct.pack("<HHIHH", 338, 3, 1, x, 0) for x in (2, 1))
        content = path.read_bytes()
        assert content.count(unassociated) == 1
        path.write_bytes(content.replace(unassociated, associated))
        np.testing.assert_allclose(decoded(path)[0, 0], 20 + 255 - 128, atol=1)

    def test_palettes(self, tmp_path):
        palette = bytes([0, 0, 0, 200, 0, 0, 0, 0, 90])
        content = png(8, 3, bytes([0, 1, 2]), 3, key=b"\0\x80", palette=palette)
        (tmp_path / "a.png").write_bytes(content)
        found = decoded(tmp_path / "a.png")[0]
        np.testing.assert_allclose(found[0], (255, 255, 255))
        np.testing.assert_allclose(found[1], on_white((200, 0, 0), 128), atol=1)
        np.testing.assert_allclose(found[2], (0, 0, 90))

    def test_a_palette_with_one_transparent_colour(self, tmp_path):
        image = Image.new("P", (2, 1), 1)
        image.putpalette([10, 10, 10, 80, 80, 80])
        image.putpixel((0, 0), 0)
        for suffix in (".gif", ".png"):
            image.save(tmp_path / f"a{suffix}", transparency=0)
            assert decoded(tmp_path / f"a{suffix}")[0, :, 0].tolist() == [255, 80]

    @needs_pillow_13
    def test_xpm(self, tmp_path):
        xpm = (
            b'/* XPM */\nstatic char *a[] = {\n"2 1 2 1",\n"a c None",\n"b c #102030",\n"ab"\n};\n'
        )
        (tmp_path / "a.xpm").write_bytes(xpm)
        assert decoded(tmp_path / "a.xpm")[0].tolist() == [[255, 255, 255], [16, 32, 48]]

    @pytest.mark.parametrize(
        ("depth", "row", "values", "key"),
        [
            (1, b"\x40", (0, 255), 0),
            (1, b"\x40", (0, 255), 1),
            (2, b"\x10", (0, 85), 1),
            (4, b"\x05", (0, 85), 5),
            (8, b"\x00\x05", (0, 5), 5),
            (16, b"\x12\x05\x12\x06", (18, 18), 0x1205),
        ],
    )
    def test_one_gray_stands_for_transparent(self, tmp_path, depth, row, values, key):
        content = png(depth, 0, row, 2, key=struct.pack(">H", key))
        transparent = 0 if (depth, key) in ((1, 0), (16, 0x1205)) else 1
        expected = [255 if place == transparent else values[place] for place in (0, 1)]
        assert gray_row(tmp_path, content) == expected

    @pytest.mark.parametrize("depth", [8, 16])
    def test_one_colour_stands_for_transparent(self, tmp_path, depth):
        kind = ">u2" if depth == 16 else "u1"
        scale = 257 if depth == 16 else 1
        pixels = np.array([[5, 6, 7], [5, 6, 8]]) * scale
        key = struct.pack(">HHH", *(pixels[0]))
        content = png(depth, 2, pixels.astype(kind).tobytes(), 2, key=key)
        (tmp_path / "a.png").write_bytes(content)
        assert decoded(tmp_path / "a.png")[0].tolist() == [[255, 255, 255], [5, 6, 8]]

    def test_gray_of_sixteen_bits_with_alpha(self, tmp_path):
        row = np.array([[0, 65535], [0, 0], [0x8000, 65535]], ">u2").tobytes()
        assert gray_row(tmp_path, png(16, 4, row, 3)) == [0, 255, 128]

    def test_a_key_has_as_many_bits_as_a_pixel(self, tmp_path):
        assert gray_row(tmp_path, png(2, 0, b"\x10", 2, key=b"\x01\x05")) == [0, 255]

    def test_a_fourth_byte_that_is_no_alpha(self, tmp_path):
        """A TGA of 32 bits often has zeros there, and says in its header that they mean nothing."""
        path = tmp_path / "a.tga"
        Image.new("RGBA", (2, 1), (10, 20, 30, 0)).save(path)
        assert decoded(path)[0, 0].tolist() == [10, 20, 30]

    def test_nothing_transparent_changes_nothing(self, tmp_path):
        path = write_image(tmp_path / "a.png", mode="RGBA")
        with Image.open(path) as image:
            expected = np.asarray(image)[..., :3]
        assert np.array_equal(decoded(path), expected)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff"])
    def test_pictures_stand_upright(self, tmp_path, orientation, suffix):
        block = Image.Exif()
        block[0x112] = orientation
        path = write_image(tmp_path / f"a{suffix}", exif=block)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(path)))
        assert np.array_equal(decoded(path), expected)

    @pytest.mark.parametrize(
        "other",
        [
            (0x10F, 11, 1, b"\x01\x00\x00\x00"),  # Make, a number
            (0x11A, 2, 4, b"300\0"),  # XResolution, a text
            (0x11A, 9, 1, b"\xff\xff\xff\xff"),  # XResolution, below zero
            (0x11A, 11, 1, b"\xff\xff\xff\xff"),  # XResolution, not a number
            (0x128, 4, 1, b"\xff\xff\xff\xff"),  # ResolutionUnit, too large
            (0x11A, 5, 1, b"\xff\xff\xff\x7f"),  # XResolution, a fraction beyond the end
            pytest.param((0x10F, 2, 2**30, bytes(4)), marks=needs_pillow_13),  # Make, of a GiB
            (0x8769, 4, 1, b"\x01\x00\x00\x00"),  # a table inside the header
            (0x128, 3, 0, bytes(4)),  # ResolutionUnit, none of it
            (0x8825, 2, 4, b"text"),  # GPS, as a text
            (0x103, 99, 1, bytes(4)),  # a type that does not exist
        ],
    )
    def test_whatever_else_is_odd(self, tmp_path, other):
        path = write_image(tmp_path / "a.jpg")
        upright = np.asarray(decode.decode(path))
        block = exif(6, others=[other])
        (tmp_path / "b.jpg").write_bytes(jpeg_with_exif(path.read_bytes(), block))
        assert np.array_equal(np.asarray(decode.decode(tmp_path / "b.jpg")), np.rot90(upright, -1))

    @pytest.mark.parametrize("kind", [1, 3, 4])
    def test_whatever_type_the_number_has(self, tmp_path, kind):
        path = write_image(tmp_path / "a.jpg")
        upright = decoded(path)
        (tmp_path / "b.jpg").write_bytes(jpeg_with_exif(path.read_bytes(), exif(3, kind=kind)))
        assert np.array_equal(decoded(tmp_path / "b.jpg"), upright[::-1, ::-1])

    @pytest.mark.parametrize("block", [b"Exif\0\0", b"Exif\0\0nonsense", exif(6)[:15], exif(77)])
    def test_no_orientation_that_can_be_read(self, tmp_path, block):
        path = write_image(tmp_path / "a.jpg")
        upright = decoded(path)
        (tmp_path / "b.jpg").write_bytes(jpeg_with_exif(path.read_bytes(), block))
        assert np.array_equal(np.asarray(decode.decode(tmp_path / "b.jpg")), upright)

    def test_a_long_description(self, tmp_path):
        info = PngImagePlugin.PngInfo()
        info.add_text("prompt", "a" * 2**22, zip=True)
        path = write_image(tmp_path / "a.png", pnginfo=info)
        assert decoded(path).shape == (7, 13, 3)


class TestSizes:
    @pytest.mark.parametrize("size", [(20_000, 1), (1, 20_000), (3000, 2)])
    def test_an_elongated_image_is_cut_first(self, tmp_path, size, monkeypatch):
        largest = []
        resize = Image.Image.resize
        monkeypatch.setattr(
            Image.Image,
            "resize",
            lambda image, to, *rest, **more: largest.append(to) or resize(image, to, *rest, **more),
        )
        path = write_image(tmp_path / "a.png", size)
        pixels = readers.ImageNetReader(224)(str(path))
        assert pixels.shape == (224, 224, 3)
        assert max(width * height for width, height in largest) <= 6 * 256 * 256
        middle = decoded(path)[size[1] // 2 :, size[0] // 2 :][0, 0].astype(int)
        close = np.abs(pixels.astype(int) - middle).max(2).min()
        assert close <= 16  # its middle pixel is in the result

    @pytest.mark.parametrize("size", [(101, 11), (11, 101), (100, 11), (64, 15)])
    def test_the_middle_stays_where_it_is(self, tmp_path, size):
        width, height = size
        ramp = np.linspace(0, 255, max(size)).astype(np.uint8)
        pixels = (
            np.tile(ramp, (height, 1)) if width > height else np.tile(ramp[:, None], (1, width))
        )
        Image.fromarray(pixels).save(tmp_path / "a.png")
        found = readers.FolderReader(22, fit=True)(str(tmp_path / "a.png"))[..., 0].astype(float)
        scaled = Image.fromarray(pixels).resize(
            (round(22 * width / min(size)), round(22 * height / min(size))),
            Image.Resampling.BILINEAR,
        )
        left, top = (scaled.width - 22) / 2, (scaled.height - 22) / 2
        whole = np.asarray(scaled)[int(top) :, int(left) :][:22, :22].astype(float)
        assert np.abs(found - whole).max() <= 255 / max(size) + 1  # a pixel of the original

    @pytest.mark.parametrize(("limit", "factor"), [(10**6, 1), (99 * 99, 2), (2000, 4), (500, 8)])
    def test_a_large_jpeg_is_scaled_while_it_is_decoded(self, tmp_path, monkeypatch, limit, factor):
        ramp = np.linspace(0, 255, 160).astype(np.uint8)
        Image.fromarray(np.tile(ramp, (160, 1))).save(tmp_path / "a.jpg", quality=95)
        monkeypatch.setattr(decode, "MOST_JPEG_PIXELS", limit)
        found = decoded(tmp_path / "a.jpg")
        assert found.shape == (160 // factor, 160 // factor, 3)
        expected = ramp.reshape(-1, factor).mean(1)
        assert np.abs(found[..., 0] - expected).max() <= 3

    def test_other_formats_have_a_limit(self, tmp_path, monkeypatch):
        write_image(tmp_path / "a.png", (30, 20))
        monkeypatch.setattr(decode, "MOST_PIXELS", 600)
        assert decoded(tmp_path / "a.png").shape == (20, 30, 3)
        monkeypatch.setattr(decode, "MOST_PIXELS", 599)
        with pytest.raises(UserError, match="30x20 pixels; 599 at most"):
            decode.decode(tmp_path / "a.png")

    def test_a_photo_of_200_megapixels(self, tmp_path):
        buffer = io.BytesIO()
        Image.new("L", (16_000, 12_600), 77).save(buffer, "JPEG")
        (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
        pixels = readers.FolderReader(32, fit=True)(str(tmp_path / "a.jpg"))
        assert np.abs(pixels.astype(int) - 77).max() <= 1
