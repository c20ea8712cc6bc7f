"""The real command on small datasets: what it writes, what it refuses; and scales of real videos
whose motion is known.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.dataset.finalize import finalize
from pipeline.dataset.folder import Dataset
from schemas.statistics import decode_statistics
from tests.support import videos
from tests.support.datasets import write_dataset

ROOT = Path(__file__).resolve().parents[2]
SHARDS = {"train-000000": [{}] * 4, "train-000001": [{}] * 3, "test-000000": [{}] * 2}


def run(
    job: str, *arguments: object, cwd: Path = ROOT, **env: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"jobs.{job}", *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("statistics") / "a", SHARDS)


@pytest.mark.thorough
def test_any_number_of_workers_gives_the_same_bytes_and_touches_nothing_else(dataset, tmp_path):
    before = {path: path.read_bytes() for path in dataset.root.rglob("*") if path.is_file()}
    for workers in (1, 2):
        done = run(
            "report_statistics",
            dataset.root,
            "--exact",
            "--workers",
            workers,
            "--out",
            tmp_path / f"{workers}.json",
        )
        assert (
            done.returncode == 0 and f"statistics: {tmp_path / f'{workers}.json'}" in done.stdout
        ), done.stderr
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()
    assert {path: path.read_bytes() for path in dataset.root.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_other_quantiles_and_pools_need_no_tar(tmp_path):
    dataset = write_dataset(tmp_path / "a", SHARDS)
    for tar in dataset.shards.iterdir():
        tar.unlink()
    done = run(
        "report_statistics",
        dataset.root,
        "--quantile",
        "0.9",
        "--pool",
        "none",
        "--out",
        tmp_path / "s.json",
    )
    assert done.returncode == 0, done.stderr
    found = decode_statistics((tmp_path / "s.json").read_bytes())
    assert (found.quantile, found.pool) == (0.9, "none") and [
        f.scale for f in found.frequencies
    ] == list(found.scale)
    assert all(f.scale == (f.x.quantiles["0.9"], f.y.quantiles["0.9"]) for f in found.frequencies)


@pytest.mark.slow
def test_several_data_sets_are_merged(dataset, tmp_path):
    other = write_dataset(tmp_path / "b", SHARDS, seed=5)
    done = run("report_statistics", dataset.root, other.root, "--out", tmp_path / "s.json")
    assert (
        done.returncode == 0 and decode_statistics((tmp_path / "s.json").read_bytes()).windows == 14
    ), done.stderr


@pytest.mark.sample(2)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no dataset is named"),
        (("nowhere",), "nowhere holds no dataset: there is no run.json"),
        (("DATASET", "DATASET"), "require --out FILE"),
        (("DATASET", "--exact"), "require --out FILE"),
        (("DATASET", "--quantile", "0.9"), "require --out FILE"),
        (
            ("DATASET", "--quantile", "95", "--out", "s.json"),
            "quantile is 95, expected a number between 0 and 1",
        ),
        (("DATASET", "DATASET", "--out", "s.json"), "there twice"),
        (("DATASET:strict",), "has no view 'strict'"),
        (("DATASET", "--workers", "0"), "--workers is 0, expected at least 1"),
        (("DATASET", "--out", "."), "--out is '.', expected a file in a folder that exists"),
        (
            ("DATASET", "--report", "nowhere/a.html"),
            "--report is 'nowhere/a.html', expected a file in a folder",
        ),
        (
            ("DATASET", "--out", "DATASET/run.json"),
            "which is a dataset's own file, expected another name",
        ),
    ],
)
def test_a_wrong_request_is_one_sentence(dataset, tmp_path, arguments, words):
    done = run(
        "report_statistics",
        *(word.replace("DATASET", str(dataset.root)) for word in arguments),
        cwd=tmp_path,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr and not list(tmp_path.iterdir())
    assert words in done.stderr and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.slow
def test_a_reader_that_has_heard_enough_is_no_failure_of_ours(dataset, tmp_path):
    out = tmp_path / "s.json"
    command = f"{sys.executable} -m jobs.report_statistics {dataset.root} --out {out}; echo $? >&2"
    done = subprocess.run(
        ["bash", "-c", f"({command}) | true"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (
        done.stderr.split() in (["141"], ["0"])
        and decode_statistics((tmp_path / "s.json").read_bytes()).windows == 7
    )


@pytest.mark.slow
def test_an_unfinished_data_set_says_what_is_left(tmp_path):
    dataset = write_dataset(tmp_path / "a", SHARDS, finished=False)
    dataset.record_path("train-000001").unlink()
    done = run("report_statistics", dataset.root)
    assert (
        done.returncode == 2
        and "1 of 3 shards" in done.stderr
        and "the same extract-flow command builds them" in done.stderr
    )


def test_refilter_shows_the_data_sets_own_thresholds(dataset):
    done = run("refilter", dataset.root, "--help", COLUMNS="200")
    assert done.returncode == 0 and "(default: 0.95)" in done.stdout


@pytest.mark.slow
def test_refilter_and_its_view_from_the_command_line(tmp_path):
    dataset = write_dataset(
        tmp_path / "a", {"train-000000": [{"moving_share": 0.1 * i} for i in range(6)]}
    )
    done = run("refilter", dataset.root, "--camera-motion", "0.25", "--name", "strict")
    assert (
        done.returncode == 0
        and "strict keeps 3 of 6 stored windows\n  3 dropped (camera_motion 3)" in done.stdout
    ), done.stderr
    done = run("report_statistics", f"{dataset.root}:strict", "--out", tmp_path / "s.json")
    assert (
        done.returncode == 0 and decode_statistics((tmp_path / "s.json").read_bytes()).windows == 3
    ), done.stderr
    done = run(
        "refilter", dataset.root, "--name", "loose", "--filters", "none", "--camera-motion", "0.35"
    )
    assert done.returncode == 0 and "loose keeps 4 of 6" in done.stdout, done.stderr


@pytest.mark.thorough
def test_scales_of_videos_whose_sway_is_known_are_the_closed_form(tmp_path):
    """A texture sways as a whole by a sin(2 pi f t): |S_k| = a T / 2 at that frequency for every
    pixel, x alone.
    """
    clips, out, amplitude = tmp_path / "clips", tmp_path / "dataset", 1.5
    clips.mkdir()
    image, times = videos.make_texture(256, 160), np.arange(150) / 30
    videos.write_video(
        clips / "a.mp4",
        [videos.shift_image(image, amplitude * np.sin(2 * np.pi * 0.8 * t), 0) for t in times],
        times,
        crf="8",
    )
    options = (
        "--filters",
        "none",
        "--test-fraction",
        "0",
        "--workers",
        "1",
        "--dis-preset",
        "fine",
    )
    done = run("extract_flow", "--clips", clips, "--out", out, *options)
    assert done.returncode == 0, done.stderr
    statistics = decode_statistics(Dataset(out).statistics.read_bytes())
    assert statistics.frequencies[4].hz == pytest.approx(0.8)
    assert statistics.frequencies[4].x.quantiles["0.5"] == pytest.approx(amplitude * 75, rel=0.01)
    assert statistics.scale[4] == pytest.approx(amplitude * 75, rel=0.01)
    assert statistics.frequencies[4].x.p95 == pytest.approx(amplitude * 75, rel=0.01)


@pytest.mark.thorough
def test_the_cards_own_code_reads_the_data_set(dataset):
    text = dataset.card.read_text()
    blocks = [block.split("```")[0] for block in text.split("```python\n")[1:]]
    assert len(blocks) == 2
    for block in blocks:
        done = subprocess.run(
            [sys.executable, "-c", block + "    print(spectrum.shape)"],
            cwd=dataset.root,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.stdout.splitlines() == ["(4, 4, 32, 40)"] * 4, done.stderr


def test_the_cards_head_is_yaml_and_its_text_is_inert(tmp_path):
    import yaml

    licence = 'MIT"\n---\n<script>alert(1)</script> | [x](javascript:y) `z`'
    dataset = write_dataset(tmp_path / "a", SHARDS, licence=licence)
    _, head, body = dataset.card.read_text().split("---\n", 2)
    fields = yaml.safe_load(head)
    assert fields["license"] == "other" and fields["configs"][0]["data_files"] == [
        {"split": "train", "path": "shards/train-*.tar"},
        {"split": "test", "path": "shards/test-*.tar"},
    ]
    (line,) = [line for line in body.splitlines() if "alert" in line]
    assert line.count("|") == 3 and not set(line) & set("<>[]`")
    assert "| kept, train | 7 |" in body
    known = write_dataset(tmp_path / "b", SHARDS, licence="CC-BY-4.0")
    assert yaml.safe_load(known.card.read_text().split("---\n")[1])["license"] == "cc-by-4.0"


def test_derived_files_are_rebuilt_to_the_same_bytes(tmp_path):
    dataset = write_dataset(tmp_path / "a", SHARDS)
    derived = [
        dataset.manifest,
        dataset.index,
        dataset.merged_histogram,
        dataset.statistics,
        dataset.summary,
        dataset.card,
    ]
    before = [path.read_bytes() for path in derived]
    for path in derived[::2]:
        path.unlink()
    for path in derived[1::2]:
        path.write_bytes(b"damage")
    finalize(dataset)
    assert [path.read_bytes() for path in derived] == before and json.loads(
        dataset.summary.read_bytes()
    )["kept"] == 9
