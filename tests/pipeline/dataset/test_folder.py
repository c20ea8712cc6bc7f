"""The folder of a data set: what a run takes away, refuses and puts right when it begins."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.dataset.folder import ContractMismatch, DamagedPlan, Dataset
from pipeline.extract.config import to_contract
from schemas.records import PlanRow
from tests.support.datasets import CONFIG, make_plan_row

SHARD = "train-000000"
ROWS = [make_plan_row(SHARD, i) for i in range(2)]
DIGITS = "0123456789abcdef" * 2
OURS = [
    f".plan.parquet.{DIGITS}.tmp",
    f"shards/.{SHARD}.tar.{DIGITS}.tmp",
    f".fence/.1.{DIGITS}.tmp",
]
THEIRS = [
    ".config/app/.state.tmp",
    ".state.tmp",
    "shards/.notes.tmp",
    f".git/.index.{DIGITS}.tmp",
    f"shards/mine/.a.tar.{DIGITS}.tmp",
    f".removed/shards/.a.tar.{DIGITS}.tmp",
]


def begin(root: Path, rows: Sequence[PlanRow] = ROWS) -> list[str]:
    with (dataset := Dataset(root)).lock():
        return dataset.create_or_resume(rows, to_contract(CONFIG), {"python": "3"})


@pytest.mark.parametrize("begun", [False, True])
def test_a_run_removes_its_own_files_in_the_making_and_nobody_elses(tmp_path, begun):
    ours = [*OURS, f"views/.strict.json.{DIGITS}.tmp"] if begun else OURS
    if begun:
        begin(tmp_path)
    for name in (*ours, *THEIRS):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    begin(tmp_path)
    assert all((tmp_path / name).exists() for name in THEIRS) and not any(
        (tmp_path / name).exists() for name in ours
    )


def config_of(depth: int) -> str:
    """Settings as they are written, with one that is nested so deep."""
    whole = dict(config=to_contract(CONFIG), inputs="", plan="", versions={})
    return json.dumps(whole).replace(
        '"flow": {', '"flow": {"a": ' + '{"a": ' * depth + "1" + "}" * depth + ", "
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"a": 1}',
        '{"config": {"plan": []}, "inputs": "", "plan": "", "versions": {}}',
        '{"config": {"plan": []}, "inputs": "", "plan": "", "versions": {}, "format": 5}',
        "[" * 100_000,
        "\xff",
        "9" * 5000,
        config_of(100_000),
    ],
)
def test_a_run_json_that_is_none_is_a_sentence(tmp_path, text):
    (tmp_path / "run.json").write_text(text, encoding="latin-1")
    for read in (begin, lambda root: Dataset(root).contract()):
        with pytest.raises(ValueError, match="is no run contract") as said:
            read(tmp_path)
        assert str(said.value).startswith(f"{tmp_path}/run.json ") and "\n" not in str(said.value)
    assert (tmp_path / "run.json").read_text(encoding="latin-1") == text


def test_a_data_set_of_another_format_is_a_difference(tmp_path):
    begin(tmp_path)
    (tmp_path / "run.json").write_text(
        json.dumps(
            json.loads((tmp_path / "run.json").read_text()) | {"format": 3, "config": {"size": 1}}
        )
    )
    with pytest.raises(ContractMismatch, match=r"^format: 3 -> 5$"):
        begin(tmp_path)


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"damage")])
def test_a_plan_that_is_lost_is_written_again_before_any_shard_is_built(tmp_path, harm):
    begin(tmp_path)
    before = (tmp_path / "plan.parquet").read_bytes()
    harm(tmp_path / "plan.parquet")
    begin(tmp_path)
    assert (tmp_path / "plan.parquet").read_bytes() == before


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"damage")])
@pytest.mark.parametrize(
    "rows",
    [ROWS[:1], [replace(row, uri=f"/elsewhere/{row.uri}") for row in ROWS]],
    ids=["fewer clips", "clips that were moved"],
)
def test_a_plan_that_is_lost_and_cannot_be_made_again_is_said_at_once(tmp_path, harm, rows):
    begin(tmp_path)
    harm(tmp_path / "plan.parquet")
    with pytest.raises(
        DamagedPlan,
        match="the same extract-flow command writes it again while its clips are what and where "
        "they were",
    ):
        begin(tmp_path, rows)


def test_the_plan_with_which_a_data_set_was_begun_is_read_anew_each_time_and_not_held(tmp_path):
    assert list(Dataset(tmp_path).earlier_plan()) == []
    begin(tmp_path)
    before = Dataset(tmp_path).earlier_plan()
    assert not isinstance(before, list) and list(before) == list(before) == ROWS
    (tmp_path / "plan.parquet").write_bytes(b"damage")
    assert list(Dataset(tmp_path).earlier_plan()) == []
