"""Color profiles and images built byte by byte, and their colors computed from the formulas
alone.
"""

import struct
import zlib

import numpy as np

ADOBE_PRIMARIES = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
P3_PRIMARIES = ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06))
REC709_PRIMARIES = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
"""Red, green and blue as CIE x, y; white is D65."""
D65, D50 = (0.3127, 0.3290), (0.9642, 1.0, 0.8249)
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def xy_to_xyz(x: float, y: float) -> np.ndarray:
    return np.array([x / y, 1, (1 - x - y) / y])


def rgb_to_xyz_matrix(primaries) -> np.ndarray:
    """The matrix from linear RGB to CIE XYZ of D65."""
    columns = np.stack([xy_to_xyz(*corner) for corner in primaries], axis=1)
    return columns * np.linalg.solve(columns, xy_to_xyz(*D65))


def d65_to_d50_matrix() -> np.ndarray:
    gain = (BRADFORD @ np.array(D50)) / (BRADFORD @ xy_to_xyz(*D65))
    return np.linalg.inv(BRADFORD) @ np.diag(gain) @ BRADFORD


def encode_srgb(linear: np.ndarray) -> np.ndarray:
    """sRGB levels, 0 to 255, of linear RGB [..., 3]; values outside the gamut are clipped."""
    light = np.clip(linear, 0, 1)
    curve = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return 255 * curve


def decode_srgb(levels: np.ndarray) -> np.ndarray:
    """Linear light, 0 to 1, of sRGB levels."""
    value = np.asarray(levels) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def rgb_to_srgb(linear: np.ndarray, primaries) -> np.ndarray:
    """sRGB levels of linear RGB [..., 3] with these primaries."""
    return encode_srgb(
        linear
        @ (np.linalg.inv(rgb_to_xyz_matrix(REC709_PRIMARIES)) @ rgb_to_xyz_matrix(primaries)).T
    )


def lab_to_srgb(lab: np.ndarray) -> np.ndarray:
    """sRGB levels of CIE Lab of D50 [..., 3]."""
    level, a, b = np.moveaxis(np.asarray(lab, float), -1, 0)
    fy = (level + 16) / 116
    f = np.stack([fy + a / 500, fy, fy - b / 200], axis=-1)
    linear = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    to_srgb = np.linalg.inv(rgb_to_xyz_matrix(REC709_PRIMARIES)) @ np.linalg.inv(
        d65_to_d50_matrix()
    )
    return encode_srgb(linear * D50 @ to_srgb.T)


def pack_fixed_point(*numbers: float) -> bytes:
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


def make_icc_profile(
    kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]
) -> bytes:
    """Builds an ICC profile of version 2.1."""
    start, table, data = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        padded = tag + bytes(-len(tag) % 4)
        table += name + struct.pack(">II", start + len(data), len(tag))
        data += padded
    head = struct.pack(
        ">I4sI4s4s4s12s4s",
        start + len(data),
        b"",
        0x02100000,
        kind,
        space,
        connection,
        b"",
        b"acsp",
    )
    return (head + bytes(28) + pack_fixed_point(*D50)).ljust(128, b"\0") + table + data


def gamma_curve(exponent: float) -> bytes:
    """A gamma curve, whose exponent has eight fractional bits."""
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(exponent * 256))


def matrix_profile(primaries, exponent: float) -> bytes:
    columns = (d65_to_d50_matrix() @ rgb_to_xyz_matrix(primaries)).T
    tags = {
        f"{name}XYZ".encode(): b"XYZ \0\0\0\0" + pack_fixed_point(*column)
        for name, column in zip("rgb", columns, strict=True)
    }
    tags |= {f"{name}TRC".encode(): gamma_curve(exponent) for name in "rgb"}
    return make_icc_profile(
        b"mntr", b"RGB ", b"XYZ ", tags | {b"wtpt": b"XYZ \0\0\0\0" + pack_fixed_point(*D50)}
    )


def gray_profile(exponent: float) -> bytes:
    return make_icc_profile(
        b"mntr",
        b"GRAY",
        b"XYZ ",
        {b"kTRC": gamma_curve(exponent), b"wtpt": b"XYZ \0\0\0\0" + pack_fixed_point(*D50)},
    )


def cmyk_profile(corners: np.ndarray) -> bytes:
    """A profile with the Lab of each mixture of full inks, [C, M, Y, K, 3] with two entries each; L
    is 0 to 100.
    """
    table = np.rint(np.asarray(corners) * [2.55, 1, 1] + [0, 128, 128]).astype(np.uint8)
    line = bytes(range(256))
    lut = (
        b"mft1\0\0\0\0"
        + bytes([4, 3, 2, 0])
        + pack_fixed_point(*np.eye(3).ravel())
        + 4 * line
        + table.tobytes()
        + 3 * line
    )
    return make_icc_profile(
        b"prtr", b"CMYK", b"Lab ", {b"A2B0": lut, b"wtpt": b"XYZ \0\0\0\0" + pack_fixed_point(*D50)}
    )


def encode_tiff(
    samples: np.ndarray,
    *,
    photometric: int = 1,
    bits: int | None = None,
    icc: bytes = b"",
    more: dict[int, int] | None = None,
) -> bytes:
    """An uncompressed TIFF of [rows, columns] or [rows, columns, channels]; 12-bit samples are
    packed two in three bytes.
    """
    rows, columns = samples.shape[:2]
    channels, kind = samples.size // (rows * columns), {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    data = samples.astype(samples.dtype.newbyteorder("<")).tobytes()
    if bits == 12:
        pairs = samples.reshape(-1, 2).astype(np.uint32)
        packed = (pairs[:, 0] << 12) | pairs[:, 1]
        data = packed.astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()
    each = bits or 8 * samples.dtype.itemsize
    shorts = {256: columns, 257: rows, 259: 1, 262: photometric, 277: channels, 278: rows} | (
        more or {}
    )
    entries = {tag: (3, 1, struct.pack("<HH", value, 0)) for tag, value in shorts.items()}
    extra, at = b"", 8 + len(data)

    def elsewhere(content: bytes) -> bytes:
        nonlocal extra
        content += bytes(-len(content) % 2)
        extra += content
        return struct.pack("<I", at + len(extra) - len(content))

    for tag, value in ((258, each), (339, kind)):
        many = struct.pack(f"<{channels}H", *[value] * channels)
        entries[tag] = (3, channels, elsewhere(many) if channels > 2 else many.ljust(4, b"\0"))
    entries[273], entries[279] = (4, 1, struct.pack("<I", 8)), (4, 1, struct.pack("<I", len(data)))
    if icc:
        entries[34675] = (7, len(icc), elsewhere(icc))
    table = struct.pack("<H", len(entries))
    for tag, (type_, count, value) in sorted(entries.items()):
        table += struct.pack("<HHI", tag, type_, count) + value
    return b"II*\0" + struct.pack("<I", at + len(extra)) + data + extra + table + bytes(4)


def encode_png(samples: np.ndarray, **chunks: bytes) -> bytes:
    """A PNG of gray or RGB, of 8 or 16 bits, with these chunks before its samples."""
    rows, columns = samples.shape[:2]

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(
        ">IIBBBBB",
        columns,
        rows,
        8 * samples.dtype.itemsize,
        2 if samples.ndim == 3 else 0,
        0,
        0,
        0,
    )
    lines = b"".join(
        b"\0" + line.astype(line.dtype.newbyteorder(">")).tobytes() for line in samples
    )
    between = b"".join(chunk(name.encode(), data) for name, data in chunks.items())
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + between
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )
