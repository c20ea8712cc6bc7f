"""`quiver export-page`: a page from real files, and one sentence for each mistake."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.export_page import main
from schemas.motion import SpectralVolume, encode
from tests.pages import opened_page, painted

ROOT = Path(__file__).resolve().parents[2]


def run(*args: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "jobs.command", "export-page", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"COLUMNS": "200"}, timeout=100)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """A photograph that its camera held sideways (red is the top, once it is upright), and motions."""
    folder = tmp_path_factory.mktemp("export")
    pixels = np.zeros((1600, 2000, 3), np.uint8)
    pixels[:, :200, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter: the stored bottom left is the upright top left
    Image.fromarray(pixels).save(folder / "photo.jpg", exif=exif)
    spectrum = np.random.default_rng(0).normal(size=(4, 4, 50, 40)).astype(np.float32)
    for name, part in (("motion", spectrum), ("wide", spectrum[:, :, :4]), ("one", spectrum[:1])):
        (folder / f"{name}.safetensors").write_bytes(encode(SpectralVolume(spectrum=part, fps=30.0, frames=150, made={})))
    (folder / "broken.safetensors").write_bytes(b"x" * 100)
    return {path.name: path for path in folder.iterdir()}


def test_a_photograph_becomes_an_upright_page_of_one_file(files, tmp_path):
    done = run(files["photo.jpg"], "--motion", files["motion.safetensors"], "--out", tmp_path / "page.html")
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 modes" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html").stat().st_size < 10_000_000
    with opened_page(tmp_path / "page.html") as (tab, complaints):
        assert tab.evaluate("[document.querySelector('canvas').width, document.querySelector('canvas').height]") == [1024, 1280]
        seen = painted(tab)
        middle = seen[:, seen.shape[1] // 2]
        assert middle[5, 0] > 200 > 50 > middle[-5, 0]
        tab.click("#record")
        tab.wait_for_timeout(400)
        with tab.expect_download() as saved:
            tab.click("#record")
        assert saved.value.suggested_filename == "photo.webm"
        assert saved.value.path().read_bytes()[:4] == b"\x1a\x45\xdf\xa3"
        assert not complaints
    with opened_page(tmp_path / "page.html", "--disable-gpu --disable-3d-apis", ready="!document.getElementById('sorry').hidden") as (tab, _):
        assert "WebGL 2" in tab.inner_text("main")
        assert not tab.locator("canvas").is_visible() and not tab.locator("button:visible").count()


@pytest.mark.parametrize(("photo", "motion", "out", "sentence"), [
    ("none.jpg", "motion.safetensors", "page.html", "none.jpg is not there, expected a photograph"),
    ("broken.safetensors", "motion.safetensors", "page.html", "is no picture that can be read"),
    ("photo.jpg", "none.safetensors", "page.html", "none.safetensors', which is not there, expected FILE.safetensors or DATASET KEY"),
    ("photo.jpg", "broken.safetensors", "page.html", "broken.safetensors', not a file of a spectral volume"),
    ("photo.jpg", "wide.safetensors", "page.html", "the motion is of 40x4 and the photograph of 1600x2000 pixels, expected nearly the same aspect"),
    ("photo.jpg", "one.safetensors", "page.html", "there is 1 frequency, expected at least 2"),
    ("photo.jpg", "motion.safetensors", "nowhere/page.html", "expected a file in a folder that is there"),
])  # fmt: skip
def test_a_mistake_is_one_sentence(files, tmp_path, capsys, photo, motion, out, sentence):
    folder = files["photo.jpg"].parent
    with pytest.raises(SystemExit) as stopped:
        main([str(folder / photo), "--motion", str(folder / motion), "--out", str(tmp_path / out)])
    told = capsys.readouterr().err
    assert stopped.value.code == 2
    assert sentence in told and told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_another_kind_of_file_is_refused(files, tmp_path):
    done = run(files["photo.jpg"], "--motion", files["motion.safetensors"], "--out", tmp_path / "p.txt")
    assert done.returncode == 2
    assert "expected a name that ends in .html" in done.stderr
    assert not list(tmp_path.iterdir())
