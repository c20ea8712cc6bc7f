"""Datasets that somebody wrote to do harm, or that were mixed up: a sentence and an exit code,
never a traceback.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from jobs import finalize, preview, refilter, report_statistics, status, verify
from jobs.cli.errors import ExitCode
from pipeline.dataset.finalize import finalize as derive
from pipeline.dataset.folder import Dataset
from pipeline.dataset.open import DamagedDerived, DatasetView, open_dataset
from pipeline.dataset.views import refilter as make_view
from pipeline.report import queries
from pipeline.report.queries import read_log
from pipeline.report.stats import merge_logs
from schemas.seal import open_seal, seal
from tests.pipeline.dataset.test_views import one_by_one
from tests.support.damage import read_record_json, rewrite_sealed_file, write_record_json
from tests.support.datasets import write_dataset

SHARDS = {
    "train-000000": [{}] * 3,
    "train-000001": [{}, {"mean_motion_px": 3.0}, {"mean_motion_px": 0.1}],
    "test-000000": [{}],
}
DEEP, HUGE = b"[" * 100_000, 10**400
ONE = "train-000001"
LINE = dict(kept=1, rejected=0, quarantined=0, elapsed_s=1, seconds=1, waiting_share=0, at=1)
JOBS = {
    "status": status,
    "verify": verify,
    "finalize": finalize,
    "report": report_statistics,
    "view": report_statistics,
    "refilter": refilter,
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sound") / "a"
    make_view(
        write_dataset(root, SHARDS),
        "strict",
        DatasetView(Dataset(root)).thresholds().__class__(no_motion_px=2.5),
        one_by_one,
    )
    return root


@pytest.fixture
def root(sound, tmp_path) -> Path:
    return shutil.copytree(sound, tmp_path / "a")


def code_of(name: str, root: Path, capsys) -> tuple[int, str]:
    """Returns exit code and all output; any other exception is not caught."""
    more = dict(
        refilter=["--name", "b", "--no-motion-px", "2.5"],
        view=["--out", f"{root}.json", "--report", f"{root}.html"],
    ).get(name, [])
    try:
        JOBS[name].main([f"{root}:strict" if name == "view" else str(root), *more])
        code = 0
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    return code, "".join(capsys.readouterr())


def entry(path: Path, **changes: Any) -> None:
    shards = json.loads(path.read_bytes())["shards"]
    rewrite_sealed_file(path, shards=shards | {ONE: shards[ONE] | changes})


def record(root: Path, **changes: Any) -> None:
    """Writes a record with a digest that agrees."""
    write_record_json(Dataset(root), ONE, read_record_json(Dataset(root), ONE) | changes)


def row(root: Path, **changes: Any) -> None:
    rows = read_record_json(Dataset(root), ONE)["rows"]
    record(root, rows=[rows[0] | changes, *rows[1:]])


def run(root: Path, versions: Any = None, plan: Any = None, **changes: Any) -> None:
    """Writes another run.json, with records and indices that agree."""
    config = json.loads((root / "run.json").read_bytes())["config"]
    rewrite_sealed_file(
        root / "run.json",
        config=config | changes | ({} if plan is None else dict(plan=config["plan"] | plan)),
        **({} if versions is None else dict(versions=versions)),
    )
    digest = hashlib.sha256((root / "run.json").read_bytes()).hexdigest()
    for path in (root / "records").iterdir():
        path.write_bytes(seal(open_seal(path.read_bytes()) | dict(run=digest)))
    for path in (root / "index.json", root / "views" / "strict.index.json"):
        rewrite_sealed_file(path, run=digest)


def swap(root: Path) -> None:
    one, other = root / "records" / "train-000000.json", root / "records" / "train-000001.json"
    first = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(first)


HARM = {
    "two records changed places": swap,
    "an index without shards": lambda root: rewrite_sealed_file(root / "index.json", shards=[]),
    "an index entry of another kind": lambda root: entry(root / "index.json", kept="9"),
    "an index entry without content": lambda root: entry(root / "index.json", content=None),
    "an index without histogram": lambda root: rewrite_sealed_file(
        root / "index.json", histogram=3
    ),
    "a deep index": lambda root: (root / "index.json").write_bytes(DEEP),
    "a deep run.json": lambda root: (root / "run.json").write_bytes(DEEP),
    "an index entry of a view": lambda root: entry(
        root / "views" / "strict.index.json", split=None
    ),
    "deep thresholds": lambda root: (root / "views" / "strict.json").write_bytes(DEEP),
    "huge thresholds": lambda root: rewrite_sealed_file(
        root / "views" / "strict.json", thresholds=dict(no_motion_px=HUGE)
    ),
    "no thresholds": lambda root: (root / "views" / "strict.json").write_bytes(b"{"),
    "a manifest of other columns": lambda root: shutil.copy(
        root / "plan.parquet", root / "manifest.parquet"
    ),
    "a deep log": lambda root: (root / "progress.jsonl").write_bytes(DEEP),
    "a huge count in a log": lambda root: (root / "progress.jsonl").write_text(
        json.dumps(LINE | dict(kept=HUGE))
    ),
    "a huge time in a log": lambda root: (root / "progress.jsonl").write_text(
        json.dumps(LINE | dict(elapsed_s=HUGE))
    ),
    "huge scales": lambda root: rewrite_sealed_file(root / "statistics.json", scale=[HUGE] * 4),
    "no settings": lambda root: rewrite_sealed_file(root / "run.json", config={}),
    "settings in a list": lambda root: run(root, plan=None, size="ab"),
    "no rate": lambda root: run(root, plan=dict(fps=0)),
    "a rate in words": lambda root: run(root, plan=dict(fps="<b>")),
    "no frames": lambda root: run(root, plan=dict(frames=0)),
    "huge frames": lambda root: run(root, plan=dict(frames=HUGE)),
    "a billion frequencies": lambda root: run(root, frequencies=10**9),
    "frequencies in words": lambda root: run(root, frequencies="4"),
    "flow in a list": lambda root: run(root, flow=[]),
    "versions in a list": lambda root: run(root, versions=[]),
    "a record without rows": lambda root: record(root, rows=None),
    "a record with rows in words": lambda root: record(root, rows="x"),
    "a record with some rows": lambda root: record(
        root, rows=read_record_json(Dataset(root), ONE)["rows"][:1]
    ),
    "a record without size": lambda root: record(root, tar=dict(sha256="0")),
    "a record with a tar in words": lambda root: record(root, tar="x"),
    "a record of elsewhere": lambda root: record(root, shard="../../x"),
    "a record of another run": lambda root: record(root, run="0" * 64),
    "a huge offset": lambda root: row(root, image_offset=2**70),
    "a measure in words": lambda root: row(root, mean_motion_px="x"),
    "a row without measure": lambda root: row(root, mean_motion_px=None),
    "a row with another outcome": lambda root: row(root, outcome="evil"),
}


@pytest.mark.sample(2)
@pytest.mark.slow
@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("name", ["status", "verify", "finalize", "report", "view", "refilter"])
def test_what_is_wrong_is_said_in_a_sentence(root, capsys, harm, name):
    HARM[harm](root)
    code, said = code_of(name, root, capsys)
    assert code in (0, 2, 5) and "Traceback" not in said
    if name == "verify":
        assert code == 5 and "fault" in said


@pytest.mark.slow
def test_a_flipped_bit_in_the_manifest_is_named(root):
    """A flipped bit is found anywhere: Parquet's own checksums leave out headers and footer."""
    path, said = root / "manifest.parquet", 0
    whole = path.read_bytes()
    places = range(0, 8 * len(whole), 8 * len(whole) // 600)
    for place in places:
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
        try:
            DatasetView(Dataset(root)).read_table()
        except ValueError as error:
            assert str(error).startswith(f"{path} cannot be read (") and "quiver finalize" in str(
                error
            )
            said += 1
    assert said == len(places)


def test_a_report_of_a_manifest_with_a_flipped_bit_names_the_manifest(root):
    path, selection, said = root / "manifest.parquet", [DatasetView(Dataset(root))], 0
    whole = path.read_bytes()
    places = range(5, 8 * len(whole), 8 * len(whole) // 200)
    for place in places:
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
        try:
            rows = queries.read_rows(selection)
            queries.read_full_rows(selection, rows.to_pylist())
            queries.read_powers(selection, rows.slice(0, 5))
            queries.read_quarantined(selection, 5)
        except DamagedDerived as error:
            assert str(error).startswith(f"{path} cannot be read (") and str(error).endswith(
                f"quiver finalize {root} rebuilds it"
            )
            said += 1
    assert said == len(places)


@pytest.mark.thorough
def test_a_manifest_that_was_damaged_after_the_run_ends_the_report_as_storage_does(root, capsys):
    path = root / "manifest.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 1
    path.write_bytes(data)
    code, said = code_of("report", root, capsys)
    assert (
        code == ExitCode.STORAGE
        and f"{path} cannot be read" in said
        and f"quiver finalize {root} rebuilds it" in said
    )
    assert code_of("status", root, capsys)[0] == 0 and code_of("finalize", root, capsys)[0] == 0
    assert code_of("report", root, capsys)[0] == 0


@pytest.mark.parametrize("shard", ["../../x", "/x", "a.b", "", "x" * 61, "a\n"])
def test_a_shard_cannot_lead_out_of_its_folder(tmp_path, shard):
    for place in (
        Dataset(tmp_path).tar_path,
        Dataset(tmp_path).record_path,
        Dataset(tmp_path).histogram_path,
    ):
        with pytest.raises(ValueError, match="expected up to 60 letters"):
            place(shard)


def test_a_view_that_was_not_written_to_its_end_is_none(root, monkeypatch):
    monkeypatch.setattr(
        "pipeline.dataset.views.write_merged_histogram",
        lambda *_: (_ for _ in ()).throw(ValueError("stopped")),
    )
    with pytest.raises(ValueError, match="stopped"):
        make_view(Dataset(root), "strict", DatasetView(Dataset(root)).thresholds(), one_by_one)
    with pytest.raises(ValueError, match="is not there: quiver finalize"):
        open_dataset(f"{root}:strict").training_shards()


def test_a_view_of_other_tars_than_there_are_is_refused(root):
    row(root, mean_motion_px=2.75)  # as a shard that was built again and came out otherwise
    record(root, tar=read_record_json(Dataset(root), ONE)["tar"] | dict(sha256="0" * 64))
    derive(Dataset(root))
    with pytest.raises(ValueError, match=r"is of other tars than .* names: quiver finalize"):
        open_dataset(f"{root}:strict").training_shards()


def test_a_mistyped_folder_is_not_made(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        refilter.main([str(tmp_path / "typo"), "--filters", "none", "--name", "x"])
    assert (
        stopped.value.code == 2
        and "holds no dataset" in capsys.readouterr().err
        and not list(tmp_path.iterdir())
    )


def test_preview_takes_a_view(root, tmp_path, capsys):
    keys = {
        outcome: DatasetView(Dataset(root), "strict").kept_windows(["key"])["key"].to_pylist()
        for outcome in ("kept",)
    }["kept"]
    assert keys == ["clip-train-000001-0-000001"]
    preview.main([f"{root}:strict", keys[0], "--out", str(tmp_path / "a.png")])
    with pytest.raises(SystemExit) as stopped:
        preview.main(
            [f"{root}:strict", "clip-train-000000-0-000000", "--out", str(tmp_path / "b.png")]
        )
    assert stopped.value.code == 2 and "was rejected (no_motion)" in capsys.readouterr().err


def test_a_start_that_was_slow_to_its_first_shard_is_a_start_of_its_own(root):
    """Stopped after its first shard at 60 s; started an hour later, its first shard took 100 s."""
    lines = [
        LINE | dict(kept=6, elapsed_s=60, at=1060),
        LINE | dict(kept=6, elapsed_s=100, at=4700),
    ]
    (root / "progress.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = merge_logs([read_log(DatasetView(Dataset(root)))])
    assert (
        found is not None
        and found.minutes[-1] == pytest.approx(160 / 60)
        and found.rate == pytest.approx(12 / 160)
        and len(found.restarts) == 1
    )


def test_words_of_a_record_are_inert_in_the_card(root):
    rows = read_record_json(Dataset(root), ONE)["rows"]
    record(root, rows=[*rows[:-1], rows[-1] | dict(reason="<script>alert(1)</script> | [x](y)")])
    derive(Dataset(root))
    assert (
        "<script" not in Dataset(root).card.read_text()
        and "[x]" not in Dataset(root).card.read_text()
    )
