"""P18 for several processes that train together: the real commands on two ranks, of which one is
killed.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import train_autoencoder, train_denoiser
from model import checkpoints
from tests.support.attempts import checkpoint_bytes, run_ranks, run_until_rename
from tests.support.datasets import CONFIG, write_dataset

ROOT = Path(__file__).resolve().parents[3]
SHARDS = {"train-000000": [{}] * 4, "train-000001": [{}] * 2, "test-000000": [{}] * 2}
QUICK = ["--loader-workers", "1", "--log-every", "1", "--picture-every", "3", "--save-every", "2"]
AUTOENCODER = ["smoke", "--steps", "4", "--batch", "2", *QUICK]
BOTH_STAGES = [
    "smoke",
    "--steps",
    "4",
    "--batch",
    "2",
    "--coordinate-steps",
    "4",
    "--coordinate-batch",
    "2",
    *QUICK,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    write_dataset(folder / "data", SHARDS, config=replace(CONFIG, size=(64, 48)))
    arguments = [*AUTOENCODER, "--data", str(folder / "data"), "--out", str(folder / "ae")]
    assert run_ranks(
        run_until_rename, train_autoencoder.main, arguments, "", output=folder / "output", ranks=2
    ) == [0, 0], (folder / "output").read_text()
    return folder


def steps_of(log: Path) -> list[int]:
    return [json.loads(line)["step"] for line in log.read_text().splitlines()]


@pytest.mark.thorough
def test_both_stages_of_the_denoiser_go_on_after_a_rank_is_killed(folder, tmp_path):
    """P18: in either stage, and between them, to the weights of two ranks that were left in peace."""
    outs = {
        "peace": [""],
        "killed": [
            "slice/step-00000002",
            "slice/step-00000004",
            "killed/step-00000002",
            "killed/step-00000004",
            "",
        ],
    }
    for name, lasts in outs.items():
        out, output = tmp_path / name, tmp_path / f"{name}.output"
        arguments = [
            *BOTH_STAGES,
            "--data",
            str(folder / "data"),
            "--autoencoder",
            str(folder / "ae"),
            "--out",
            str(out),
        ]
        for last in lasts:
            codes = run_ranks(
                run_until_rename, train_denoiser.main, arguments, last, output=output, ranks=2
            )
            assert codes[0] == -signal.SIGKILL if last else codes == [0, 0], output.read_text()
        said = output.read_text().splitlines()
        end = f"denoiser: {out / 'step-00000004'}"
        assert (
            said[-2] == end and said.count(end) == 1 and said[-1].startswith("next: quiver animate")
        )
        assert steps_of(out / "log.jsonl") == steps_of(out / "slice" / "log.jsonl") == [1, 2, 3, 4]
        assert [path.name for path in out.rglob(".*")] == [".lock"]
    for stage in ("", "slice"):
        assert checkpoint_bytes(tmp_path / "killed" / stage) == checkpoint_bytes(
            tmp_path / "peace" / stage
        )


def rank_of(process: str) -> str:
    """What torchrun has told a process."""
    return next(
        (
            one.partition("=")[2]
            for one in Path(f"/proc/{process}/environ").read_text().split("\0")
            if one.startswith("RANK=")
        ),
        "",
    )


@pytest.mark.thorough
def test_torchrun_begins_again_after_a_rank_is_killed(folder, tmp_path):
    """P18, with the command that a person types."""
    options = [
        "smoke",
        "--steps",
        "16",
        "--batch",
        "2",
        *QUICK,
        "--save-every",
        "4",
        "--picture-every",
        "99",
        "--data",
        str(folder / "data"),
    ]
    peace, out = (
        [*options, "--out", str(tmp_path / "peace")],
        [*options, "--out", str(tmp_path / "out")],
    )
    assert run_ranks(
        run_until_rename, train_autoencoder.main, peace, "", output=tmp_path / "output", ranks=2
    ) == [0, 0], (tmp_path / "output").read_text()
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "--max-restarts",
        "1",
        "-m",
        "jobs.train_autoencoder",
    ]
    with (
        (tmp_path / "said").open("w") as said,
        subprocess.Popen([*command, *out], cwd=ROOT, stdout=said, stderr=said) as torchrun,
    ):
        while not checkpoints.step_folders(tmp_path / "out"):
            assert torchrun.poll() is None, (tmp_path / "said").read_text()
            time.sleep(0.01)
        ranks = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
        (one,) = [process for process in ranks if rank_of(process) == "1"]
        os.kill(int(one), signal.SIGKILL)
    text = (tmp_path / "said").read_text()
    assert (
        torchrun.returncode == 0 and f"failed (exitcode: -9) local_rank: 1 (pid: {one})" in text
    ), text
    assert text.count(f"autoencoder: {tmp_path / 'out'}") == 1 and steps_of(
        tmp_path / "out" / "log.jsonl"
    ) == list(range(1, 17))
    assert checkpoint_bytes(tmp_path / "out") == checkpoint_bytes(tmp_path / "peace")
