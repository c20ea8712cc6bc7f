"""What a person sees of a training, by the real command: how far it is, what is kept, and what
comes next; and nothing else.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from jobs.cli.errors import ExitCode
from jobs.cli.main import main as quiver
from model import checkpoints
from tests.support.datasets import CONFIG, write_dataset
from tests.support.videos import make_texture

ROOT = Path(__file__).parents[3]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
QUICK = ["--batch", "2", "--log-every", "2", "--save-every", "2"]
LINE = re.compile(
    r"([\w ]+): step (\d+) of (\d+), about \d+ (?:s|min|h) left, loss [\d.e+-]+, (.*)"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A data set with a test split, one without, and a photograph."""
    folder = tmp_path_factory.mktemp("told")
    small = replace(CONFIG, size=(64, 48))
    write_dataset(folder / "data", {"train-000000": [{}] * 4, "test-000000": [{}]}, config=small)
    write_dataset(folder / "all", {"train-000000": [{}] * 4}, config=small)
    Image.fromarray(make_texture(80, 70)).save(folder / "PHOTO", format="png")
    return folder


def command(folder: Path, *words: str) -> list[str]:
    """What a training says on standard output, and on standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli.main", *words],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [done.stdout, done.stderr]


def following(shown: str, *, kept: str) -> list[str]:
    """The command of the last line, after that which names the last checkpoint."""
    last, after = shown.splitlines()[-2:]
    assert last == kept and after.startswith("next: quiver ")
    return shlex.split(after)[2:]


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_each_training_says_how_far_it_is_and_what_comes_next(folder, monkeypatch):
    """The commands that they name work one after the other; of a library nothing is heard."""
    shown, said = command(
        folder,
        "train-autoencoder",
        "smoke",
        "--data",
        "data",
        "--out",
        "ae",
        "--steps",
        "4",
        *QUICK,
    )
    lines = [found.groups() for line in shown.splitlines()[:-2] if (found := LINE.fullmatch(line))]
    assert said == "" and [line[:3] for line in lines] == [
        ("autoencoder", "2", "4"),
        ("autoencoder", "4", "4"),
    ]
    assert (
        "kept" not in lines[0][3]
        and lines[1][3].endswith("kept ae/step-00000002")
        and "test_l1" in lines[1][3]
    )
    words = following(shown, kept="autoencoder: ae/step-00000004")
    assert words == [
        "train-denoiser",
        "smoke",
        "--data",
        "data",
        "--autoencoder",
        "ae",
        "--out",
        "ae-prior",
    ]
    shown, said = command(
        folder, *words, "--steps", "4", *QUICK, "--coordinate-steps", "2", "--coordinate-batch", "1"
    )
    told = [found.groups()[:3] for line in shown.splitlines() if (found := LINE.fullmatch(line))]
    assert said == "" and told == [
        ("slices", "2", "4"),
        ("slices", "4", "4"),
        ("all frequencies", "2", "2"),
    ]
    words = following(shown, kept="denoiser: ae-prior/step-00000002")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["quiver", *words, "--steps", "1", "--seconds", "0.2"])
    quiver()
    shown, said = command(
        folder,
        "train-renderer",
        "smoke",
        "--data",
        "data",
        "--out",
        "renderer",
        "--steps",
        "2",
        "--crop",
        "32",
        "32",
        *QUICK,
    )
    assert said.count("\n") == 1 and "without --imagenet" in said
    monkeypatch.setattr(
        sys,
        "argv",
        ["quiver", *following(shown, kept="renderer: renderer/step-00000002"), "--seconds", "0.2"],
    )
    (folder / "film.mp4").unlink()
    quiver()
    assert (folder / "film.mp4").exists()


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_a_terminal_sees_a_bar(folder):
    command = [
        sys.executable,
        "-m",
        "jobs.cli.main",
        "train-autoencoder",
        "smoke",
        "--data",
        "data",
        "--out",
        "bar",
        "--steps",
        "4",
        *QUICK,
    ]
    environment = ENVIRONMENT | {"COLUMNS": "80", "TERM": "xterm"}
    done = subprocess.run(
        ["script", "-qec", shlex.join(command), "/dev/null"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (
        done.returncode == 0
        and re.search("4/4.*loss [0-9.]+, kept step-00000002", done.stdout)
        and "next: quiver train-denoiser" in done.stdout
        and "Traceback" not in done.stdout
    )
    assert "step 4 of 4" not in done.stdout


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_it_says_once_that_nothing_is_held_out(folder):
    shown, said = command(
        folder,
        "train-autoencoder",
        "smoke",
        "--data",
        "all",
        "--out",
        "all ae",
        "--steps",
        "2",
        *QUICK,
    )
    assert (
        said
        == "quiver: the data has no test split: nothing is held out, and no measure on held-out samples will be shown\n"
    )
    assert "test_" not in shown and "'all ae'" in shown.splitlines()[-1]
    options = ["--steps", "2", *QUICK, "--coordinate-steps", "1", "--coordinate-batch", "1"]
    shown, again = command(
        folder,
        "train-denoiser",
        "smoke",
        "--data",
        "all",
        "--autoencoder",
        "all ae",
        "--out",
        "all prior",
        *options,
    )
    assert again == said and "test_" not in shown


@pytest.fixture
def interruptible():
    """Where the tests run in a shell's background, SIGINT is ignored, by what they start too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.thorough
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("every", "kept"), [("1", ""), ("1000", "nothing is kept yet, the same command begins again")]
)
def test_interrupted_it_says_what_is_kept(folder, every, kept):
    """By Ctrl-C, which all processes of a terminal's job get; nothing else is said."""
    options = [
        "--data",
        "data",
        "--out",
        "interrupted" + every,
        "--steps",
        "100000",
        "--decay",
        "0",
        "--log-every",
        "1",
        "--save-every",
        every,
    ]
    words = [sys.executable, "-m", "jobs.cli.main", "train-autoencoder", "smoke", *options]
    run = subprocess.Popen(
        words,
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert run.stdout
    for line in run.stdout:
        if "step 3 of" in line:
            break
    os.killpg(run.pid, signal.SIGINT)
    _, said = run.communicate()
    assert run.returncode == ExitCode.INTERRUPTED and said.count("\n") == 1, said
    if every == "1":
        last = checkpoints.step_folders(folder / "interrupted1")[-1].name
        kept = f"interrupted1/{last} is kept, the same command resumes from there"
    assert said == f"quiver: interrupted; {kept}\n"
