"""`--workers`: the real command on a Ray of its own, with one of its processes killed, against the same training under torchrun."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import train_autoencoder
from model import checkpoints
from tests.datasets import CONFIG, written

ROOT = Path(__file__).parents[2]
STEPS = 12
OPTIONS = ["--steps", str(STEPS), "--batch", "2", "--slices", "1", "--loader-workers", "0", "--log-every", "1", "--save-every", "1", "--keep", "12"]


def command(*start: str) -> list[str]:
    """With paths that mean nothing in a process of another working folder."""
    return [sys.executable, "-m", *start, "jobs.train_autoencoder", "smoke", "--data", "data", *OPTIONS]


def descendants(pid: int) -> list[int]:
    found = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True).stdout.split()
    return [int(child) for child in found] + [grandchild for child in found for grandchild in descendants(int(child))]


def kill_a_worker(pid: int) -> None:
    """One of Ray Train's processes below this one."""
    titles = {one: Path(f"/proc/{one}/cmdline").read_bytes() for one in descendants(pid) if Path(f"/proc/{one}/cmdline").exists()}
    os.kill(next(one for one, title in titles.items() if b"RayTrainWorker" in title), signal.SIGKILL)


def test_a_killed_worker_costs_nothing(tmp_path):
    """Training ends at the bytes of an undisturbed training of two processes, and every step is shown."""
    written(tmp_path / "data", {"train-000000": [{}] * 6, "test-000000": [{}]}, config=replace(CONFIG, size=(64, 48)))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    torchrun = command("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    subprocess.run([*torchrun, "--out", "reference"], cwd=tmp_path, env=environment, check=True, capture_output=True)

    run = subprocess.Popen(
        [*command(), "--out", "ray", "--workers", "2"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 240
    while not checkpoints.steps(tmp_path / "ray") and time.monotonic() < deadline and run.poll() is None:
        time.sleep(0.02)
    kill_a_worker(run.pid)
    shown, said = run.communicate(timeout=300)
    assert run.returncode == 0, said
    steps = [json.loads(line)["step"] for line in shown.splitlines() if line.startswith("{")]
    assert sorted(set(steps)) == [*range(1, STEPS + 1)] and steps[-1] == STEPS
    assert not (tmp_path / "ray" / "step-00000012").is_symlink() and not [*(tmp_path / "ray").glob(".ray-*")]
    for name in ("network", "ema"):
        ours, theirs = (tmp_path / out / "step-00000012" / f"{name}.safetensors" for out in ("ray", "reference"))
        assert ours.read_bytes() == theirs.read_bytes()


def test_a_wrong_request_ends_it_at_once_with_the_same_sentence(tmp_path, capsys):
    written(tmp_path / "data", {"test-000000": [{}] * 2}, config=replace(CONFIG, size=(64, 48)))
    for workers, words in (("0", "--workers is 0, expected at least 1"), ("1", "held out for test")):
        with pytest.raises(SystemExit) as stopped:
            train_autoencoder.main(["smoke", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "x"), "--workers", workers])
        assert stopped.value.code == 2 and words in capsys.readouterr().err
