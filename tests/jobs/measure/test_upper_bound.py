"""The real command on a small video: what it writes, and each mistake in a sentence."""

import json
from pathlib import Path

import numpy as np
import pytest

from jobs.measure.upper_bound import MeasureUpperBound, main, measure_clip
from pipeline.whole_clip.frames import ClipFrames
from tests.support import videos
from tests.support.pages import open_browser


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """Of a video that sways at 0.7 and is too short for five seconds."""
    folder = tmp_path_factory.mktemp("ceiling")
    videos.write_swaying(folder / "reed.mp4", size=(128, 80), seconds=1.5, amplitude=3.0, hertz=1.4)
    main(
        [
            str(folder / "reed.mp4"),
            "--out",
            str(folder / "out"),
            "--frequencies",
            "1",
            "4",
            "16",
            "--size",
            "128x80",
        ]
    )
    return folder / "out"


@pytest.mark.slow
def test_the_file_has_every_frame_and_how_it_was_measured(out):
    found = json.loads((out / "ceiling.json").read_text())
    (clip,) = found["clips"]
    motions = {one["name"]: one for one in clip["motions"]}
    assert list(motions) == ["still", "K = 1", "K = 4", "K = 16", "true motion"]
    assert (
        clip["window"] == 45
        and len(clip["seconds"]) == 45
        and all(len(one["psnr_db_of_frames"]) == 44 for one in motions.values())
    )
    assert (
        motions["still"]["psnr_db"]
        < motions["K = 4"]["psnr_db"]
        < motions["K = 16"]["psnr_db"]
        <= motions["true motion"]["psnr_db"] + 0.2
    )
    assert (
        motions["K = 4"]["error_px"]
        > motions["K = 16"]["error_px"]
        > motions["true motion"]["error_px"]
        == 0
    )
    assert (
        found["protocol"]["flow"] == {"flow": "dis", "dis_preset": "medium"}
        and len(clip["sha256"]) == 64
    )


@pytest.mark.slow
def test_the_page_has_a_curve_and_slices_of_each_clip(out):
    with open_browser() as chromium:
        tab, asked = chromium.new_page(), []
        tab.on("console", lambda message: asked.append(message.text))
        tab.goto((out / "ceiling.html").as_uri())
        assert (
            tab.locator("h2").all_inner_texts() == ["All clips", "reed", "How it was measured"]
            and not asked
        )
        assert tab.locator("svg").count() == 2 and tab.locator(
            ".slices figcaption"
        ).all_inner_texts() == [
            "real frames",
            "still",
            "K = 4",
            "K = 16",
            "true motion",
        ]


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (lambda path: videos.write_swaying(path, seconds=0.5), (), "expected at least 1 s"),
        (videos.write_text_file, (), "cannot be used"),
        (lambda path: path, (), "is not there"),
        (
            lambda path: videos.write_swaying(path, seconds=1.2),
            ("--frequencies", "20"),
            "expected 1 to 19",
        ),
        (
            lambda path: videos.write_swaying(path, seconds=1.2),
            ("--frequencies", "0"),
            "numbers over 0",
        ),
        (lambda path: path.parent, (), "has no video"),
    ],
)
def test_mistakes_are_said_in_a_sentence(tmp_path, capsys, make, options, said):
    path = make(tmp_path / "clip.mp4")
    with pytest.raises(SystemExit) as stopped:
        main([str(path), "--out", str(tmp_path / "out"), *options])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and said in error and "Traceback" not in error


def test_of_a_clip_that_is_measured_no_frames_are_kept_but_the_slices():
    """Else all clips together would lie in memory, each as many times as it has motions, until the
    page is made.
    """
    frames = np.stack([videos.make_texture(64, 48)] * 30)
    clip = ClipFrames(frames, np.arange(30) / 30, (64, 48), "0" * 64, "pyav")
    _, slices = measure_clip(
        clip, 30, MeasureUpperBound(clips=(Path("a.mp4"),), out=Path("out"), frequencies=(4,))
    )
    assert list(slices) == ["real frames", "still", "K = 4", "true motion"]
    assert all(one.base is None and one.shape == (30, 64, 3) for one in slices.values())


def test_two_clips_of_one_name_are_refused(tmp_path, capsys):
    """One of them would stand for both."""
    paths = [
        videos.write_swaying(tmp_path / f"reed{suffix}", seconds=1.2) for suffix in (".mp4", ".mkv")
    ]
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, paths), "--out", str(tmp_path / "out"), "--frequencies", "4"])
    assert (
        stopped.value.code == 2
        and f"CLIPS has {paths[0]} and {paths[1]}, expected one video of each name"
        in capsys.readouterr().err
    )


def test_several_clips_have_a_mean_and_one_has_none(out, tmp_path, capsys):
    assert (
        json.loads((out / "ceiling.json").read_text())["mean"] == []
        and "mean over clips" not in (out / "ceiling.html").read_text()
    )
    paths = [
        videos.write_swaying(tmp_path / f"{name}.mp4", seconds=1.2, amplitude=amplitude, hertz=1.5)
        for name, amplitude in (("much", 3.0), ("little", 0.5))
    ]
    main(
        [*map(str, paths), "--out", str(tmp_path / "out"), "--frequencies", "4", "--size", "96x64"]
    )
    found = json.loads((tmp_path / "out" / "ceiling.json").read_text())
    assert [one["name"] for one in found["mean"]] == ["still", "K = 4", "true motion"]
    for i, one in enumerate(found["mean"]):
        for key in ("psnr_db", "ssim", "error_px"):
            assert one[key] == pytest.approx(
                np.mean([clip["motions"][i][key] for clip in found["clips"]])
            )
    still = f"{found['mean'][0]['psnr_db']:.2f}"
    (line,) = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("mean over clips")
    ]
    assert line.split()[5] == still
    assert (
        f"<td>mean over clips</td><td>PSNR, dB</td><td>{still}</td>"
        in (tmp_path / "out" / "ceiling.html").read_text()
    )


def test_a_clip_that_is_too_short_is_named_before_any_is_measured(tmp_path, capsys):
    paths = [
        videos.write_swaying(tmp_path / f"{name}.mp4", seconds=seconds)
        for name, seconds in (("long", 2.0), ("short", 1.2))
    ]
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, paths), "--out", str(tmp_path / "out"), "--frequencies", "24"])
    said = capsys.readouterr().err
    assert (
        stopped.value.code == 2
        and f"--frequencies has 24, expected 1 to 19 for the 1.20 s of {paths[1]}" in said
        and "1 of 2 clips" not in said
    )
