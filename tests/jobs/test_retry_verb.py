"""A machine that is broken at the probe loses no clip: nothing is written, or what failed is tried
again by `quiver retry`.
"""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.cli.errors import ExitCode
from jobs.cli.workers import collect_readable
from pipeline.extract.config import PlanConfig
from pipeline.extract.plan_clip import PlannedClip, failed_clip
from schemas.clip import Clip
from schemas.outcome import ENVIRONMENTAL_REASONS, Outcome, Quarantined, Reason, Stage
from tests.support import videos

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "--size",
    "64x48",
    "--frames",
    "24",
    "--frequencies",
    "4",
    "--stride",
    "24",
    "--filters",
    "none",
    "--dis-preset",
    "fast",
    "--pairs",
    "1",
    "--checks",
    "1",
    "--workers",
    "1",
]
CLIPS = 12


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """A table whose last clip is missing."""
    folder = tmp_path_factory.mktemp("clips")
    for i in range(CLIPS):
        videos.write_swaying(folder / f"{i:02d}.mp4", seconds=0.8, size=(96, 72), seed=i)
    (folder / "clips.csv").write_text(
        "\n".join(["uri", *(f"{i:02d}.mp4" for i in range(CLIPS)), "later.mp4"]) + "\n"
    )
    return folder


def run(verb: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"jobs.{verb}", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True, timeout=240
    )


def extract(clips: Path, out: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return run(
        "extract_flow", "--clips", str(clips / "clips.csv"), "--out", str(out), *SMALL, **env
    )


def without_av(folder: Path) -> str:
    """A folder for PYTHONPATH in which the decoder process, and no other, finds no PyAV, as after
    half an update.
    """
    folder.mkdir()
    stub = (
        "import sys\nif 'pipeline.decode.worker' in sys.orig_argv:\n    sys.modules['av'] = None\n"
    )
    (folder / "sitecustomize.py").write_text(stub)
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


def outcomes(out: Path) -> list[tuple[str, str | None]]:
    rows = pq.read_table(out / "manifest.parquet").to_pylist()
    return sorted((Path(row["uri"]).name, row["reason"]) for row in rows)


@pytest.mark.thorough
def test_a_machine_that_cannot_probe_writes_nothing_and_a_sound_one_then_makes_the_data_set(
    clips, tmp_path
):
    out = tmp_path / "out"
    done = extract(clips, out, PYTHONPATH=without_av(tmp_path / "stub"))
    assert done.returncode == ExitCode.QUARANTINE and done.stderr.count("\n") == 1, done.stderr
    assert (
        "of 13 clips could not be read" in done.stderr
        and "most often crash" in done.stderr
        and "quiver doctor" in done.stderr
    )
    assert [path.name for path in out.iterdir()] == [".fence"]

    done = extract(clips, out)
    assert done.returncode == 0, done.stderr
    assert "1 clip failed for a reason that may be the machine's: quiver retry" in done.stdout
    sound = [(f"{i:02d}.mp4", None) for i in range(CLIPS)]
    assert outcomes(out) == [*sound, ("later.mp4", "missing")]
    told = json.loads(run("status", str(out), "--json").stdout)
    assert (
        told["retryable"] == {"clips": 1, "windows": 0}
        and f"quiver retry {out}" in run("status", str(out)).stdout
    )

    done = run("retry", str(out), "--workers", "1")
    assert (
        done.returncode == ExitCode.QUARANTINE and "1 of 1 clips could not be read" in done.stderr
    ), done.stderr
    assert not (out / "retries").exists()
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in out.glob("records/*")}
    (clips / "later.mp4").write_bytes((clips / "00.mp4").read_bytes() + bytes(8))
    again = extract(clips, out)
    assert again.returncode == 0 and "quiver retry" in again.stdout, again.stderr
    assert outcomes(out)[-1] == ("later.mp4", "missing")

    done = run("retry", str(out), "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert outcomes(out) == [*sound, ("later.mp4", None)]
    assert (
        before.items()
        <= {path: (path.stat().st_ino, path.read_bytes()) for path in out.glob("records/*")}.items()
    )
    (row,) = [
        row
        for row in pq.read_table(out / "manifest.parquet").to_pylist()
        if row["uri"].endswith("later.mp4")
    ]
    assert (
        row["sha256"] and row["split"] in ("train", "test") and row["clip_id"] == row["sha256"][:16]
    )
    done = run("retry", str(out), "--workers", "1")
    assert done.returncode == 0 and "nothing failed" in done.stdout, done.stderr
    assert run("verify", str(out)).returncode == 0
    assert extract(clips, out).returncode == 0, "the plan is the one that the folder was begun with"
    assert outcomes(out) == [*sound, ("later.mp4", None)]


def planned(number: int, reason: Reason | None = None) -> PlannedClip:
    clip = Clip(uri=f"/clips/{number}.mp4", clip_id=str(number))
    sound = PlannedClip(clip=clip, clip_id=str(number), split="train", sha256="0", bytes=1)
    return (
        failed_clip(clip, Quarantined(Stage.PROBE, reason, "as it was"), PlanConfig())
        if reason
        else sound
    )


@pytest.mark.parametrize("reason", sorted(ENVIRONMENTAL_REASONS))
@pytest.mark.parametrize("failed, total", [(1, 1), (2, 2), (3, 3), (3, 5), (12, 12), (60, 100)])
def test_too_many_clips_that_cannot_be_read_end_the_run(failed, total, reason, capsys):
    with pytest.raises(SystemExit) as stopped:
        collect_readable(
            (planned(i, reason if i < failed else None) for i in range(total)), total, 0.5
        )
    assert stopped.value.code == ExitCode.QUARANTINE
    assert (
        f"of {total} clips" in (said := capsys.readouterr().err)
        and f"most often {reason}" in said
        and "/clips/" in said
    )


@pytest.mark.parametrize(
    "failed, total, limit", [(1, 2, 0.5), (2, 3, 0.5), (1, 100, 0.0), (50, 100, 0.5), (12, 12, 1.0)]
)
def test_a_few_clips_that_cannot_be_read_end_nothing(failed, total, limit):
    clips = [planned(i, Reason.MISSING if i < failed else None) for i in range(total)]
    assert collect_readable(clips, total, limit) == clips


def test_what_a_video_is_ends_no_run():
    clips = [planned(i, Reason.NOT_MEDIA) for i in range(12)]
    assert collect_readable(clips, 12, 0.5) == clips and all(
        clip.outcome == Outcome.QUARANTINED for clip in clips
    )


@pytest.mark.parametrize("out", ["", " "])
@pytest.mark.parametrize(
    "verb, rest",
    [
        ("extract_flow", ["--clips", "clips"]),
        ("make_clips", []),
        ("animate", ["a.png", "--motion-from", "a.mp4"]),
    ],
)
def test_an_empty_name_of_what_is_to_be_written_is_refused(
    tmp_path, monkeypatch, capsys, verb, rest, out
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(f"jobs.{verb}").main([*rest, "--out", out])
    assert (
        stopped.value.code == ExitCode.USAGE
        and f"--out is {out!r}" in (said := capsys.readouterr().err)
        and said.count("\n") == 1
    )
    assert not list(tmp_path.iterdir())
