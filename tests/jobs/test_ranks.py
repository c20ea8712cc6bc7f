"""P18 for several processes that train together: the real commands on two ranks, of which one is killed."""

import json
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import train_autoencoder, train_denoiser
from tests.attempts import attempt, die, weights
from tests.datasets import CONFIG, written

ROOT = Path(__file__).resolve().parents[2]
SHARDS = {"train-000000": [{}] * 4, "train-000001": [{}] * 2, "test-000000": [{}] * 2}
QUICK = ["--loader-workers", "1", "--log-every", "1", "--picture-every", "3", "--save-every", "2"]
AUTOENCODER = ["smoke", "--steps", "4", "--batch", "2", *QUICK]
BOTH_STAGES = ["smoke", "--steps", "4", "--batch", "2", "--coordinate-steps", "4", "--coordinate-batch", "2", *QUICK]


def called(main: Callable[[list[str]], None], arguments: list[str], last: str) -> None:
    """The command, in a process that is killed just before a file of this name comes to its place."""

    def hook(event: str, found: tuple) -> None:
        if event == "os.rename" and last and str(found[1]).endswith(last):
            die()

    sys.addaudithook(hook)
    main(arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    written(folder / "data", SHARDS, config=replace(CONFIG, size=(64, 48)))
    arguments = [*AUTOENCODER, "--data", str(folder / "data"), "--out", str(folder / "ae")]
    assert attempt(called, train_autoencoder.main, arguments, "", output=folder / "output", ranks=2) == [0, 0], (folder / "output").read_text()
    return folder


def steps_of(log: Path) -> list[int]:
    return [json.loads(line)["step"] for line in log.read_text().splitlines()]


def test_both_stages_of_the_denoiser_go_on_after_a_rank_is_killed(folder, tmp_path):
    """P18: in either stage, and between them, to the weights of two ranks that were left in peace."""
    outs = {"peace": [""], "killed": ["slice/step-00000002", "slice/step-00000004", "killed/step-00000002", "killed/step-00000004", ""]}
    for name, lasts in outs.items():
        out, output = tmp_path / name, tmp_path / f"{name}.output"
        arguments = [*BOTH_STAGES, "--data", str(folder / "data"), "--autoencoder", str(folder / "ae"), "--out", str(out)]
        for last in lasts:
            codes = attempt(called, train_denoiser.main, arguments, last, output=output, ranks=2)
            assert codes[0] == -signal.SIGKILL if last else codes == [0, 0], output.read_text()
        said = output.read_text().splitlines()
        assert [line for line in said if not line.startswith("{")][-1] == f"denoiser: {out}" and said.count(f"denoiser: {out}") == 1
        assert steps_of(out / "log.jsonl") == steps_of(out / "slice" / "log.jsonl") == [1, 2, 3, 4]
        assert not list(out.rglob(".*"))
    for stage in ("", "slice"):
        assert weights(tmp_path / "killed" / stage) == weights(tmp_path / "peace" / stage)
