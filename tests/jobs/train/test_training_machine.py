"""Training where the processes that read ahead lack something: one sentence and an exit code, and
no waiting.
"""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import doctor
from jobs.cli.errors import ExitCode
from jobs.doctor import State
from tests.support.datasets import CONFIG, write_dataset

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
TRAINING = [
    sys.executable,
    "-m",
    "jobs.train_autoencoder",
    "smoke",
    "--data",
    "data",
    "--out",
    "out",
]
OPTIONS = [
    "--steps",
    "3",
    "--batch",
    "4",
    "--log-every",
    "1",
    "--save-every",
    "3",
    "--picture-every",
    "9",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("machine")
    small = replace(CONFIG, size=(64, 48))
    write_dataset(folder / "data", {"train-000000": [{}] * 4, "test-000000": [{}]}, config=small)
    return folder


def small_memory(*command: str) -> list[str]:
    """The command, with 64 kB of shared memory. Skips unless this user may mount it."""
    mount = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
    if (
        not shutil.which("unshare")
        or subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode
    ):
        pytest.skip("this user may not mount a file system")
    return ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh", *command]


def trained(folder: Path, command: list[str], workers: int, **env: str) -> tuple[int, str]:
    """Exit code, and what is said on standard error."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    command = [*command, *OPTIONS, "--loader-workers", str(workers)]
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT | env, capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stderr


@pytest.mark.thorough
@pytest.mark.parametrize("workers", [1, 2])
def test_too_little_shared_memory_ends_a_training_with_a_sentence(folder, workers):
    code, said = trained(folder, small_memory(*TRAINING), workers)
    assert code == ExitCode.STORAGE and said.count("\n") == 1, said
    assert said.startswith("quiver: a batch of ") and "No space left on device" in said
    assert "--loader-workers 0" in said and "docker run --shm-size=2g" in said


@pytest.mark.slow
def test_it_is_enough_for_a_training_without_such_processes(folder):
    assert trained(folder, small_memory(*TRAINING), 0) == (ExitCode.SUCCESS, "")


@pytest.mark.thorough
def test_a_folder_too_deep_for_sockets_is_told_before_anything_is_waited_for(folder):
    deep = folder / ("d" * 100)
    deep.mkdir(exist_ok=True)
    code, said = trained(folder, TRAINING, 1, TMPDIR=str(deep))
    assert (
        code == ExitCode.STORAGE
        and said.startswith(f"quiver: TMPDIR is {str(deep)!r}")
        and said.count("\n") == 1
    ), said
    assert trained(folder, TRAINING, 0, TMPDIR=str(deep)) == (ExitCode.SUCCESS, "")


@pytest.mark.thorough
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGBUS])
def test_a_process_that_reads_ahead_and_dies_ends_the_training_with_a_sentence(folder, how):
    """As one that the kernel ends for lack of memory."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    command = [*TRAINING, *OPTIONS, "--loader-workers", "1", "--steps", "100000", "--decay", "0"]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as training:
        training.stdout.readline()  # it has begun
        (helper,) = Path(f"/proc/{training.pid}/task/{training.pid}/children").read_text().split()
        os.kill(int(helper), how)
        _, said = training.communicate(timeout=120)
    assert training.returncode == ExitCode.STORAGE and said.count("\n") == 1, said
    assert (
        said.startswith("quiver: a process that reads ahead died") and "--loader-workers 0" in said
    )


def test_doctor_looks_at_shared_memory(tmp_path):
    found = doctor.check_shared_memory()
    assert (found.state == State.OK) == (
        shutil.disk_usage("/dev/shm").free >= doctor.MIN_SHARED_MIB << 20
    )
    command = [
        sys.executable,
        "-c",
        "from jobs import doctor; print(*doctor.run_check(doctor.check_shared_memory))",
    ]
    done = subprocess.run(
        small_memory(*command),
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (
        done.stdout.startswith("warning 0 MiB are free in /dev/shm")
        and "--shm-size=2g" in done.stdout
    ), done.stderr
