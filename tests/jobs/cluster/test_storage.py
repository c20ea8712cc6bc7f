"""P19 through the training command: a disk that is full, and checkpoints that are torn."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import train_autoencoder
from jobs.cli.errors import ExitCode
from model import checkpoints
from tests.support.attempts import checkpoint_bytes, run_ranks, run_until_rename
from tests.support.datasets import CONFIG, write_dataset

SHARDS = {"train-000000": [{}] * 3, "test-000000": [{}]}
ROOMS = [0, 8, 16, 128, 1000, 2000, 2750]
"""KiB that are left: weights take 660 twice, training.pt 1,393, the events 65."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A training that was left in peace, and one that was killed after its first checkpoint."""
    folder = tmp_path_factory.mktemp("full")
    write_dataset(folder / "data", SHARDS, config=replace(CONFIG, size=(64, 48)))
    assert trained(folder, folder / "peace") == 0, (folder / "output").read_text()
    assert trained(folder, folder / "killed", last="step-00000004") == -signal.SIGKILL
    return folder


def trained(folder: Path, out: Path, last: str = "", output: Path | None = None) -> int:
    options = [
        "--steps",
        "4",
        "--batch",
        "2",
        "--loader-workers",
        "0",
        "--log-every",
        "1",
        "--save-every",
        "2",
        "--picture-every",
        "2",
    ]
    arguments = ["smoke", "--data", str(folder / "data"), "--out", str(out), *options]
    (code,) = run_ranks(
        run_until_rename,
        train_autoencoder.main,
        arguments,
        last,
        output=output or folder / "output",
    )
    return code


@pytest.fixture(scope="module")
def disk(tmp_path_factory) -> Iterator[Path]:
    """A small one."""
    root = tmp_path_factory.mktemp("disk")
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(root)], capture_output=True
    ).returncode:
        pytest.skip("this user may not mount a file system")
    yield root
    subprocess.run(["umount", str(root)], check=True)


def fill(disk: Path, left: int) -> Path:
    """Leaves so many bytes."""
    found, path = os.statvfs(disk), disk / "filling"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, found.f_bavail * found.f_frsize - left)
    return path


@pytest.mark.thorough
@pytest.mark.promise("P19")
def test_a_full_disk_ends_a_training_with_a_sentence_and_it_goes_on_when_there_is_room(
    folder, disk, tmp_path, record_property
):
    """P19: whichever file does not fit, log and TensorBoard's too, the last whole checkpoint stays
    and nothing torn.
    """
    record_property("injections", len(ROOMS))
    named = set()
    for room in ROOMS:
        out, output = disk / "out", tmp_path / f"{room}"
        shutil.copytree(folder / "killed", out, ignore=shutil.ignore_patterns(".*"))
        filling = fill(disk, room << 10)
        assert trained(folder, out, output=output) == ExitCode.STORAGE, output.read_text()
        (sentence,) = [
            line for line in output.read_text().splitlines() if line.startswith("quiver: ")
        ]
        path, _, words = sentence.removeprefix("quiver: ").partition(": ")
        assert (
            re.fullmatch(r"No space left on device, [\d.]+ (bytes|[kMG]B) are free there", words)
            and path.startswith(str(out))
            and ".tmp" not in path
        )
        named.add(Path(path).name if "tfevents" not in path else "events")
        found, passed = checkpoints.read_newest(out)
        assert found.config["step"] == 2 and not passed and not list(out.glob(".*.tmp"))
        filling.unlink()
        assert trained(folder, out) == 0 and checkpoint_bytes(out) == checkpoint_bytes(
            folder / "peace"
        )
        shutil.rmtree(out)
    assert named >= {
        "log.jsonl",
        "events",
        "network.safetensors",
        "ema.safetensors",
        "training.pt",
    }, named


def contents(out: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name", ["config.json", "network.safetensors", "ema.safetensors", "training.pt", "digests.json"]
)
def test_a_torn_checkpoint_is_passed_over_and_a_person_is_told(folder, tmp_path, name):
    """P19: the training goes on from the one before, to the same weights; with none that is whole,
    it ends and removes nothing.
    """
    out, output = shutil.copytree(folder / "peace", tmp_path / "out"), tmp_path / "output"
    for step in (4, 2):
        path = out / f"step-{step:08d}" / name
        path.write_bytes(path.read_bytes()[:-1])
        before = contents(out)
        code = trained(folder, out, output=output)
        (said,) = [line for line in output.read_text().splitlines() if line.startswith("quiver: ")]
        if step == 4:
            assert (
                code == 0
                and said.startswith(f"quiver: passed over {path.parent}: ")
                and checkpoint_bytes(out) == checkpoint_bytes(folder / "peace")
            )
            (out / "step-00000004" / name).unlink()
            output.unlink()
        else:
            assert (
                code == ExitCode.USAGE
                and f"{out} holds no checkpoint: " in said
                and before == contents(out)
            )
