import os
import socket
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from pipeline.images.photo import crop_and_resize, read_photograph
from tests.support import profiles
from tests.support.videos import make_texture

PICTURE = make_texture(96, 64)
CHROMA = dict(jpg=dict(subsampling="4:4:4"), avif=dict(subsampling="4:4:4"), heic=dict(chroma=444))
"""Of lossy formats: as many samples of color as of brightness."""
LATTICE = np.stack(np.meshgrid(*[np.linspace(0, 255, 16)] * 3, indexing="ij"), axis=-1)
COLORS = np.rint(LATTICE).astype(np.uint8).reshape(64, 64, 3)
"""Every color in steps of 17 levels."""
GRAYS = np.arange(256, dtype=np.uint8)[None].repeat(16, 0)
UNUSABLE = "has an embedded color profile that cannot be used"


def saved(path, image, **options):
    image.save(path, **options)
    return path


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def near(found: np.ndarray, expected: np.ndarray, most: float = 2) -> None:
    """Raises AssertionError if a level of the picture is further than `most` from the right one."""
    assert found.dtype == np.uint8 and np.abs(found - np.asarray(expected, float)).max() <= most


def refused(path: Path, words: str) -> None:
    with pytest.raises(ValueError, match=words) as stopped:
        read_photograph(path)
    assert str(path) in str(stopped.value) and "\n" not in str(stopped.value)


def test_a_photograph_comes_out_upright_and_in_eight_bits(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = saved(tmp_path / "a.png", Image.fromarray(np.rot90(PICTURE).copy()), exif=exif)
    np.testing.assert_array_equal(read_photograph(turned), PICTURE)
    grey = PICTURE[..., 0]
    sixteen = saved(tmp_path / "b.png", Image.fromarray(grey.astype(np.uint16) * 257))
    np.testing.assert_array_equal(read_photograph(sixteen), np.dstack([grey] * 3))
    for mode, most in (("CMYK", 0), ("L", 0), ("P", 60)):
        path = saved(tmp_path / f"{mode}.tif", Image.fromarray(PICTURE).convert(mode))
        found = read_photograph(path)
        assert found.shape == PICTURE.shape and (
            mode == "L" or np.abs(found.astype(int) - PICTURE).mean() <= most
        )
    clear = np.dstack([PICTURE, np.zeros(PICTURE.shape[:2], np.uint8)])
    assert (read_photograph(saved(tmp_path / "c.png", Image.fromarray(clear))) == 255).all()
    frames = [Image.fromarray(PICTURE), Image.fromarray(255 - PICTURE)]
    frames[0].save(tmp_path / "d.webp", save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_array_equal(read_photograph(tmp_path / "d.webp"), PICTURE)


def test_what_is_no_picture_is_a_sentence(tmp_path):
    (tmp_path / "a.jpg").write_text("not a picture")
    cut = saved(tmp_path / "b.png", Image.fromarray(PICTURE))
    cut.write_bytes(cut.read_bytes()[:200])
    for name, words in (
        ("a.jpg", "cannot be read as a picture"),
        ("b.png", "cannot be read as a picture"),
        ("c.png", "is missing"),
    ):
        refused(tmp_path / name, words)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "heic", "avif"])
def test_every_orientation_of_every_format_comes_out_upright(tmp_path, suffix, orientation):
    stored = [
        PICTURE,
        PICTURE[:, ::-1],
        PICTURE[::-1, ::-1],
        PICTURE[::-1],
        PICTURE.transpose(1, 0, 2),
        np.rot90(PICTURE),
        PICTURE[::-1, ::-1].transpose(1, 0, 2),
        np.rot90(PICTURE, -1),
    ][orientation - 1]
    exif = Image.Exif()
    exif[0x0112] = orientation
    if suffix == "heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    options = dict(quality=95) | (
        dict(lossless=True) if suffix == "webp" else CHROMA.get(suffix, {})
    )
    path = saved(
        tmp_path / f"a.{suffix}", Image.fromarray(stored.copy()), exif=exif.tobytes(), **options
    )
    found = read_photograph(path)
    assert found.shape == PICTURE.shape and np.abs(found.astype(int) - PICTURE).mean() < 6


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg", "heic", "avif"])
@pytest.mark.parametrize(
    ("primaries", "exponent"),
    [
        (profiles.ADOBE_PRIMARIES, 563 / 256),
        (profiles.P3_PRIMARIES, 2.0),
        (profiles.REC709_PRIMARIES, 1.0),
    ],
)
def test_an_embedded_profile_says_what_the_colors_are(tmp_path, suffix, primaries, exponent):
    """Of lossy formats the colors are flat, so that what they lose is small."""
    lossy = suffix in ("jpg", "heic", "avif")
    colors = np.kron(COLORS[::9, ::9], np.ones((16, 16, 1), np.uint8)) if lossy else COLORS
    if suffix == "heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    options = dict(quality=100) | (dict(lossless=True) if suffix == "webp" else {})
    options |= CHROMA.get(suffix, {})
    plain = read_photograph(saved(tmp_path / f"plain.{suffix}", Image.fromarray(colors), **options))
    icc = profiles.matrix_profile(primaries, exponent)
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(colors), icc_profile=icc, **options)
    near(read_photograph(path), profiles.rgb_to_srgb((plain / 255) ** exponent, primaries))


def test_the_profile_of_a_palette_and_of_what_is_transparent_is_that_of_its_colors(tmp_path):
    icc = profiles.matrix_profile(profiles.ADOBE_PRIMARIES, 563 / 256)
    palette = Image.fromarray(COLORS).quantize(64)
    levels = np.asarray(palette.convert("RGB"))
    expected = profiles.rgb_to_srgb((levels / 255) ** (563 / 256), profiles.ADOBE_PRIMARIES)
    near(read_photograph(saved(tmp_path / "a.png", palette, icc_profile=icc)), expected)
    clear = np.dstack([COLORS, np.full(COLORS.shape[:2], 51, np.uint8)])
    laid = 0.8 * 255 + 0.2 * profiles.rgb_to_srgb(
        (COLORS / 255) ** (563 / 256), profiles.ADOBE_PRIMARIES
    )
    near(read_photograph(saved(tmp_path / "b.png", Image.fromarray(clear), icc_profile=icc)), laid)


def test_gray_is_seen_by_its_profile_or_by_a_screens(tmp_path):
    expected = np.dstack([profiles.encode_srgb(GRAYS / 255)] * 3)
    gray = profiles.gray_profile(1.0)
    for name, mode in (("a.png", "L"), ("b.tif", "L"), ("c.png", "LA")):
        near(
            read_photograph(
                saved(tmp_path / name, Image.fromarray(GRAYS).convert(mode), icc_profile=gray)
            ),
            expected,
        )
    screen = profiles.matrix_profile(profiles.P3_PRIMARIES, 1.0)
    near(
        read_photograph(saved(tmp_path / "d.png", Image.fromarray(GRAYS), icc_profile=screen)),
        expected,
    )
    sixteen = Image.fromarray(GRAYS.astype(np.uint16) * 257)
    near(read_photograph(saved(tmp_path / "e.png", sixteen, icc_profile=gray)), expected)


def test_cmyk_is_seen_by_its_profile_and_without_one_by_the_stated_rule(tmp_path):
    inks = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), axis=-1)
    lab = np.stack(
        [
            100 - inks @ [20, 25, 5, 45],
            30 * inks[..., 1] - 20 * inks[..., 0],
            40 * inks[..., 2] - 30 * inks[..., 0],
        ],
        axis=-1,
    )
    lab = lab * (1 - inks.prod(axis=-1, keepdims=True))
    flat = np.kron((255 * inks).astype(np.uint8).reshape(4, 4, 4), np.ones((16, 16, 1), np.uint8))
    expected = np.kron(
        profiles.lab_to_srgb(np.rint(lab * 2.55) / 2.55).reshape(4, 4, 3), np.ones((16, 16, 1))
    )
    picture = Image.frombytes("CMYK", (64, 64), flat.tobytes())
    for name in ("a.tif", "b.jpg"):
        options = dict(quality=100) if name == "b.jpg" else {}
        path = saved(tmp_path / name, picture, icc_profile=profiles.cmyk_profile(lab), **options)
        near(read_photograph(path), expected, 3)
    cmyk = np.dstack([COLORS, 255 - COLORS[..., 0]])
    rule = (255 - cmyk[..., :3].astype(float)) * (255 - cmyk[..., 3:].astype(float)) / 255
    plain = Image.frombytes("CMYK", (64, 64), cmyk.tobytes())
    near(read_photograph(saved(tmp_path / "c.tif", plain)), rule, 1)


def test_lab_is_a_color_as_well(tmp_path):
    lab = np.stack(
        np.meshgrid(
            np.arange(20, 90, 5), np.arange(-30, 31, 10), np.arange(-30, 31, 10), indexing="ij"
        ),
        axis=-1,
    )
    lab = lab.reshape(14, 49, 3)
    stored = (
        np.dstack([np.rint(lab[..., 0] * 2.55), lab[..., 1], lab[..., 2]])
        .astype(np.int16)
        .astype(np.uint8)
    )
    path = written(tmp_path / "a.tif", profiles.encode_tiff(stored, photometric=8))
    near(
        read_photograph(path),
        profiles.lab_to_srgb(np.dstack([np.rint(lab[..., 0] * 2.55) / 2.55, lab[..., 1:]])),
    )


def test_a_profile_that_cannot_be_used_is_a_sentence(tmp_path):
    sound = profiles.matrix_profile(profiles.P3_PRIMARIES, 2.2)
    other = profiles.cmyk_profile(np.zeros((2, 2, 2, 2, 3)))
    for number, broken in enumerate(
        (sound[:100], b"nothing of the kind", sound.replace(b"TRC", b"XXX"), other)
    ):
        refused(
            saved(tmp_path / f"{number}.png", Image.fromarray(COLORS), icc_profile=broken), UNUSABLE
        )
    cmyk = Image.fromarray(COLORS).convert("CMYK")
    refused(saved(tmp_path / "b.tif", cmyk, icc_profile=sound), f"{UNUSABLE}.*for RGB.*CMYK")


def test_changed_profiles_and_pictures_are_read_or_refused(tmp_path):
    chance, icc = np.random.default_rng(0), profiles.matrix_profile(profiles.ADOBE_PRIMARIES, 2.2)
    gray, lut = profiles.gray_profile(2.2), profiles.cmyk_profile(np.full((2, 2, 2, 2, 3), 50))
    small = Image.fromarray(COLORS[:16, :16])
    wholes = [
        (saved(tmp_path / "a.png", small, icc_profile=icc), icc),
        (saved(tmp_path / "a.jpg", small, icc_profile=icc), b""),
        (written(tmp_path / "a.tif", profiles.encode_tiff(GRAYS, icc=gray)), gray),
        (saved(tmp_path / "a.webp", small, icc_profile=icc), b""),
        (
            written(
                tmp_path / "b.tif",
                profiles.encode_tiff(np.zeros((8, 8, 4), np.uint8), photometric=5, icc=lut),
            ),
            lut,
        ),
        (saved(tmp_path / "a.avif", small, icc_profile=icc), b""),
    ]
    outcomes = set()
    for path, inside in wholes:
        whole = path.read_bytes()
        read_photograph(path)
        at = whole.find(inside) if inside and inside in whole else 0
        for _ in range(25):
            data = bytearray(whole)
            for place in at + chance.integers(0, len(inside) if at else len(whole), 4):
                data[place] = chance.integers(256)
            try:
                outcomes.add(read_photograph(written(path, bytes(data))).dtype.name)
            except ValueError as error:
                outcomes.add("refused")
                assert str(path) in str(error)
    assert outcomes == {"uint8", "refused"}


def be(*numbers: int) -> bytes:
    return struct.pack(f">{len(numbers)}I", *numbers)


P3_CORNERS = be(31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)


@pytest.mark.parametrize(
    ("chunks", "primaries", "exponent"),
    [
        (dict(gAMA=be(100000)), profiles.REC709_PRIMARIES, 1.0),
        (dict(cHRM=P3_CORNERS, gAMA=be(45455)), profiles.P3_PRIMARIES, 2.2),
        (dict(cHRM=P3_CORNERS, gAMA=be(100000)), profiles.P3_PRIMARIES, 1.0),
        (dict(cICP=bytes([12, 8, 0, 1])), profiles.P3_PRIMARIES, 1.0),
        (dict(cICP=bytes([12, 4, 0, 1])), profiles.P3_PRIMARIES, 2.2),
    ],
)
def test_chunks_of_a_png_say_what_its_colors_are(tmp_path, chunks, primaries, exponent):
    path = written(tmp_path / "a.png", profiles.encode_png(COLORS, **chunks))
    near(read_photograph(path), profiles.rgb_to_srgb((COLORS / 255) ** exponent, primaries))


@pytest.mark.parametrize(
    "chunks",
    [
        dict(gAMA=be(45455)),
        dict(sRGB=b"\0", gAMA=be(100000)),
        dict(gAMA=be(0)),
        dict(gAMA=be(2**31)),
        dict(cHRM=P3_CORNERS),
        dict(gAMA=be(100000), cHRM=bytes(32)),
        dict(gAMA=be(100000), cHRM=be(*[33333] * 8)),
        dict(cICP=bytes([1, 13, 0, 1])),
    ],
)
def test_chunks_that_say_nothing_else_leave_srgb_as_it_is(tmp_path, chunks):
    np.testing.assert_array_equal(
        read_photograph(written(tmp_path / "a.png", profiles.encode_png(COLORS, **chunks))), COLORS
    )


def test_p3_of_a_phone_and_of_the_web_by_code_points_alone(tmp_path):
    path = written(tmp_path / "a.png", profiles.encode_png(COLORS, cICP=bytes([12, 13, 0, 1])))
    expected = profiles.rgb_to_srgb(profiles.decode_srgb(COLORS), profiles.P3_PRIMARIES)
    near(read_photograph(path), expected)
    icc = profiles.matrix_profile(profiles.ADOBE_PRIMARIES, 1.0)
    both = dict(cICP=bytes([12, 13, 0, 1]), iCCP=b"a\0\0" + zlib.compress(icc))
    near(
        read_photograph(written(tmp_path / "b.png", profiles.encode_png(COLORS, **both))), expected
    )
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    flat = np.kron(COLORS[::9, ::9], np.ones((16, 16, 1), np.uint8))
    tagged = dict(
        quality=100,
        chroma=444,
        save_nclx_profile=True,
        color_primaries=12,
        transfer_characteristic=13,
    )
    path = saved(tmp_path / "c.heic", Image.fromarray(flat), **tagged)
    with Image.open(path) as image:
        plain = np.asarray(image)
    near(
        read_photograph(path),
        profiles.rgb_to_srgb(profiles.decode_srgb(plain), profiles.P3_PRIMARIES),
    )


def test_hdr_is_refused(tmp_path):
    for transfer, name in ((16, "PQ"), (18, "HLG")):
        path = written(
            tmp_path / "a.png", profiles.encode_png(COLORS, cICP=bytes([9, transfer, 0, 1]))
        )
        refused(path, rf"is HDR \({name}\), expected a picture of standard dynamic range")


def test_samples_of_more_bits_are_scaled_by_the_stated_rule(tmp_path):
    sixteen, expected = GRAYS.astype(np.uint16) * 257, np.dstack([GRAYS] * 3)
    twelve = np.rint(GRAYS / 255 * 4095).astype(np.uint16)
    for data, name in (
        (profiles.encode_tiff(sixteen), "a.tif"),
        (profiles.encode_tiff(65535 - sixteen, photometric=0), "b.tif"),
        (profiles.encode_tiff(twelve, bits=12), "c.tif"),
        (profiles.encode_tiff(twelve, more={281: 4095}), "d.tif"),
        (profiles.encode_tiff(GRAYS.astype(np.float32) / 255), "e.tif"),
        (profiles.encode_tiff(1 - GRAYS.astype(np.float32) / 255, photometric=0), "f.tif"),
        (profiles.encode_png(sixteen), "g.png"),
        (profiles.encode_png(np.dstack([sixteen] * 3)), "h.png"),
        (profiles.encode_tiff(np.dstack([sixteen] * 3), photometric=2), "i.tif"),
        (profiles.encode_tiff(GRAYS), "j.tif"),
    ):
        np.testing.assert_array_equal(
            read_photograph(written(tmp_path / name, data)), expected, name
        )
    black = np.zeros((4, 4), np.uint16)
    assert (read_photograph(written(tmp_path / "k.png", profiles.encode_png(black))) == 0).all()
    keyed = profiles.encode_png(sixteen, tRNS=struct.pack(">H", 0))
    assert (read_photograph(written(tmp_path / "l.png", keyed))[:, 0] == 255).all()


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (
            GRAYS.astype(np.int32) * 1000,
            "samples of mode I, integers with a sign or of 32 bits, of 0 to 255000, expected",
        ),
        (
            GRAYS.astype(np.uint32),
            "samples of mode I, integers with a sign or of 32 bits, of 0 to 255, expected",
        ),
        (GRAYS.astype(np.int16), "samples of mode I"),
        (GRAYS.astype(np.float32), "floating-point samples of 0 to 255, expected 0 to 1"),
        (
            np.where(GRAYS > 3, np.float32(0.5), np.float32("nan")),
            "floating-point samples of nan to nan, expected 0 to 1",
        ),
        (
            GRAYS.astype(np.uint16) * 16,
            "samples of 16 bits that are nowhere brighter than 16 of 255",
        ),
        (GRAYS.astype(np.uint16), "samples of 16 bits that are nowhere brighter than 1 of 255"),
    ],
)
def test_samples_whose_scale_is_not_known_are_refused(tmp_path, samples, words):
    refused(written(tmp_path / "a.tif", profiles.encode_tiff(samples)), words)


def test_twelve_bits_in_sixteen_of_a_color_picture_are_refused(tmp_path):
    twelve = COLORS.astype(np.uint16) * 16
    for name, data in (
        ("a.png", profiles.encode_png(twelve)),
        ("a.tif", profiles.encode_tiff(twelve, photometric=2)),
    ):
        refused(
            written(tmp_path / name, data),
            "samples of 16 bits that are nowhere brighter than 15 of 255",
        )


@pytest.mark.timeout(60)
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(tmp_path)
        listening.bind("socket.png")
        for name in ("pipe.png", "link.png", "folder.png", "socket.png"):
            refused(tmp_path / name, "is not a file, expected a photograph")
    refused(Path("/dev/zero"), "is not a file")
    refused(Path("/dev/null"), "is not a file")


def test_heif_without_its_package_names_the_extra(tmp_path, monkeypatch):
    pytest.importorskip("pillow_heif").register_heif_opener()
    path = saved(tmp_path / "a.heic", Image.fromarray(PICTURE), quality=95)
    assert read_photograph(path).shape == PICTURE.shape
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    refused(path, r"is a HEIF picture \(HEIC\), which needs pip install '\.\[heif\]'")


def test_avif_without_its_codec_names_the_extra(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.avif", Image.fromarray(PICTURE), quality=95)
    assert read_photograph(path).shape == PICTURE.shape
    monkeypatch.setattr(features, "check", lambda name: name != "avif")
    refused(path, r"is an AVIF picture, which needs Pillow 11\.3: pip install '\.\[heif\]'")


def test_a_bomb_of_text_is_refused_with_the_files_name(tmp_path):
    data = profiles.encode_png(COLORS, zTXt=b"Comment\0\0" + zlib.compress(bytes(80 << 20)))
    refused(written(tmp_path / "a.png", data), "cannot be read as a picture")


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    head = struct.pack(">IIBBBBB", 20_000, 8_000, 8, 2, 0, 0, 0)
    data = bytearray(profiles.encode_png(COLORS))
    data[16:33] = head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    refused(
        written(tmp_path / "a.png", bytes(data)),
        "has 20000x8000 pixels, expected at most 150,000,000 in all",
    )


def test_of_several_pictures_in_a_file_the_first_is_read(tmp_path):
    first, second = Image.fromarray(PICTURE), Image.fromarray(255 - PICTURE)
    for name, options in (("a.tif", {}), ("a.png", {}), ("a.mpo", dict(quality=95)), ("a.gif", {})):
        path = saved(tmp_path / name, first, save_all=True, append_images=[second], **options)
        assert np.abs(read_photograph(path).astype(int) - PICTURE).mean() < (
            12 if name[2:] in ("gif", "mpo") else 1
        ), name


def test_the_middle_is_taken_in_the_aspect_of_the_size():
    image = np.zeros((100, 400, 3), np.uint8)
    image[:, 120:280] = 255
    assert (crop_and_resize(image, (80, 50)) == 255).all() and crop_and_resize(
        image, (80, 50)
    ).shape == (50, 80, 3)
    with pytest.raises(ValueError, match="400x100 pixels, expected at least 256x160"):
        crop_and_resize(image, (256, 160))
