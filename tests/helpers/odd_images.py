"""Write image files byte by byte, in forms that Pillow reads but does not write."""

import struct
import zlib


def png(depth, colour_type, row, width, key=None, palette=None):
    """Return a PNG of one row of packed pixels.

    Args:
        depth: bits of a number.
        colour_type: 0 gray, 2 RGB, 3 palette, 4 gray with alpha.
        row: the bytes of the row.
        width: in pixels.
        key: the content of its tRNS chunk.
        palette: the content of its PLTE chunk.
    """
    header = struct.pack(">IIBBBBB", width, 1, depth, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"PLTE", palette), (b"tRNS", key)]
    chunks += [(b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    written = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
        if data is not None
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def tiff(bits, photometric, row, width, sample_format=1, byte_order="<"):
    """Return an uncompressed gray TIFF of one row of packed numbers.

    Args:
        bits: of a number.
        photometric: 0 where 0 is white, 1 where it is black.
        row: the bytes of the row.
        width: in pixels.
        sample_format: 1 unsigned, 2 signed, 3 floating-point.
        byte_order: "<" or ">".
    """
    padded = row + b"\0" * (len(row) % 2)
    tags = [
        (256, 3, width), (257, 3, 1), (258, 3, bits), (259, 3, 1), (262, 3, photometric),
        (273, 4, 8), (277, 3, 1), (278, 3, 1), (279, 4, len(row)), (339, 3, sample_format),
    ]  # fmt: skip
    entries = [
        struct.pack(byte_order + "HHI", tag, kind, 1)
        + struct.pack(byte_order + ("HH" if kind == 3 else "I"), *((value, 0)[: 5 - kind]))
        for tag, kind, value in tags
    ]
    start = (b"II*\0" if byte_order == "<" else b"MM\0*") + struct.pack(
        byte_order + "I", 8 + len(padded)
    )
    count = struct.pack(byte_order + "H", len(tags))
    return start + padded + count + b"".join(entries) + bytes(4)


def tiff_of_planes(planes, width, compression):
    """Return an RGB TIFF of 16 bits and one row, its three planes behind each other.

    Args:
        planes: the stored bytes of each.
        width: in pixels.
        compression: 1 none, 8 zlib.
    """
    offsets, place = [], 8 + 18 * 2
    for plane in planes:
        offsets.append(place)
        place += len(plane) + len(plane) % 2
    shorts, longs, sizes = struct.pack("<3H", 16, 16, 16), offsets, [len(plane) for plane in planes]
    tables = shorts + bytes(2) + struct.pack("<3I", *longs) + struct.pack("<3I", *sizes)
    tags = [
        (256, 3, 1, width), (257, 3, 1, 1), (258, 3, 3, 8), (259, 3, 1, compression),
        (262, 3, 1, 2), (273, 4, 3, 16), (277, 3, 1, 3), (278, 3, 1, 1), (279, 4, 3, 28),
        (284, 3, 1, 2),
    ]  # fmt: skip
    body = tables + bytes(36 - len(tables))
    body += b"".join(plane + bytes(len(plane) % 2) for plane in planes)
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory


def exif(orientation, *, kind=3, others=()):
    """Return an EXIF block with an orientation, and further raw entries of 12 bytes.

    Args:
        orientation: 1 to 8.
        kind: TIFF's type of the number: 1 byte, 3 short, 4 long.
        others: (tag, type, count, 4 bytes) of each further entry, which may be nonsense.
    """
    entries = [(0x112, kind, 1, orientation.to_bytes(4, "little")), *others]
    body = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in sorted(entries))
    block = b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4)
    return b"Exif\0\0" + block


def jpeg_with_exif(jpeg, block):
    """Return a JPEG with an EXIF block put in behind its start."""
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]
