"""The folder of a data set: what a run takes away, refuses and puts right when it begins."""

from pathlib import Path

import pytest

from pipeline.dataset import Dataset
from pipeline.window import recorded
from tests.datasets import CONFIG, planned

SHARD = "train-000000"
ROWS = [planned(SHARD, i) for i in range(2)]
DIGITS = "0123456789abcdef" * 2
OURS = [f".plan.parquet.{DIGITS}.tmp", f"shards/.{SHARD}.tar.{DIGITS}.tmp", f".fence/.1.{DIGITS}.tmp"]
THEIRS = [".config/app/.state.tmp", ".state.tmp", "shards/.notes.tmp", f".git/.index.{DIGITS}.tmp", f"shards/mine/.a.tar.{DIGITS}.tmp",
          f".removed/shards/.a.tar.{DIGITS}.tmp"]  # fmt: skip


def begin(root: Path) -> list[str]:
    with (dataset := Dataset(root)).held():
        return dataset.open(ROWS, recorded(CONFIG), {"python": "3"})


@pytest.mark.parametrize("begun", [False, True])
def test_a_run_removes_its_own_files_in_the_making_and_nobody_elses(tmp_path, begun):
    ours = [*OURS, f"views/.strict.json.{DIGITS}.tmp"] if begun else OURS
    if begun:
        begin(tmp_path)
    for name in (*ours, *THEIRS):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    begin(tmp_path)
    assert all((tmp_path / name).exists() for name in THEIRS) and not any((tmp_path / name).exists() for name in ours)
