"""`--workers`: the real command on a Ray of its own, with one of its processes killed; and without
it, a machine that has no Ray.
"""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import train_autoencoder
from model import checkpoints
from tests.support.attempts import checkpoint_bytes, run_ranks, run_until_rename
from tests.support.datasets import CONFIG, write_dataset

ROOT = Path(__file__).parents[3]
STEPS = 12
OPTIONS = [
    "--steps",
    str(STEPS),
    "--batch",
    "2",
    "--slices",
    "1",
    "--loader-workers",
    "0",
    "--log-every",
    "1",
    "--save-every",
    "1",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ray")
    write_dataset(
        folder / "data",
        {"train-000000": [{}] * 6, "test-000000": [{}]},
        config=replace(CONFIG, size=(64, 48)),
    )
    return folder


def descendants(pid: int) -> list[int]:
    found = subprocess.run(
        ["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True
    ).stdout.split()
    return [int(child) for child in found] + [
        grandchild for child in found for grandchild in descendants(int(child))
    ]


def kill_a_worker(pid: int) -> None:
    """One of Ray Train's processes below this one."""
    titles = {
        one: Path(f"/proc/{one}/cmdline").read_bytes()
        for one in descendants(pid)
        if Path(f"/proc/{one}/cmdline").exists()
    }
    os.kill(
        next(one for one, title in titles.items() if b"RayTrainWorker" in title), signal.SIGKILL
    )


@pytest.mark.thorough
@pytest.mark.timeout(900)  # on a busy machine Ray takes minutes to start
def test_a_killed_worker_costs_nothing(folder):
    """Training ends at the bytes of two processes that were left in peace, and every step is shown.
    Relative paths mean what they mean here.
    """
    options = ["smoke", "--data", "data", *OPTIONS]
    run = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "jobs.train_autoencoder",
            *options,
            "--out",
            "ray",
            "--workers",
            "2",
        ],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not checkpoints.step_folders(folder / "ray"):
            assert run.poll() is None, run.communicate()[1]
            time.sleep(0.02)
        kill_a_worker(run.pid)
        shown, said = run.communicate()
    finally:
        run.kill()
    assert run.returncode == 0, said
    steps = [
        int(step)
        for step in re.findall(rf"^autoencoder: step (\d+) of {STEPS},", shown, re.MULTILINE)
    ]
    assert (
        set(steps) == {*range(1, STEPS + 1)}
        and steps[-1] == STEPS
        and shown.splitlines()[-2] == f"autoencoder: ray/step-{STEPS:08d}"
    )
    assert not [*(folder / "ray").glob(".ray-*")]
    peace = ["smoke", "--data", str(folder / "data"), *OPTIONS, "--out", str(folder / "peace")]
    assert run_ranks(
        run_until_rename, train_autoencoder.main, peace, "", output=folder / "output", ranks=2
    ) == [0, 0], (folder / "output").read_text()
    assert checkpoint_bytes(folder / "ray") == checkpoint_bytes(folder / "peace")


def without_ray(arguments: list[str]) -> None:
    sys.modules["ray"] = None  # pyright: ignore[reportArgumentType]
    train_autoencoder.main(arguments)


@pytest.mark.slow
def test_one_process_does_without_ray(folder):
    arguments = [
        "smoke",
        "--data",
        str(folder / "data"),
        *OPTIONS,
        "--steps",
        "2",
        "--out",
        str(folder / "alone"),
    ]
    assert run_ranks(without_ray, arguments, output=folder / "said") == [0], (
        folder / "said"
    ).read_text()
    assert checkpoints.read_newest(folder / "alone")[0].config["step"] == 2
    assert run_ranks(without_ray, [*arguments, "--workers", "2"], output=folder / "refused") == [2]
    assert "--workers needs Ray and what it trains with" in (folder / "refused").read_text()


def train(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The real command: a process keeps the token of the first Ray that it starts."""
    command = [sys.executable, "-m", "jobs.train_autoencoder", "smoke", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)


@pytest.mark.thorough
def test_of_all_processes_one_speaks(tmp_path):
    config = replace(CONFIG, size=(64, 48))
    write_dataset(tmp_path / "data", {"train-000000": [{}] * 4}, config=config)
    data, out = tmp_path / "data", tmp_path / "x"
    done = train("--data", data, "--out", out, *OPTIONS, "--steps", "1", "--workers", "2")
    assert done.returncode == 0 and done.stderr.count("nothing is held out") == 1, done.stderr


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("workers", "words"),
    [("0", "--workers is 0, expected at least 1"), ("1", "held out for test")],
)
def test_a_wrong_request_ends_it_at_once_with_the_same_sentence(tmp_path, workers, words):
    config = replace(CONFIG, size=(64, 48))
    write_dataset(tmp_path / "data", {"test-000000": [{}] * 2}, config=config)
    done = train("--data", tmp_path / "data", "--out", tmp_path / "x", "--workers", workers)
    assert done.returncode == 2 and words in done.stderr, done.stderr
