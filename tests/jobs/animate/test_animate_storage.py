"""Where the result cannot be put, or what it is made of is not finite: a sentence, its exit code,
nothing left behind, an older file as it was.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs import animate
from jobs.cli.errors import ExitCode
from schemas.spectral_volume import SpectralVolume, encode_volume

SUFFIXES = [".mp4", ".webm", ".gif", ".webp", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A photograph of grain, which no codec makes small, and motion of all of it."""
    folder = tmp_path_factory.mktemp("made")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (240, 360, 3), np.uint8)).save(
        folder / "photo.png"
    )
    (folder / "motion.safetensors").write_bytes(encode_volume(volume()))
    return folder


def volume(worst: float = 60.0) -> SpectralVolume:
    spectrum = np.zeros((4, 4, 32, 48), np.float32)
    spectrum[1] = 60
    spectrum[2, 0, 3, 4] = worst
    return SpectralVolume(spectrum=spectrum, fps=30.0, frames=60, provenance={})


@pytest.fixture
def disk(tmp_path_factory) -> Iterator[Path]:
    """A small one."""
    root = tmp_path_factory.mktemp("disk")
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(root)], capture_output=True
    ).returncode:
        pytest.skip("this user may not mount a file system")
    yield root
    # lazily: PyAV leaves a file open of which not even the beginning could be written
    subprocess.run(["umount", "-l", str(root)], check=True)


def fill(disk: Path, left: int) -> None:
    """Leaves so many bytes."""
    found = os.statvfs(disk)
    with (disk / "filling").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, found.f_bavail * found.f_frsize - left)


def refused(capsys, folder: Path, *arguments: object) -> tuple[int, str]:
    """Exit code and the one sentence that is not about progress."""
    with pytest.raises(SystemExit) as stopped:
        animate.main(
            [str(argument) for argument in (folder / "photo.png", "--seconds", 1, *arguments)]
        )
    said = [line for line in capsys.readouterr().err.splitlines() if not line.endswith(" frames")]
    assert len(said) == 1, said
    return int(str(stopped.value.code)), said[0].removeprefix("quiver: ")


@pytest.mark.sample(14)
@pytest.mark.slow
@pytest.mark.parametrize("room", [0, 4, 100, 400])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk(folder, disk, capsys, suffix, room):
    out = disk / f"film{suffix}"
    if suffix:
        out.write_bytes(b"an older one")
    fill(disk, room << 10)
    before = sorted(path.name for path in disk.iterdir())
    code, said = refused(capsys, folder, "--motion", folder / "motion.safetensors", "--out", out)
    assert code == ExitCode.STORAGE and re.fullmatch(
        rf"{out}: No space left on device, [\d.]+ (bytes|[kMG]B) are free there", said
    )
    assert sorted(path.name for path in disk.iterdir()) == before
    assert not suffix or out.read_bytes() == b"an older one"


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ""])
def test_a_folder_that_may_not_be_written_to(folder, disk, capsys, suffix):
    out = disk / f"film{suffix}"
    if suffix:
        out.write_bytes(b"an older one")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    code, said = refused(capsys, folder, "--motion", folder / "motion.safetensors", "--out", out)
    assert (code, said) == (ExitCode.STORAGE, f"{out}: Read-only file system")
    assert list(disk.iterdir()) == ([out] if suffix else []) and (
        not suffix or out.read_bytes() == b"an older one"
    )


@pytest.mark.parametrize("worst", [np.nan, np.inf])
def test_motion_that_is_not_finite(folder, tmp_path, capsys, worst):
    whole = encode_volume(volume(worst))
    (tmp_path / "broken.safetensors").write_bytes(whole)
    (tmp_path / "film.mp4").write_bytes(b"an older one")
    code, said = refused(
        capsys, folder, "--motion", tmp_path / "broken.safetensors", "--out", tmp_path / "film.mp4"
    )
    assert code == ExitCode.USAGE and said.endswith(
        "not a file of a spectral volume: spectrum has values that are not finite"
    )
    assert (tmp_path / "film.mp4").read_bytes() == b"an older one" and len(
        list(tmp_path.iterdir())
    ) == 2
