"""`quiver export-page`: a page from real files, and one sentence for each mistake."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.cli.errors import ExitCode
from jobs.export_page import main
from schemas.spectral_volume import SpectralVolume, encode_volume
from tests.support.datasets import write_dataset
from tests.support.pages import open_page, screenshot_canvas

ROOT = Path(__file__).resolve().parents[3]


def run(
    *args: str | Path, folder: Path = ROOT, before: Sequence[str] = ()
) -> subprocess.CompletedProcess:
    command = [*before, sys.executable, "-m", "jobs.cli.main", "export-page", *map(str, args)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"COLUMNS": "200", "PYTHONPATH": str(ROOT)},
        timeout=100,
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Motions, and a photograph taken sideways, whose top is red if it is turned upright."""
    folder = tmp_path_factory.mktemp("export")
    pixels = np.zeros((1600, 2000, 3), np.uint8)
    pixels[:, :200, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter: the stored bottom left is the upright top left
    Image.fromarray(pixels).save(folder / "photo.jpg", exif=exif)
    spectrum = np.random.default_rng(0).normal(size=(4, 4, 50, 40)).astype(np.float32)
    for name, part in (
        ("motion", spectrum),
        ("wide", spectrum[:, :, :4]),
        ("flat", spectrum[:, :, :25]),
        ("one", spectrum[:1]),
    ):
        (folder / f"{name}.safetensors").write_bytes(
            encode_volume(SpectralVolume(spectrum=part, fps=30.0, frames=150, provenance={}))
        )
    for name, shape, frames in (("large", (70, 4, 100, 160), 150), ("many", (130, 4, 5, 8), 400)):
        volume = SpectralVolume(
            spectrum=np.ones(shape, np.float32), fps=30.0, frames=frames, provenance={}
        )
        (folder / f"{name}.safetensors").write_bytes(encode_volume(volume))
    (folder / "broken.safetensors").write_bytes(b"x" * 100)
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "cut.jpg").write_bytes((folder / "photo.jpg").read_bytes()[:9000])
    Image.new("RGB", (36, 45)).save(folder / "tiny.png")
    Image.new("RGB", (160, 100)).save(folder / "landscape.png")
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.slow
def test_a_photograph_becomes_an_upright_page_of_one_file(files, tmp_path):
    done = run(
        files["photo.jpg"], "--motion", files["motion.safetensors"], "--out", tmp_path / "page.html"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 modes" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html").stat().st_size < 10_000_000
    with open_page(tmp_path / "page.html") as (tab, complaints):
        assert tab.evaluate(
            "[document.querySelector('canvas').width, document.querySelector('canvas').height]"
        ) == [1024, 1280]
        seen = screenshot_canvas(tab)
        middle = seen[:, seen.shape[1] // 2]
        assert middle[5, 0] > 200 > 50 > middle[-5, 0]
        tab.click("#record")
        tab.wait_for_timeout(400)
        with tab.expect_download() as saved:
            tab.click("#record")
        assert saved.value.suggested_filename == "photo.webm"
        assert saved.value.path().read_bytes()[:4] == b"\x1a\x45\xdf\xa3"
        assert not complaints


@pytest.mark.parametrize(
    ("photo", "motion", "out", "sentence"),
    [
        (
            "none.jpg",
            "motion.safetensors",
            "page.html",
            "none.jpg is missing, expected a photograph",
        ),
        ("broken.safetensors", "motion.safetensors", "page.html", "cannot be read as a picture"),
        (
            "empty.jpg",
            "motion.safetensors",
            "page.html",
            "empty.jpg cannot be read as a picture",
        ),
        ("cut.jpg", "motion.safetensors", "page.html", "cut.jpg cannot be read as a picture"),
        (
            "tiny.png",
            "motion.safetensors",
            "page.html",
            "the picture has 36x45 pixels, expected at least 40x50, the working size",
        ),
        (
            "landscape.png",
            "large.safetensors",
            "page.html",
            "MB, expected at most 10 MB: the motion has 70 frequencies",
        ),
        (
            "landscape.png",
            "many.safetensors",
            "page.html",
            "the motion has 130 frequencies, expected at most 129",
        ),
        (
            "photo.jpg",
            "none.safetensors",
            "page.html",
            "none.safetensors', which is missing, expected FILE.safetensors or DATASET KEY",
        ),
        (
            "photo.jpg",
            "broken.safetensors",
            "page.html",
            "broken.safetensors', not a file of a spectral volume",
        ),
        (
            "photo.jpg",
            "wide.safetensors",
            "page.html",
            "the motion is of 40x4 and the photograph of 1600x2000 pixels,"
            " expected nearly the same aspect",
        ),
        ("photo.jpg", "one.safetensors", "page.html", "there is 1 frequency, expected at least 2"),
        (
            "photo.jpg",
            "motion.safetensors",
            "nowhere/page.html",
            "expected a file in a folder that exists",
        ),
    ],
)
def test_a_mistake_is_one_sentence(files, tmp_path, capsys, photo, motion, out, sentence):
    (tmp_path / "page.html").write_text("an older page")
    folder = files["photo.jpg"].parent
    with pytest.raises(SystemExit) as stopped:
        main([str(folder / photo), "--motion", str(folder / motion), "--out", str(tmp_path / out)])
    told = capsys.readouterr().err
    assert stopped.value.code == ExitCode.USAGE
    assert sentence in told and told.count("\n") == 1
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [
        ("page.html", "an older page")
    ]


@pytest.mark.thorough
def test_the_command_itself_says_no_more_than_the_sentence(files, tmp_path):
    done = run(
        files["landscape.png"],
        "--motion",
        files["large.safetensors"],
        "--out",
        tmp_path / "page.html",
    )
    assert (done.returncode, done.stdout) == (ExitCode.USAGE, "")
    assert re.fullmatch(
        r"quiver: the page would have 1\d(?:\.\d)? MB, expected .* 70 frequencies\n", done.stderr
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="no folder in which nobody may write")
def test_a_folder_that_may_not_be_written_to(files):
    done = run(
        files["photo.jpg"], "--motion", files["motion.safetensors"], "--out", "/sys/page.html"
    )
    assert (done.returncode, done.stderr) == (
        ExitCode.STORAGE,
        "quiver: /sys/page.html: Permission denied\n",
    )


@pytest.mark.slow
def test_a_page_that_cannot_be_written_whole_leaves_the_older_one(files, tmp_path):
    out = tmp_path / "page.html"
    out.write_text("an older page")
    short = ["bash", "-c", 'ulimit -f 40; exec "$@"', "bash"]  # 40 KB
    done = run(
        files["photo.jpg"], "--motion", files["motion.safetensors"], "--out", out, before=short
    )
    assert (done.returncode, done.stderr) == (
        ExitCode.STORAGE,
        f"quiver: {out}: File too large, a file may have 41 kB (ulimit -f)\n",
    )
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [
        ("page.html", "an older page")
    ]


@pytest.mark.thorough
def test_a_title_is_a_heading_and_no_markup(files, tmp_path):
    words = "Mum & Dad's <script>tree</script>"
    done = run(
        files["photo.jpg"],
        "--motion",
        files["motion.safetensors"],
        "--out",
        tmp_path / "page.html",
        "--title",
        words,
    )
    assert (done.returncode, done.stderr) == (0, "")
    with open_page(tmp_path / "page.html") as (tab, complaints):
        assert tab.title() == tab.inner_text("h1") == words
        assert tab.get_attribute("canvas", "aria-label").startswith(words)
        assert not complaints


@pytest.mark.thorough
def test_a_name_that_is_no_text_is_still_a_title(files, tmp_path):
    photo = tmp_path / os.fsdecode(b"\xff.png")
    Image.new("RGB", (160, 100)).save(photo)
    done = run(photo, "--motion", files["flat.safetensors"], "--out", tmp_path / "page.html")
    assert (done.returncode, done.stderr) == (0, "")
    assert "<title>?</title>" in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--out", "p.txt", "expected a name that ends in .html"),
        ("--title", " ", "--title is ' ', expected words"),
    ],
)
def test_what_the_options_do_not_take(files, tmp_path, option, value, sentence):
    done = run(
        files["photo.jpg"],
        "--motion",
        files["motion.safetensors"],
        *(() if option == "--out" else ("--out", "p.html")),
        option,
        value,
        folder=tmp_path,
    )
    assert done.returncode == ExitCode.USAGE
    assert sentence in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_page_of_a_data_set_bears_the_clip_s_name(tmp_path):
    write_dataset(tmp_path / "dataset", {"train-000000": [{}]})
    main(["--motion", str(tmp_path / "dataset"), "--out", str(tmp_path / "page.html")])
    assert "<title>clip-train-000000-0</title>" in (tmp_path / "page.html").read_text()
