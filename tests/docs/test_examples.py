"""The example scripts, and the code of the notebooks, on a small dataset."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.docs.pages import ROOT
from tests.support.datasets import CONFIG, write_dataset
from tests.support.videos import make_texture, write_swaying

EXAMPLES = ROOT / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
MAX_NOTEBOOK_BYTES = 100_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder as a checkout is after `make demo`, with a photograph and a video."""
    folder = tmp_path_factory.mktemp("examples")
    shards = {"train-000000": [{}] * 4, "test-000000": [{}]}
    write_dataset(folder / "demo" / "dataset", shards, config=replace(CONFIG, size=(64, 48)))
    Image.fromarray(make_texture(320, 200)).save(folder / "photo.png")
    write_swaying(folder / "video.mp4", size=(320, 200), seconds=1.2)
    return folder


def run_script(path: Path, folder: Path, *arguments: str) -> str:
    """What the script prints, run in the folder; figures are drawn and not shown."""
    quick = {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", "STEPS": "1", "DDIM_STEPS": "2"}
    done = subprocess.run(
        [sys.executable, str(path), *arguments],
        cwd=folder,
        env=os.environ | quick,
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_read_dataset(folder):
    printed = run_script(EXAMPLES / "read_dataset.py", folder, "demo/dataset")
    assert "5 samples in demo/dataset" in printed and " Hz, up to " in printed


def test_train_network(folder):
    printed = run_script(EXAMPLES / "train_network.py", folder, "demo/dataset", "10")
    assert "step 10: loss" in printed


@pytest.mark.slow
def test_move_photograph(folder):
    run_script(EXAMPLES / "move_photograph.py", folder, "photo.png", "video.mp4", "loop.gif")
    with Image.open(folder / "loop.gif") as loop:
        assert loop.n_frames == 100


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_from_lists_of_clips_to_a_prior_and_its_folds(folder, tmp_path):
    """The two shell scripts with one step of each training, as `quiver` is found in a checkout."""
    rows = ["uri,source,licence"]
    for name in ("a", "b", "c"):
        write_swaying(tmp_path / f"{name}.mp4", size=(320, 200), seconds=5.2)
        rows.append(f"{tmp_path / name}.mp4,{name},CC0-1.0")
    (tmp_path / "real.csv").write_text("\n".join(rows) + "\n")
    quick = {"STEPS": "1", "SCENES": "4", "FOLDS": "2", "PYTHONPATH": str(ROOT)}
    bin_folder = str(Path(sys.executable).parent)
    environment = os.environ | quick | {"PATH": f"{bin_folder}:{os.environ['PATH']}"}

    def run(*command: object) -> str:
        arguments = [str(argument) for argument in command]
        done = subprocess.run(
            arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=800
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    script = EXAMPLES / "train_prior.sh"
    run(script, tmp_path / "out", tmp_path / "real.csv", "", folder / "photo.png")
    assert (tmp_path / "out" / "film.mp4").exists() and (tmp_path / "out" / "page.html").exists()
    options = ("--steps", 1, "--coordinate-steps", 1, "--latent-variants", 1)
    printed = run(EXAMPLES / "cross_validate.sh", tmp_path / "out", "short", *options)
    assert "nearest training window" in printed
    record = json.loads(
        (tmp_path / "out" / "evaluation-short-2" / "prior_evaluation.json").read_text()
    )
    assert len(record["checkpoints"]) == 2 and len(record["scenes"]) == 3


def test_the_readme_names_every_example():
    text = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.iterdir():
        assert path.suffix not in (".py", ".sh", ".ipynb") or path.name in text


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_has_no_outputs(notebook):
    cells = json.loads(notebook.read_text())["cells"]
    assert notebook.stat().st_size < MAX_NOTEBOOK_BYTES
    assert all(cell["cell_type"] == "markdown" or not cell["outputs"] for cell in cells)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_code_of_a_notebook_runs(notebook, folder):
    cells = json.loads(notebook.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    script = folder / f"{notebook.stem}.py"
    script.write_text("\n\n".join(code) + "\n")
    run_script(script, folder)
