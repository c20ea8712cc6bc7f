"""Streams that are closed or full, a folder that is gone, limits of files and of memory: the right
exit code, and at most one sentence.
"""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.cli.errors import ExitCode
from pipeline.sizes import human_size
from schemas.spectral_volume import SpectralVolume, encode_volume
from tests.support.videos import make_texture, write_swaying

ROOT = Path(__file__).parents[3]
ANIMATE = ["animate", "photo.png", "--motion", "motion.safetensors", "--seconds", "1"]
BY_VIDEO = ["animate", "--motion-from", "clip.mp4", "--seconds", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a photograph, a motion for it, and a clip."""
    folder = tmp_path_factory.mktemp("streams")
    Image.fromarray(make_texture(128, 80)).save(folder / "photo.png")
    spectrum = np.random.default_rng(0).normal(size=(4, 4, 40, 64)).astype(np.float32)
    volume = SpectralVolume(spectrum=spectrum, frames=60, fps=30.0, provenance={})
    (folder / "motion.safetensors").write_bytes(encode_volume(volume))
    write_swaying(folder / "clip.mp4", seconds=5.2)
    return folder


def quiver(
    folder: Path, *words: str, before=lambda: None, **streams
) -> subprocess.CompletedProcess:
    """Runs the verb in a process of its own, in which `before` was called first."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    options = (
        dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) | streams
    )
    return subprocess.run(
        [sys.executable, "-m", "jobs.cli.main", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        preexec_fn=before,
        text=True,
        timeout=280,
        **options,
    )


def closing(*numbers: int):
    def close() -> None:
        for number in numbers:
            os.close(number)

    return close


def limited(kind: int, most: int):
    return lambda: resource.setrlimit(kind, (most, most))


CLOSED = [(1,), (0, 1, 2)]


@pytest.mark.thorough
@pytest.mark.parametrize("numbers", CLOSED)
@pytest.mark.parametrize("words", [ANIMATE, BY_VIDEO], ids=["file", "decoder"])
def test_closed_streams_change_no_file_and_no_code(folder, tmp_path, words, numbers):
    files = []
    for name, before in (("open.mp4", lambda: None), ("closed.mp4", closing(*numbers))):
        found = quiver(folder, *words, "--out", str(tmp_path / name), before=before)
        assert found.returncode == 0, found.stderr
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]
    assert (1 in numbers) == (found.stdout == "") and "Traceback" not in found.stderr
    assert 2 not in numbers or found.stderr == ""


@pytest.mark.thorough
@pytest.mark.parametrize("numbers", CLOSED)
def test_a_mistake_has_its_code_whatever_is_closed(folder, numbers):
    for words, code in ((["status", "nowhere"], 2), (["nothing"], 2), (["--help"], 0)):
        found = quiver(folder, *words, before=closing(*numbers))
        assert found.returncode == code and "Traceback" not in found.stderr, found.stderr
        assert (found.stderr.count("\n") == 1) == (code == 2 and 2 not in numbers)


@pytest.mark.thorough
def test_a_run_with_closed_streams_commits_the_same(folder, tmp_path):
    """Ray, its workers and their decoders keep the streams closed, too."""
    size = ["--size", "96x64", "--frames", "48", "--fps", "12", "--filters", "none"]
    shards = []
    for name, before in (("open", lambda: None), ("closed", closing(0, 1, 2))):
        words = [
            "extract-flow",
            "--clips",
            "clip.mp4",
            "--out",
            str(tmp_path / name),
            "--workers",
            "1",
            *size,
        ]
        found = quiver(folder, *words, before=before)
        assert found.returncode == 0, found.stderr
        shards.append(
            {path.name: path.read_bytes() for path in sorted((tmp_path / name).rglob("*.tar"))}
        )
    assert shards[0] and shards[0] == shards[1]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["doctor", "--json"], ANIMATE], ids=" ".join
)
def test_a_full_standard_output_is_named(folder, tmp_path, words):
    words = [*words, "--out", str(tmp_path / "a.mp4")] if words == ANIMATE else words
    with open("/dev/full", "w") as full:
        found = quiver(folder, *words, stdout=full)
        assert found.returncode == ExitCode.STORAGE, found.stderr
        assert found.stderr.splitlines()[-1] == "quiver: standard output: No space left on device"
        assert "Traceback" not in found.stderr
        found = quiver(folder, *words, stderr=full)
        assert found.returncode in (0, ExitCode.FAILURE) and found.stdout  # doctor may find a fault


def test_a_working_folder_that_was_removed_is_a_sentence(folder, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()

    def remove() -> None:
        os.rmdir(os.getcwd())

    for words in (["status", "x"], ANIMATE):
        gone.mkdir(exist_ok=True)
        found = quiver(gone, *words, "--out", "a.mp4", before=remove)
        assert found.returncode == ExitCode.STORAGE
        assert (
            found.stderr == "quiver: the working folder was removed, or cannot be reached: "
            "change to another one\n"
        )


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp"])
def test_a_limit_on_the_size_of_files_names_the_file_and_the_limit(folder, tmp_path, name):
    out = str(tmp_path / name)
    found = quiver(folder, *ANIMATE, "--out", out, before=limited(resource.RLIMIT_FSIZE, 2000))
    said = found.stderr.splitlines()[-1]
    assert found.returncode == ExitCode.STORAGE and "Traceback" not in found.stderr
    assert said == f"quiver: {out}: File too large, a file may have 2 kB (ulimit -f)"
    assert os.listdir(tmp_path) == []


@pytest.mark.thorough
def test_clips_and_runs_under_a_limit_on_the_size_of_files_name_what_it_stopped(folder, tmp_path):
    limit = limited(resource.RLIMIT_FSIZE, 2000)
    for words in (["make-clips", "--out", str(tmp_path / "clips"), "--seconds", "5"],):
        found = quiver(folder, *words, before=limit)
        assert found.returncode == ExitCode.STORAGE and "None" not in found.stderr
        assert found.stderr.splitlines()[-1].endswith(
            "File too large, a file may have 2 kB (ulimit -f)"
        )
        assert "Traceback" not in found.stderr, found.stderr


@pytest.mark.thorough
@pytest.mark.parametrize(
    "words",
    [
        ["animate", "large.png", "--motion", "motion.safetensors", "--out", "a.mp4"],
        ["export-page", "large.png", "--motion", "motion.safetensors", "--out", "a.html"],
        ["animate", "photo.png", "--motion", "large.safetensors", "--out", "a.mp4"],
    ],
    ids=["photograph", "page", "motion"],
)
def test_too_little_memory_is_a_sentence(folder, words):
    """More memory is asked for than the limit, whatever the libraries take."""
    if not (folder / "large.png").exists():
        Image.new("L", (14_000, 10_000)).save(folder / "large.png")
        spectrum = np.zeros((40, 4, 1000, 1600), np.float32)
        volume = SpectralVolume(spectrum=spectrum, frames=100, fps=30.0, provenance={})
        (folder / "large.safetensors").write_bytes(encode_volume(volume))
    found = quiver(folder, *words, before=limited(resource.RLIMIT_DATA, 1000 << 20))
    assert found.returncode == ExitCode.FAILURE and found.stdout == ""
    assert re.fullmatch(r"quiver: there is not enough memory for this \(.*\)\n", found.stderr), (
        found.stderr
    )


@pytest.mark.thorough
def test_every_librarys_words_for_too_little_memory_are_understood():
    """Each library raises its real error when it asks for more than any machine has."""
    script = """
import sys
import numpy as np, torch, cv2, pyarrow as pa
sys.argv = ["quiver"]
from jobs.cli.errors import error_boundary
asked = {
    "python": lambda: bytearray(1 << 60),
    "numpy": lambda: np.empty(1 << 58, np.float64),
    "torch": lambda: torch.empty(1 << 58),
    "opencv": lambda: cv2.resize(np.zeros((2, 2), np.uint8), (2**31 - 1, 2**31 - 1)),
    "arrow": lambda: pa.allocate_buffer(1 << 60),
}
with error_boundary():
    asked[sys.stdin.read()]()
"""
    for library in ("python", "numpy", "torch", "opencv", "arrow"):
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        found = subprocess.run(
            [sys.executable, "-c", script],
            input=library,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )
        assert found.returncode == ExitCode.FAILURE, (library, found.stderr)
        assert found.stderr.startswith("quiver: there is not enough memory for this ("), library
        assert found.stderr.count("\n") == 1 and not re.search(r"\d{4,} bytes", found.stderr)


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (1024, "1.02 kB"),
        (999_000, "999 kB"),
        (12_637_347_840, "12.6 GB"),
        (150e6, "150 MB"),
        (2.5e15, "2500 TB"),
    ],
)
def test_bytes_are_written_as_a_person_reads_them(count, words):
    assert human_size(count) == words
