"""The real command on real files: what it writes, what it refuses, and that no worker count,
restart or thread changes a byte.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.cli.errors import ExitCode
from jobs.cli.workers import QuarantineCounter
from jobs.extract_flow import list_hints, main, parse_job
from pipeline.dataset.folder import Dataset
from pipeline.dataset.histogram import decode
from pipeline.dataset.open import DatasetView, iter_samples
from pipeline.dataset.shards import read_sample
from pipeline.flow.consistency import BELIEVED
from schemas.outcome import Outcome, Reason, WindowOutcome
from tests.support import videos

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "--size",
    "64x40",
    "--frames",
    "24",
    "--frequencies",
    "12",
    "--stride",
    "12",
    "--windows-per-shard",
    "8",
    "--filters",
    "subtle",
    "--test-fraction",
    "0.4",
    "--dis-preset",
    "fast",
]
GOOD, WINDOWS = 7, 7 * 4


def extract(clips: Path, out: Path, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "jobs.extract_flow",
        "--clips",
        str(clips),
        "--out",
        str(out),
        *SMALL,
        *options,
    ]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True, timeout=240
    )


def contents(dataset: Path) -> dict[str, bytes]:
    """Returns every file of a dataset whose bytes are promised."""
    names = [
        *dataset.glob("shards/*"),
        *dataset.glob("records/*"),
        *dataset.glob("histograms/*"),
        dataset / "manifest.parquet",
        dataset / "summary.json",
    ]
    return {str(path.relative_to(dataset)): path.read_bytes() for path in names}


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    (folder / "deep").mkdir()
    for i in range(GOOD):
        videos.write_swaying(
            folder / ("deep" if i % 2 else ".") / f"good {i}.mp4",
            seconds=2,
            amplitude=1.5,
            hertz=1.0 + 0.25 * i,
            size=(96, 60),
            seed=i,
        )
    for reason, make in videos.BROKEN_VIDEO_WRITERS.items():
        make(folder / f"{reason}.mp4")
    (folder / "notes.txt").write_text("not listed")
    return folder


@pytest.fixture(scope="module")
def reference(clips, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "dataset"
    done = extract(clips, out, "--workers", "2", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert f"{GOOD + len(videos.BROKEN_VIDEO_WRITERS)} clips, {WINDOWS} windows" in done.stdout
    return out


@pytest.fixture(scope="module")
def rows(reference) -> list[dict]:
    return pq.read_table(reference / "manifest.parquet").to_pylist()


@pytest.mark.thorough
def test_every_window_and_every_clip_without_one_is_one_row(rows):
    assert (
        len([row for row in rows if row["key"]])
        == len({row["key"] for row in rows if row["key"]})
        == WINDOWS
    )
    assert Counter(row["reason"] for row in rows if row["key"] is None) == Counter(
        list(videos.BROKEN_VIDEO_WRITERS)
    )
    assert all(
        row["outcome"] == "quarantined" and row["shard"] is None and row["start_frame"] is None
        for row in rows
        if row["key"] is None
    )


def test_the_readmes_own_code_reads_a_data_set(reference, tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "dataset").symlink_to(reference)
    (code,) = [
        block.split("```")[0] for block in (ROOT / "README.md").read_text().split("```python\n")[1:]
    ]
    done = subprocess.run(
        [sys.executable, "-c", code + "print(sample.motion().shape)"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.endswith("(24, 2, 40, 64)\n"), done.stderr


def test_every_kept_row_leads_to_its_sample(reference, rows):
    kept = [row for row in rows if row["outcome"] == "kept"]
    assert {row["split"] for row in kept} == {"train", "test"}
    for row in kept:
        sample = read_sample(Dataset(reference).tar_path(row["shard"]), row["key"], row)
        assert sample.spectrum.shape == (12, 4, 40, 64)
        assert (
            sample.meta["start_time_s"] == row["start_time_s"]
            and sample.meta["split"] == row["split"] == row["shard"].split("-")[0]
        )


def test_histograms_count_every_coefficient_of_their_shard_whose_flow_is_believed(reference):
    dataset, believed = Dataset(reference), 0
    for record in (json.loads(path.read_bytes()) for path in reference.glob("records/*.json")):
        pixels = sum(
            np.count_nonzero(sample.confidence >= BELIEVED)
            for sample in iter_samples(DatasetView(dataset), record["shard"])
        )
        counts = decode(dataset.histogram_path(record["shard"]).read_bytes())
        assert counts.sum() == record["values"] == pixels * counts.shape[0] * 2
        believed += pixels
    assert believed > 0


def test_every_measure_is_recorded_whatever_the_fate(rows):
    for row in rows:
        if row["key"]:
            assert (
                row["mean_motion_px"] > 0
                and row["frame_rate"] == pytest.approx(30, abs=0.1)
                and len(row["power_x"]) == 13
            )


@pytest.mark.slow
def test_one_worker_two_decoders_and_two_blas_threads_give_the_same_bytes(
    clips, reference, tmp_path
):
    done = extract(
        clips,
        tmp_path / "again",
        "--workers",
        "1",
        "--decoders-per-worker",
        "2",
        OMP_NUM_THREADS="2",
        OPENBLAS_NUM_THREADS="2",
    )
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "again") == contents(reference)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes_and_rewrites_nothing(clips, reference, tmp_path):
    out = tmp_path / "killed"
    command = [
        sys.executable,
        "-m",
        "jobs.extract_flow",
        "--clips",
        str(clips),
        "--out",
        str(out),
        *SMALL,
        "--workers",
        "1",
    ]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(out.glob("records/*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    committed = {path: path.stat().st_mtime_ns for path in [*out.glob("records/*.json")]}
    assert committed and not (out / "manifest.parquet").exists()
    done = extract(clips, out, "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert contents(out) == contents(reference)
    assert all(path.stat().st_mtime_ns == written for path, written in committed.items())


@pytest.mark.slow
def test_the_same_command_again_has_nothing_left_to_do(clips, reference):
    before = contents(reference)
    done = extract(clips, reference)
    assert done.returncode == 0 and " 0 left" in done.stdout
    assert (
        "of an earlier run: of each the size, its first and its last sample were looked at, "
        "quiver verify reads all" in done.stdout
    )
    assert contents(reference) == before


@pytest.mark.thorough
@pytest.mark.parametrize("harm", ["zero a tail", "swap"])
def test_a_committed_tar_that_is_seen_to_be_damaged_is_named(clips, reference, tmp_path, harm):
    """The run that would otherwise take it for done names it; single bits are left to verify."""
    out = shutil.copytree(reference, tmp_path / "dataset")
    one, other = sorted(path for path in (out / "shards").iterdir())[:2]
    data = one.read_bytes()
    if harm == "swap":
        one.write_bytes(other.read_bytes().ljust(len(data), b"\0")[: len(data)])
    else:
        one.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    done = extract(clips, out, "--workers", "1")
    assert done.returncode == 5 and "Traceback" not in done.stderr, done.stderr
    assert f"{one} " in done.stderr and f"quiver verify {out} names every fault" in done.stderr


@pytest.mark.thorough
def test_another_configuration_is_refused_with_both_values(clips, reference):
    before = contents(reference)
    done = extract(clips, reference, "--frequencies", "8", "--no-sway-px", "0.2")
    assert done.returncode == 3
    assert (
        "frequencies: 12 -> 8" in done.stderr and "thresholds.no_sway_px: 0.3 -> 0.2" in done.stderr
    )
    assert contents(reference) == before


@pytest.mark.thorough
def test_a_folder_with_other_files_is_not_begun_in(clips, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    done = extract(clips, tmp_path)
    assert (
        done.returncode == 2
        and "holds other files (README.md), expected a new or an empty folder" in done.stderr
    )
    assert (tmp_path / "README.md").read_text() == "mine" and not (tmp_path / "run.json").exists()


@pytest.mark.thorough
def test_another_clip_is_refused_by_name(clips, reference, tmp_path):
    for path in clips.rglob("*.mp4"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    videos.write_swaying(tmp_path / "new.mp4", seconds=2, seed=99)
    done = extract(tmp_path, reference)
    assert done.returncode == 3 and "clip added" in done.stderr and "new.mp4" in done.stderr


@pytest.mark.thorough
def test_a_dry_run_says_what_a_run_would_do_and_writes_nothing(clips, tmp_path):
    done = extract(clips, tmp_path / "out", "--dry-run", "--limit", "3")
    assert (
        done.returncode == 0
        and "3 clips" in done.stdout
        and "shards" in done.stdout
        and "B\n" in done.stdout
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.sample(2)
@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--clips", "{tmp}/nowhere", "--out", "{tmp}/out"], "nowhere' does not exist"),
        (["--clips", "{tmp}", "--out", "{tmp}/out"], "no video files in"),
        (["--clips", "{tmp}/typo.mp4", "--out", "{tmp}/out"], "typo.mp4' does not exist"),
        (["--clips", "--out", "{tmp}/out"], "--clips is empty"),
        (
            ["--clips", "{tmp}/a.mp4", "--out", "{tmp}/out", "--workers", "0"],
            "--workers is 0, expected at least 1",
        ),
        (["--clips", "{tmp}/a.mp4", "--out", "{tmp}/out", "--filters", "strict"], "strict"),
        (
            ["--clips", "{tmp}/a.mp4", "--out", "{tmp}/out", "--size", "big"],
            "--size is big, expected WIDTHxHEIGHT",
        ),
        (
            ["--clips", "{tmp}/a.mp4", "--out", "{tmp}/out", "--frequencies", "90"],
            "frequencies is 90, expected 1 to 76",
        ),
        (
            ["--clips", "{tmp}/a.mp4", "--out", "{tmp}/out", "--decoders-per-worker", "0"],
            "--decoders-per-worker is 0, expected at least 1",
        ),
        (
            ["--clips", "{tmp}/a.mp4", "--out", "{tmp}/out", "--gpus-per-worker", "-1"],
            "--gpus-per-worker is -1.0, expected 0 to 8",
        ),
        (
            ["--clips", "{tmp}/a.mp4", "--out", "{tmp}/out", "--deadline-s", "0"],
            "deadline_s is 0.0, expected more than 0",
        ),
        (
            [
                "--clips",
                "{tmp}/a.mp4",
                "--out",
                "{tmp}/out",
                "--flow",
                "raft_small",
                "--size",
                "64x40",
            ],
            "size is 64x40, expected more than 120 pixels",
        ),
        (
            [
                "--clips",
                "{tmp}/a.mp4",
                "--out",
                "{tmp}/out",
                "--flow",
                "raft_small",
                "--weights",
                "{tmp}/no.pth",
            ],
            "no.pth, expected default or a file",
        ),
        (
            ["--clips", "{tmp}/a.mp4", "--out", "{tmp}/out", "--gpus-per-worker", "4"],
            "a worker needs 1 CPUs and 4 GPUs, the best node of the cluster has",
        ),
        (
            ["--clips", "{tmp}/a.mp4", "--out", "{tmp}/out", "--no-motion-pix", "1"],
            "--no-motion-pix",
        ),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(tmp_path, capsys, arguments, words):
    if words != "no video files in":
        videos.write_swaying(tmp_path / "a.mp4", seconds=0.2)
    with pytest.raises(SystemExit) as stopped:
        main([argument.format(tmp=tmp_path) for argument in arguments])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and error.startswith("quiver")


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    videos.write_swaying(tmp_path / "a.mp4", seconds=1)
    with pytest.raises(SystemExit) as stopped:
        main(["--clips", str(tmp_path / "a.mp4"), "--out", str(tmp_path / "file" / "out")])
    assert stopped.value.code == 5
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.thorough
def test_a_run_of_which_most_is_quarantined_stops_and_goes_on(tmp_path):
    """Its first shard is committed and stays; four clips of which only the beginning can be decoded
    follow.
    """
    names, windows = (
        ["a good", *[f"b bad {i}" for i in range(4)]],
        ["--stride", "2", "--windows-per-shard", "8", "--test-fraction", "0", "--workers", "1"],
    )
    for i, name in enumerate(names):
        path = videos.write_swaying(
            tmp_path / f"{name}.mp4", seconds=1.3, amplitude=1.5, hertz=1.25, seed=i
        )
        if i:
            data = path.read_bytes()
            end = data.index(b"moov") - 4
            start = end * 7 // 10
            path.write_bytes(data[:start] + bytes(end - start) + data[end:])
    (tmp_path / "clips.csv").write_text(
        "\n".join(["uri,clip_id", *(f"{name}.mp4,{name}" for name in names)]) + "\n"
    )
    table, out = tmp_path / "clips.csv", tmp_path / "out"
    done = extract(table, out, *windows)
    assert done.returncode == ExitCode.QUARANTINE and done.stderr.count("\n") == 1, done.stderr
    said = re.fullmatch(
        r"quiver: (\d+) of the (\d+) windows that .* over --quarantine-limit 0.5, "
        r"most often decode_error \((\d+), as: .*",
        done.stderr.strip(),
    )
    assert said and 20 <= int(said[2]) < 2 * int(said[1]) and said[1] == said[3], done.stderr
    before = contents_of_records(out)
    assert before and not (out / "manifest.parquet").exists()
    again = extract(table, out, *windows, "--quarantine-limit", "1")
    assert again.returncode == 0, again.stderr
    assert before.items() < contents_of_records(out).items()
    rows = pq.read_table(out / "manifest.parquet").to_pylist()
    assert {row["outcome"] for row in rows if row["clip_id"] == "a good"} == {"kept"} and {
        row["reason"] for row in rows
    } == {None, "decode_error"}


def contents_of_records(out: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_ino) for path in out.glob("records/*")}


def decided(clip: int, outcome: Outcome = Outcome.QUARANTINED) -> WindowOutcome:
    return WindowOutcome(
        f"clip-{clip}-000000",
        outcome,
        *((Reason.TIMEOUT, "too late") if outcome == Outcome.QUARANTINED else ()),
    )


@pytest.mark.parametrize(
    "limit, came",
    [
        (0.5, [decided(i) for i in range(19)]),
        (0.5, [decided(i % 2) for i in range(200)]),
        (0.5, [decided(i, (Outcome.KEPT, Outcome.QUARANTINED)[i % 2]) for i in range(200)]),
        (1.0, [decided(i) for i in range(200)]),
    ],
    ids=["few windows", "two long clips", "not over it", "1 is no limit"],
)
def test_a_quarantine_that_is_no_broken_machine(limit, came):
    quarantine = QuarantineCounter(limit)
    for window in came:
        quarantine.add(window)


def test_a_quarantine_ends_the_run_when_it_is_over_its_limit(capsys):
    quarantine = QuarantineCounter(0.1)
    for i in range(99):
        quarantine.add(decided(i, Outcome.QUARANTINED if i < 9 else Outcome.REJECTED))
    quarantine.add(decided(9))
    with pytest.raises(SystemExit) as stopped:
        quarantine.add(decided(10))
    assert stopped.value.code == ExitCode.QUARANTINE
    assert (
        "11 of the 101 windows" in (said := capsys.readouterr().err)
        and "timeout (11, as: too late)" in said
    )


def test_a_run_that_finds_everything_too_still_names_the_preset_for_it():
    summary = {"windows": 100, "kept": 5, "rejected_by_reason": {"no_motion": 95}}
    job = parse_job(["--clips", "a", "--out", "b", "--filters", "paper"])
    assert "--filters subtle" in " ".join(list_hints(summary, job))
    assert list_hints(summary | {"rejected_by_reason": {"no_motion": 80}}, job) == []
    assert list_hints(summary, parse_job(["--clips", "a", "--out", "b"])) == []
    assert (
        "nothing was kept"
        in list_hints({"windows": 0, "kept": 0, "rejected_by_reason": {}}, job)[0]
    )


def test_stabilizing_is_an_option_that_is_off_by_default(capsys):
    options = ["--clips", "a", "--out", "b"]
    assert parse_job(options).build.stabilize is False
    assert parse_job([*options, "--stabilize"]).build.stabilize is True
    with pytest.raises(SystemExit):
        parse_job(["--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--stabilize" in text and "Subtract the motion of a hand-held camera" in text


@pytest.mark.thorough
@pytest.mark.parametrize(
    "command", [["-m", "jobs.cli.main"], ["jobs/extract_flow.py"], ["-m", "jobs.extract_flow"]]
)
def test_help_needs_no_cluster(command):
    done = subprocess.run(
        [sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and ("extract-flow" in done.stdout or "--clips" in done.stdout)


def test_the_job_file_can_be_run():
    assert os.access(ROOT / "jobs" / "extract_flow.py", os.X_OK)


@pytest.fixture(scope="module")
def short_clips(tmp_path_factory) -> Path:
    """Four clips of 2.5 s and one of 1 s, at 12 frames a second."""
    folder = tmp_path_factory.mktemp("short")
    for i, seconds in enumerate((2.5, 2.5, 2.5, 2.5, 1.0)):
        videos.write_swaying(
            folder / f"{i}.mp4", seconds=seconds, fps=12, hertz=1.0, size=(64, 40), seed=i
        )
    return folder


AUTO = ["--frames", "auto", "--fps", "12", "--frequencies", "8"]


def test_auto_takes_a_window_that_most_clips_have_room_for_and_keeps_it(short_clips, tmp_path):
    out = tmp_path / "dataset"
    first = extract(short_clips, out, *AUTO)
    assert first.returncode == 0, first.stderr
    assert "--frames auto is 29, a window of 2.42 s: it keeps 4 of 5 clips (80 %)" in first.stdout
    assert "1 of 5 clips is shorter than a window of 2.42 s (--frames 29)\n" in first.stdout
    assert Dataset(out).contract().config["plan"]["frames"] == 29
    before = contents(out)
    again = extract(short_clips, out, *AUTO)
    assert again.returncode == 0, again.stderr
    assert contents(out) == before and "--frames auto is 29, as in the dataset" in again.stdout


def test_a_dry_run_says_which_window_would_keep_the_short_clips(short_clips, tmp_path):
    done = extract(short_clips, tmp_path / "none", *AUTO, "--frames", "60", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert (
        "5 of 5 clips are shorter than a window of 5 s (--frames 60); "
        "--frames 29 would keep 4 of 5 clips (80 %)\n" in done.stdout
    )


def test_the_last_number_of_frames_counts_and_auto_is_one(capsys):
    options = ["--clips", "a", "--out", "b"]
    assert parse_job([*options, "--frames", "60", "--frames=auto"]).auto_frames
    job = parse_job([*options, "--frames=auto", "--frames", "60"])
    assert (job.auto_frames, job.build.plan.frames) == (False, 60)
    with pytest.raises(SystemExit):
        parse_job([*options, "--frames", "some"])
    assert "--frames is some, expected a whole number" in capsys.readouterr().err
    with pytest.raises(ValueError, match="frequencies is 40, expected 1 to 31"):
        parse_job([*options, "--frames", "auto", "--frequencies", "40"])
