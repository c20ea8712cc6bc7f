"""Rounds of `quiver retry`: what is committed is never lost, and a round can always be finished."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs import extract_flow, repair
from jobs import retry as retry_verb
from jobs.cli.errors import ExitCode
from pipeline.dataset.commit import ShardDraft
from pipeline.dataset.finalize import finalize
from pipeline.dataset.folder import DamagedPlan, DamagedShard, Dataset
from pipeline.dataset.open import DatasetView
from pipeline.dataset.views import refilter
from pipeline.extract.build_shard import build_shard
from pipeline.extract.config import PlanConfig, to_contract
from pipeline.extract.plan_clip import retry_clip
from pipeline.extract.retry import begin_round, find_retryable, unbuilt_shards
from pipeline.filters import PRESETS
from pipeline.maintain import repair as dataset_repair
from pipeline.maintain.verify import map_serially, verify
from schemas.outcome import FilterMeasures, Outcome, Reason, Stage
from schemas.records import PlanRow
from schemas.seal import seal
from schemas.shard_record import FATE_COLUMNS, RecordRow
from tests.support.building import probe_video
from tests.support.damage import read_record_json, write_record_json
from tests.support.datasets import CONFIG, PASSING_MEASURES, judge_window, make_plan_row

SHARD, RETRIED = "train-000000", "train-retry001-000000"
WINDOWS = 8
ROOT = Path(__file__).resolve().parents[3]


def commit(dataset: Dataset, shard: str, rows: Sequence[PlanRow], lost: Sequence[str] = ()) -> None:
    """Commits a shard of which the videos of the windows `lost` are missing; the rest is kept."""
    rng = np.random.default_rng(0)
    draft = ShardDraft(dataset, shard, CONFIG.frequencies)
    for row in rows:
        if row.key in lost:
            fate = RecordRow(
                key=row.key,
                outcome=Outcome.QUARANTINED,
                stage=Stage.DECODE,
                reason=Reason.MISSING,
                detail="the file is gone",
            )
            draft.add(fate, None, None)
            continue
        columns, sample, _ = judge_window(row, FilterMeasures(**PASSING_MEASURES), rng, CONFIG)
        assert sample
        place = {name: getattr(row, name) for name in ("start_frame", "start_time_s")}
        meta = sample.meta | place | {"clip": {"clip_id": row.clip_id}}
        draft.add(columns, replace(sample, meta=meta), None)
    draft.commit()


def with_lost_windows(root: Path, windows: int = WINDOWS) -> Dataset:
    """A finished data set of which the last half of the windows is quarantined as missing."""
    dataset = Dataset(root)
    root.mkdir()
    rows = [make_plan_row(SHARD, i) for i in range(windows)]
    dataset.create_or_resume(rows, to_contract(CONFIG), {"python": "3"})
    commit(dataset, SHARD, rows, [row.key for row in rows[windows // 2 :]])
    finalize(dataset)
    return dataset


def begin(dataset: Dataset, per_shard: int = 64) -> None:
    config = PlanConfig(frames=24, windows_per_shard=per_shard)
    begin_round(dataset, find_retryable(dataset).windows, [], config)


def retry(dataset: Dataset, lost: int = 0) -> Dataset:
    """A whole round, in which the first `lost` windows fail again."""
    begin(dataset)
    for shard, rows in unbuilt_shards(dataset).items():
        commit(dataset, shard, rows, [row.key for row in rows[:lost]])
    finalize(dataset)
    return dataset


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return with_lost_windows(tmp_path_factory.mktemp("finished") / "dataset").root


@pytest.fixture
def lacking(finished, tmp_path) -> Dataset:
    """A copy of the finished data set whose lost windows are not yet tried again."""
    return Dataset(shutil.copytree(finished, tmp_path / "dataset"))


def files(root: Path) -> dict[str, bytes]:
    folders = ("records", "shards", "histograms", "retries")
    paths = [path for folder in folders for path in (root / folder).iterdir()]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def kept(dataset: Dataset) -> int:
    rows = pq.read_table(dataset.manifest).to_pylist()
    return sum(row["outcome"] == Outcome.KEPT for row in rows)


def repaired(dataset: Dataset) -> int:
    """Exit code of quiver repair."""
    try:
        repair.main([str(dataset.root)])
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def test_the_windows_of_a_round_are_sound(lacking):
    assert kept(lacking) == WINDOWS // 2 and not verify(lacking).faults
    assert kept(retry(lacking)) == WINDOWS and not verify(lacking).faults


@pytest.mark.sample(3)
@pytest.mark.slow
@pytest.mark.parametrize("rounds, gone", [(1, 1), (2, 2), (2, 1)])
@pytest.mark.parametrize("known_by", ["records", "index"])
def test_of_a_round_that_is_gone_no_sample_is_moved(lacking, capsys, rounds, gone, known_by):
    """The last one too, which no other names, even if only the index still says that it was."""
    for number in range(rounds, 0, -1):
        retry(lacking, lost=number - 1)
    if known_by == "index":
        for path in lacking.records.glob("*-retry*"):
            path.unlink()
    (lacking.retries / f"{gone:03d}.json").unlink()
    before, words = files(lacking.root), f"retries/{gone:03d}.json is gone"
    with pytest.raises(DamagedPlan, match=words):
        lacking.rounds()
    with pytest.raises(DamagedPlan, match=words):
        finalize(lacking)
    (fault,) = verify(lacking).faults
    assert fault.path == f"retries/{gone:03d}.json" and "is gone" in fault.what
    assert repaired(lacking) == ExitCode.STORAGE
    assert f"{fault.path}: is gone" in capsys.readouterr().out
    assert files(lacking.root) == before and not (lacking.root / ".removed").exists()


@pytest.mark.slow
def test_a_round_that_is_damaged_is_put_aside_with_all_that_belongs_to_it(lacking):
    retry(lacking)
    path = lacking.retries / "001.json"
    path.write_bytes(path.read_bytes()[:-9])
    lacking.report.write_text("as it was")
    assert repaired(lacking) == ExitCode.STORAGE
    aside = lacking.root / ".removed"
    moved = {str(path.relative_to(aside)) for path in aside.rglob("*.*")}
    assert {"retries/001.json", f"records/{RETRIED}.json", f"shards/{RETRIED}.tar"} <= moved
    assert kept(lacking) == WINDOWS // 2 and not lacking.report.exists()
    assert not verify(lacking).faults
    assert kept(retry(lacking)) == WINDOWS and not verify(lacking).faults


@pytest.mark.slow
@pytest.mark.parametrize("name", ["0001.json", "000.json", "1.json"])
def test_a_file_that_no_retry_writes_harms_no_round(lacking, name):
    retry(lacking)
    (lacking.retries / name).write_text("{}")
    assert [fault.path for fault in verify(lacking).faults] == [f"retries/{name}"]
    assert repaired(lacking) == 0
    assert kept(lacking) == WINDOWS and not verify(lacking).faults


def test_a_round_whose_videos_lie_in_a_folder_that_is_gone_is_finished_all_the_same(lacking):
    """Else no command would ever finish it. A window of the first plan ends the run as before."""
    begin(lacking)
    for shard, rows in unbuilt_shards(lacking).items():
        first = [PlanRow(**row.dump()) for row in rows]
        with pytest.raises(FileNotFoundError):
            list(build_shard(lacking, shard, first, CONFIG))
        list(build_shard(lacking, shard, rows, CONFIG))
    finalize(lacking)
    assert kept(lacking) == WINDOWS // 2 and not verify(lacking).faults
    again = find_retryable(lacking).windows
    assert len(again) == WINDOWS // 2 and {row.reason for row in again} == {Reason.MISSING}


def test_windows_whose_video_is_still_missing_are_left_out_of_a_round(lacking, tmp_path):
    failed = find_retryable(lacking)
    rows = failed.rows_to_probe()
    assert len(rows) == len({row.uri for row in failed.windows}) == 2
    probed = [retry_clip(row, CONFIG.plan, probe_video) for row in rows]
    assert begin_round(lacking, failed.windows, probed, CONFIG.plan) == 0
    assert not lacking.retries.exists()
    sound = replace(probed[0], outcome=None, stage=None, reason=None)
    windows = [row for row in failed.windows if row.uri == sound.clip.uri]
    assert begin_round(lacking, failed.windows, [sound, *probed[1:]], CONFIG.plan) == len(windows)
    assert {row.uri for row in lacking.rounds()[0].rows} == {sound.clip.uri}


def run_retry(dataset: Dataset, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs.retry", str(dataset.root), "--workers", "1", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)


@pytest.mark.thorough
def test_a_retry_begins_no_round_of_what_fails_again_and_finishes_one_that_was_begun(tmp_path):
    dataset = with_lost_windows(tmp_path / "dataset", 48)
    done = run_retry(dataset)
    assert done.returncode == ExitCode.QUARANTINE and "nothing was written" in done.stderr, (
        done.stderr
    )
    assert not dataset.retries.exists()
    begin(dataset)
    done = run_retry(dataset, "--quarantine-limit", "0")
    assert done.returncode == 0 and "24 windows failed" in done.stdout, done.stderr
    assert kept(dataset) == 24 and not verify(dataset).faults


def change_round(dataset: Dataset, change: Callable[[dict], object]) -> Path:
    """Seals a round once more after a change of its first row, as anyone can."""
    path = dataset.retries / "001.json"
    record = json.loads(path.read_bytes())
    record.pop("digest")
    change(record["rows"][0])
    path.write_bytes(seal(record))
    return path


def change_nothing_but(name: str, value: object) -> Callable[[dict], object]:
    """A change of a row, or of its fate before."""
    return lambda row: (row["before"] if name in FATE_COLUMNS else row).update({name: value})


@pytest.mark.parametrize("value", [["kept"], {"kept": 1}, 7, None])
@pytest.mark.parametrize("name", ["outcome", "stage", "reason", "key", "shard", "clip_id"])
def test_a_value_of_another_kind_in_a_round_that_anyone_made_is_a_sentence(lacking, name, value):
    begin(lacking)
    change_round(lacking, change_nothing_but(name, value))
    with pytest.raises(DamagedPlan, match=r"retries/001\.json has "):
        lacking.rounds()
    assert verify(lacking).faults[-1].path == "retries/001.json"


@pytest.mark.parametrize("value", [["kept"], {"kept": 1}])
def test_the_outcome_of_a_clip_in_such_a_round_too(lacking, value):
    begin(lacking)
    change_round(lacking, lambda row: row.update(key=None, shard=None, retried="x", outcome=value))
    with pytest.raises(DamagedPlan, match=r"retries/001\.json has rows"):
        lacking.rounds()


@pytest.mark.parametrize("data", [b"[]", b'["digest"]', b"7", b"null", b"{}", b"{", b"[" * 100_000])
def test_a_file_in_the_place_of_a_round_is_a_sentence(lacking, data):
    begin(lacking)
    (lacking.retries / "001.json").write_bytes(data)
    with pytest.raises(DamagedPlan, match="is no round of quiver retry"):
        lacking.rounds()


@pytest.mark.parametrize("name", ["outcome", "reason"])
@pytest.mark.parametrize("value", [["missing"], {"missing": 1}])
def test_a_value_of_another_kind_in_a_record_that_anyone_made_is_a_sentence(lacking, name, value):
    record = read_record_json(lacking, SHARD)
    record["rows"][-1][name] = value
    write_record_json(lacking, SHARD, record)
    with pytest.raises(DamagedShard):
        finalize(lacking)
    rows = [make_plan_row(SHARD, WINDOWS)]
    assert dataset_repair.keep_failures(lacking, SHARD, rows) == rows


OPENED: list[str] = []
"""Names of the rounds' files that this process has opened."""


@pytest.fixture(scope="module")
def opened() -> list[str]:
    """Python tells of each file that is opened; a hook cannot be taken away again."""

    def note(event: str, arguments: tuple) -> None:
        if event == "open" and isinstance(arguments[0], str) and "/retries/" in arguments[0]:
            OPENED.append(Path(arguments[0]).name)

    sys.addaudithook(note)
    return OPENED


@pytest.mark.parametrize("per_shard", [1, 4])
def test_a_round_is_read_as_often_for_many_shards_as_for_one(lacking, opened, per_shard):
    begin(lacking, per_shard)
    opened.clear()
    unbuilt = unbuilt_shards(lacking)
    assert len(unbuilt) == WINDOWS // 2 // per_shard and len(opened) == 1
    opened.clear()
    rows = dataset_repair.rows_to_rebuild(lacking, set(unbuilt))
    assert rows == unbuilt and len(opened) <= 2


def finish_by_retry(dataset: Dataset) -> None:
    retry_verb.main([str(dataset.root)])


def finish_by_extraction(dataset: Dataset) -> None:
    """What the extract-flow command does once its clips are probed, as if on the same machine."""
    job = extract_flow.parse_job(["--clips", "none", "--out", str(dataset.root)])
    rows = list(dataset.stream_first_plan())
    with dataset.lock():
        extract_flow.run_job(dataset, rows, job, to_contract(CONFIG), 1)


@pytest.mark.thorough
@pytest.mark.parametrize("derived", [False, True], ids=["before finalize", "before the views"])
@pytest.mark.parametrize("finish", [finish_by_retry, finish_by_extraction])
def test_whatever_finishes_a_retry_leaves_no_report_and_no_view_of_before(lacking, finish, derived):
    with lacking.lock():
        refilter(lacking, "all", PRESETS["none"], map_serially)
    lacking.report.write_text("as it was")
    begin(lacking)
    for shard, rows in unbuilt_shards(lacking).items():
        commit(lacking, shard, rows)
    if derived:
        finalize(lacking)
    finish(lacking)
    assert kept(lacking) == WINDOWS and not lacking.report.exists() and not verify(lacking).faults
    view = DatasetView(lacking, "all")
    assert sum(entry.kept for entry in view.read_index().shards.values()) == WINDOWS
    lacking.report.write_text("drawn since")
    finish(lacking)
    assert lacking.report.exists(), "a report of what is there now stays"
