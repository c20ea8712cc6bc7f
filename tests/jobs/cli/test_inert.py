"""P22: what others wrote into a dataset, or named their files, does nothing in the report, in the
card, in a log or on a terminal.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import extract_flow, finalize, preview, refilter, report_statistics, status, verify
from pipeline.dataset.finalize import finalize as derive
from tests.jobs.test_extract_flow import SMALL
from tests.pipeline.report.test_report import Reader
from tests.support import damage, datasets, videos
from tests.support.damage import read_record_json, write_record_json

pytestmark = pytest.mark.promise("P22")
ROOT = Path(__file__).resolve().parents[3]
CODES = "\x1b[2J\x1b]0;title\x07\x1b]52;c;Y2FuYXJ5\x07\x9b31m\r\b\u202e\u2066\x7f"
"""Clears the screen, names the window, writes to the clipboard, colours, goes back, turns the text
around.
"""
MARKUP = (
    "<script>window.hacked = 1</script><img src=x onerror=window.hacked=1>](javascript:x) "
    "{{ 7 * 7 }} \"' onload='x"
)
TEXTS = {
    "markup": MARKUP,
    "terminal codes": CODES + MARKUP,
    "10 MB": (CODES + MARKUP).ljust(10_000_000, "x"),
}
CONTROL = re.compile(r"[^\n\x20-\x7e\xa0-\u200d\u2010-\u2027\u202f-\u2065\u2070-\U0010ffff]")


def told(capfd, main, *arguments: object) -> str:
    """Returns all output of a command and its exit code; any other exception is not caught."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        assert stopped.code in (0, 1, 2, 3, 5)
    said = "".join(capfd.readouterr())
    assert not CONTROL.search(said), repr(CONTROL.search(said))
    assert len(said) < 100_000 and "Traceback" not in said
    return said


@pytest.fixture(scope="module", params=TEXTS)
def hostile(request, tmp_path_factory) -> Path:
    """A dataset with hostile texts in its clips, its records, its settings and a log."""
    text = TEXTS[request.param]
    root = tmp_path_factory.mktemp("hostile") / "a"
    clip = dict(clip_id=text, uri=f"/gone/{text}.mp4", licence=text, source=text)
    dataset = datasets.write_dataset(
        root, {"train-000000": [{}, {}, {"mean_motion_px": 0.01}], "test-000000": [{}]}, **clip
    )
    record = read_record_json(dataset, "train-000000")
    last = record["rows"][-1] | dict(reason=text, detail=text, verdicts=[text], stage=text)
    changes = dict(rows=[*record["rows"][:-1], last], strips={last["key"]: text})
    write_record_json(dataset, "train-000000", record | changes)
    derive(dataset)
    line = dict(
        shard=text,
        kept=1,
        rejected=0,
        quarantined=0,
        elapsed_s=1,
        seconds=1,
        waiting_share=0,
        at=1,
        note=text,
    )
    dataset.progress.write_text(json.dumps(line) + "\n" + text + "\n")
    return root


@pytest.mark.thorough
def test_the_report_and_the_card(hostile, tmp_path, capfd):
    root = shutil.copytree(hostile, tmp_path / "a")
    told(capfd, report_statistics.main, root)
    page, card = (root / "report.html").read_text(), (root / "README.md").read_text()
    reader = Reader(page)
    assert reader.tags.count("script") == 1
    assert (
        not [name for _, name, _ in reader.attributes if name.startswith("on")]
        and "window.hacked" in reader.text
    )
    for text in (page, card):
        assert not CONTROL.search(text) and len(text) < 15_000_000
    assert "<script" not in card and "](javascript" not in card and len(card) < 100_000


@pytest.mark.thorough
def test_a_terminal(hostile, tmp_path, capfd):
    root = shutil.copytree(hostile, tmp_path / "a")
    (root / "shards" / f"{CODES.replace('/', '')}.tar").write_text("")
    run = json.loads((root / "run.json").read_bytes())
    for main, arguments in (
        (status.main, [root]),
        (verify.main, [root, "--workers", 1]),
        (finalize.main, [root, "--no-report"]),
        (preview.main, [root, CODES, "--out", tmp_path / "a.png"]),
        (refilter.main, [root, "--name", "b", "--no-motion-px", "2.5"]),
        (refilter.main, [root, "--name", CODES, "--filters", "none"]),
        (status.main, [f"{root}{CODES}"]),
        (report_statistics.main, [f"{root}:{CODES}"]),
    ):
        told(capfd, main, *arguments)
    for name, value in (
        ("versions", {CODES: MARKUP}),
        ("config", {CODES: CODES}),
        ("inputs", CODES),
    ):
        damage.rewrite_sealed_file(root / "run.json", **(run | {name: value}))
        for main, arguments in (
            (status.main, [root]),
            (verify.main, [root, "--workers", 1]),
            (finalize.main, [root, "--no-report"]),
        ):
            told(capfd, main, *arguments)


@pytest.mark.thorough
def test_names_of_videos(tmp_path, capfd):
    """A run lists clips with such names, refuses them, and says which of them changed."""
    clips, out = tmp_path / "clips", tmp_path / "out"
    clips.mkdir()
    name = (CODES + MARKUP).replace("/", "")[:200]
    videos.write_empty(clips / f"{name}.mp4")
    videos.write_swaying(clips / "a.mp4", seconds=2, amplitude=1.5, hertz=1.2, size=(96, 60))
    arguments = ["--clips", clips, "--out", out, "--workers", 1, *SMALL]
    assert "no window" in told(capfd, extract_flow.main, *arguments, "--dry-run")
    told(capfd, extract_flow.main, *arguments)
    (clips / f"{name}.mp4").unlink()
    assert "clip removed" in told(capfd, extract_flow.main, *arguments)
    for path in (out / "progress.jsonl", out / "run.json", out / "README.md"):
        assert not CONTROL.search(path.read_text()) and "<script" not in path.read_text()


def test_a_name_that_is_no_utf8(tmp_path):
    """The real command fails on none of them, even if it cannot print them."""
    path = bytes(tmp_path) + b"/\xff\x1b[2J.mp4"
    done = subprocess.run(
        [sys.executable, "-m", "jobs.status", path], cwd=ROOT, capture_output=True, timeout=120
    )
    assert (
        done.returncode == 2
        and b"\x1b" not in done.stderr
        and b"holds no dataset" in done.stderr
        and b"Traceback" not in done.stderr
    )
