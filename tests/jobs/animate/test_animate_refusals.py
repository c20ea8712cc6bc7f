"""Pictures and motion that cannot be used: one sentence, its exit code, nothing left behind."""

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs import animate
from jobs.cli.errors import ExitCode
from schemas.spectral_volume import SpectralVolume, encode_volume
from tests.support.videos import make_texture

ROOT = Path(__file__).resolve().parents[3]
SIZE = (48, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A photograph and motion for it."""
    folder = tmp_path_factory.mktemp("refusals")
    Image.fromarray(make_texture(96, 64)).save(folder / "photo.png")
    (folder / "motion.safetensors").write_bytes(motion(SIZE))
    return folder


def motion(size: tuple[int, int], *, largest: float = 60.0, fps: float = 30.0) -> bytes:
    """Of two frequencies of 60 frames; equal everywhere but in its middle."""
    spectrum = np.ones((2, 4, size[1], size[0]), np.float32)
    spectrum[1, 0, size[1] // 2 : size[1] // 2 + 1, size[0] // 2 : size[0] // 2 + 1] = largest
    return encode_volume(SpectralVolume(spectrum=spectrum, fps=fps, frames=60, provenance={}))


def refused(capsys, out: Path, *arguments: object) -> tuple[int, str]:
    """Exit code and sentence; leaves nothing."""
    before = sorted(out.absolute().parent.iterdir())
    with pytest.raises(SystemExit) as stopped:
        animate.main([str(argument) for argument in (*arguments, "--out", out)])
    (said,) = capsys.readouterr().err.splitlines()
    assert sorted(out.absolute().parent.iterdir()) == before
    return int(str(stopped.value.code)), said


@pytest.mark.parametrize("size", [(1, 1), (16, 9), (47, 32)])
def test_a_tiny_picture(folder, tmp_path, capsys, size):
    Image.new("RGB", size).save(folder / "tiny.png")
    code, said = refused(
        capsys, tmp_path / "a.mp4", folder / "tiny.png", "--motion", folder / "motion.safetensors"
    )
    assert (code, said) == (
        ExitCode.USAGE,
        f"quiver: the picture has {size[0]}x{size[1]} pixels,"
        " expected at least 48x32, the working size",
    )


def test_a_picture_as_tiny_as_its_motion_moves(folder, tmp_path):
    Image.fromarray(make_texture(16, 9)).save(folder / "small.png")
    (folder / "small.safetensors").write_bytes(motion((16, 9)))
    for suffix in (".mp4", ".webm", ".gif", ".webp"):
        animate.main(
            [
                str(folder / "small.png"),
                "--motion",
                str(folder / "small.safetensors"),
                "--seconds",
                "0.3",
                "--out",
                str(tmp_path / f"a{suffix}"),
            ]
        )
        assert (tmp_path / f"a{suffix}").stat().st_size > 100


@pytest.mark.parametrize("name", ["text.jpg", "empty.png", "cut.png", "cut.jpg"])
@pytest.mark.parametrize("option", ["PHOTO", "--mask"])
def test_a_picture_that_cannot_be_read(folder, tmp_path, capsys, name, option):
    broken = folder / name
    broken.write_bytes(b"no picture" if "text" in name else b"")
    if name.startswith("cut"):
        Image.fromarray(make_texture(96, 64)).save(broken)
        broken.write_bytes(broken.read_bytes()[:700])
    pictures = [broken] if option == "PHOTO" else [folder / "photo.png", "--mask", broken]
    code, said = refused(
        capsys, tmp_path / "a.mp4", *pictures, "--motion", folder / "motion.safetensors"
    )
    assert code == ExitCode.USAGE and f"{broken} cannot be read as a picture" in said


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            motion((96, 65)),
            "the picture has 96x64 pixels, expected at least 96x65, the working size",
        ),
        (
            motion((1, 1)),
            "spectrum is float32[2, 4, 1, 1],"
            " expected float32[K, 4, height, width] of at least 2x2 pixels",
        ),
        (motion((0, 0)), "spectrum is float32[2, 4, 0, 0], expected"),
        (motion(SIZE, largest=float("nan")), "spectrum has values that are not finite"),
        (motion(SIZE, largest=-float("inf")), "spectrum has values that are not finite"),
        (
            motion(SIZE, largest=-3e38),
            "spectrum has values of up to 3e+38 pixels, expected at most 1e+09",
        ),
        (
            motion(SIZE, fps=0.001),
            "the motion would last 60000 s, expected at most 600: say --seconds",
        ),
        (motion(SIZE)[:-1], "not a file of a spectral volume"),
    ],
    ids=["larger", "one pixel", "no pixel", "nan", "inf", "huge", "hours", "cut"],
)
def test_motion_that_cannot_be_used(folder, tmp_path, capsys, data, said):
    (folder / "broken.safetensors").write_bytes(data)
    code, sentence = refused(
        capsys, tmp_path / "a.mp4", folder / "photo.png", "--motion", folder / "broken.safetensors"
    )
    assert code == ExitCode.USAGE and said in sentence


@pytest.mark.parametrize(
    ("option", "name", "said"),
    [
        ("--mask", "wide.png", "of 96x20 pixels, expected the shape of the photograph"),
        ("--renderer", "nowhere", "nowhere"),
    ],
)
def test_what_needs_no_motion_is_said_before_it_is_measured(
    folder, tmp_path, capsys, option, name, said
):
    """The video is none."""
    Image.new("RGB", (96, 20)).save(folder / "wide.png")
    (folder / "video.mp4").write_bytes(b"no video")
    code, sentence = refused(
        capsys,
        tmp_path / "a.mp4",
        folder / "photo.png",
        "--motion-from",
        folder / "video.mp4",
        option,
        folder / name,
    )
    assert code == ExitCode.USAGE and said in sentence and "video.mp4" not in sentence


def test_a_video_that_is_none(folder, tmp_path, capsys):
    (folder / "none.mp4").write_bytes(b"no video")
    assert refused(capsys, tmp_path / "a.mp4", "--motion-from", folder / "none.mp4") == (
        ExitCode.USAGE,
        f"quiver: {folder / 'none.mp4'} cannot be used: is not a video",
    )


def test_motion_of_another_aspect_moves_the_middle_of_the_photograph(folder, tmp_path, capsys):
    (folder / "tall.safetensors").write_bytes(motion((24, 48)))
    animate.main(
        [
            str(folder / "photo.png"),
            "--motion",
            str(folder / "tall.safetensors"),
            "--seconds",
            "0.3",
            "--out",
            str(tmp_path / "tall"),
        ]
    )
    assert "of the picture's 96x64 pixels its middle, 32x64, is shown" in capsys.readouterr().err
    with (
        Image.open(tmp_path / "tall" / "frame-0000.png") as first,
        Image.open(folder / "photo.png") as photo,
    ):
        np.testing.assert_array_equal(np.array(first), np.array(photo)[:, 32:64])


@pytest.mark.parametrize(
    ("place", "code", "said"),
    [
        ("/proc/film.mp4", ExitCode.STORAGE, "/proc/film.mp4: "),
        ("/proc/film", ExitCode.STORAGE, "/proc/film: "),
        (
            "photo.png/film.mp4",
            ExitCode.USAGE,
            "--out is 'photo.png/film.mp4', expected a file in a folder that exists",
        ),
        (
            "photo.png/film",
            ExitCode.USAGE,
            "--out is 'photo.png/film', expected a file in a folder that exists",
        ),
    ],
)
def test_a_place_where_no_file_can_be(folder, capsys, monkeypatch, place, code, said):
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    with pytest.raises(SystemExit) as stopped:
        animate.main(
            ["photo.png", "--motion", "motion.safetensors", "--seconds", "0.3", "--out", place]
        )
    told = [line for line in capsys.readouterr().err.splitlines() if not line.endswith(" frames")]
    assert stopped.value.code == code and len(told) == 1 and said in told[0]
    assert sorted(folder.iterdir()) == before and not list(Path("/proc").glob(".quiver-*"))


def black(path: Path, side: int) -> Path:
    """A png of so many pixels a side, one bit each, every row of which is there."""
    rows, row = zlib.compressobj(9), bytes(1 + (side + 7) // 8)
    data = b"".join([*(rows.compress(row) for _ in range(side)), rows.flush()])
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", data), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d))
            for n, d in parts
        )
    )
    return path


def stopped_command(*arguments: object) -> tuple[int, str, int]:
    """Exit code, sentence and largest memory (MB) of the command in a process of its own."""
    command = [sys.executable, "-m", "jobs.cli.main", "animate", *map(str, arguments)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"COLUMNS": "200"}, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    return process.returncode, said, used.ru_maxrss >> 10


@pytest.mark.thorough
def test_a_picture_of_countless_pixels_is_refused_before_it_is_decoded(folder, tmp_path):
    Image.new("RGB", (1, 1)).save(folder / "tiny.png")
    options = ["--motion", folder / "motion.safetensors", "--out", tmp_path / "a.mp4"]
    _, _, least = stopped_command(folder / "tiny.png", *options)
    for side in (13_000, 30_000):  # which would be 0.5 and 2.7 GB
        bomb = black(folder / "bomb.png", side)
        assert bomb.stat().st_size < 1_000_000
        code, said, most = stopped_command(bomb, *options)
        assert (
            code == ExitCode.USAGE
            and said.count("\n") == 1
            and "expected at most 150,000,000 in all" in said
        )
        assert most < least + 100 and not list(tmp_path.iterdir())
