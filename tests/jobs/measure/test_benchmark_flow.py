"""`quiver benchmark-flow`: the real command on a small set, its page in a real browser, and a
sentence for each mistake.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.cli.errors import ExitCode
from jobs.measure import benchmark_flow
from pipeline.flow_benchmark.middlebury import encode_flo
from tests.support import videos
from tests.support.pages import open_page, wait_until
from tests.support.videos import make_texture, shift_image, write_swaying

SIZE = (160, 128)


def known_pair(folder: Path, shift: tuple[float, float] = (1.5, -0.75)) -> Path:
    """A texture that has gone by as much as the file of flow says; a corner is not known, and
    wrong.
    """
    folder.mkdir(parents=True)
    picture = make_texture(*SIZE)
    Image.fromarray(picture).save(folder / "frame10.png")
    Image.fromarray(shift_image(picture, *shift)).save(folder / "frame11.png")
    flow, valid = (
        np.ones((2, SIZE[1], SIZE[0]), np.float32) * np.float32(shift)[:, None, None],
        np.ones(SIZE[::-1], bool),
    )
    flow[:, :20, :20], valid[:20, :20] = 50, False
    (folder / "flow10.flo").write_bytes(encode_flo(flow, valid))
    return folder


@pytest.fixture(scope="module")
def card(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("card")
    known_pair(root / "truth" / "drift")
    (root / "clips").mkdir()
    write_swaying(root / "clips" / "sway <b>.mp4", seconds=2, size=(256, 160))
    benchmark_flow.main(
        [
            "--out",
            str(root / "out"),
            "--middlebury",
            str(root / "truth"),
            "--clips",
            str(root / "clips"),
            "--scenes",
            "ripples",
            "--frames",
            "32",
            "--estimators",
            "dis_ultrafast",
            "dis_fine",
        ]
    )
    return root / "out"


@pytest.mark.thorough
def test_the_card_holds_numbers_with_their_protocol(card):
    about = json.loads((card / "flow_card.json").read_text())
    assert about["estimators"].keys() == {"dis_ultrafast", "dis_fine"}
    fine, fast = (about["known"]["drift"][name] for name in ("dis_fine", "dis_ultrafast"))
    assert fine["epe_px"] < 0.15, "the corner that is not known does not count"
    assert fine["blur_px"] is None, "nothing moves apart there"
    scene = about["scenes"]["ripples"]
    assert scene["dis_fine"]["epe_px"] < scene["dis_ultrafast"]["epe_px"]
    assert (
        len(scene["dis_fine"]["bands"]) == 16
        and scene["dis_fine"]["spectrum_error"] < scene["dis_ultrafast"]["spectrum_error"] < 1
    )
    clip = about["clips"]["sway <b>.mp4"]["dis_fine"]
    assert 0 < clip["common_share"] <= clip["inside_share"] <= 1
    assert clip["photometric"] < clip["photometric_still"] and 0 <= clip["inconsistent_share"] < 0.5
    assert fast["cpu_s"] > 0 and fine["cpu_s"] > 0
    protocol = about["protocol"]
    assert protocol["known"]["of"]["drift"]["valid"] == SIZE[0] * SIZE[1] - 400
    assert (
        len(protocol["clips"]["of"]["sway <b>.mp4"]["sha256"]) == 64
        and len(protocol["clips"]["of"]["sway <b>.mp4"]["times_s"]) == 9
    )
    assert (
        protocol["scenes"] | dict(names=["ripples"], seed=0, frames=32, size=[256, 160])
        == protocol["scenes"]
    )
    assert {"quiver", "numpy", "opencv-python-headless"} <= set(protocol["versions"])


@pytest.mark.slow
def test_the_page_shows_every_case_and_asks_for_nothing(card):
    with open_page(card / "flow_card.html", ready="document.readyState === 'complete'") as (
        tab,
        complaints,
    ):
        wait_until(tab, "[...document.images].every(one => one.complete && one.naturalWidth > 0)")
        text = tab.inner_text("body")
        assert all(
            word in text
            for word in (
                "drift",
                "ripples",
                "sway <b>.mp4",
                "dis_ultrafast",
                "dis_fine",
                "Least error on the procedural scenes: dis_fine",
            )
        )
        assert tab.evaluate("document.images.length") == 2 * (2 + 2 * 2) + 1 + 2
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert not complaints


def refused(capsys, *args: str | Path) -> str:
    with pytest.raises(SystemExit) as stopped:
        benchmark_flow.main([str(arg) for arg in args])
    err = capsys.readouterr().err
    assert stopped.value.code == ExitCode.USAGE
    assert err.count("\n") == 1 and "Traceback" not in err
    return err


def odd_size(root: Path) -> None:
    Image.new("RGB", (160, 100)).save(known_pair(root / "x") / "frame11.png")


def gone(root: Path) -> None:
    (known_pair(root / "x") / "frame11.png").unlink()


def cut(root: Path) -> None:
    path = known_pair(root / "x") / "flow10.flo"
    path.write_bytes(path.read_bytes()[:-4])


def without_number(root: Path) -> None:
    folder = known_pair(root / "x")
    (folder / "flow10.flo").rename(folder / "flow.flo")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda root: None,
            "has no flow*.flo in it, expected flow10.flo, "
            "frame10.png and frame11.png for each pair",
        ),
        (odd_size, "and its pictures are of 160x128, 160x100, 160x128 pixels, expected one size"),
        (gone, "frame11.png is missing, expected a photograph"),
        (cut, "flow10.flo has 163848 bytes, expected 163852 for 160x128"),
        (without_number, "flow.flo has no number in its name, expected one such as flow10.flo"),
    ],
    ids=["none", "sizes", "gone", "cut", "number"],
)
def test_each_mistake_in_known_flow_is_one_sentence(make, sentence, tmp_path, capsys):
    root = tmp_path / "truth"
    root.mkdir()
    make(root)
    assert sentence in refused(
        capsys,
        "--out",
        tmp_path / "out",
        "--middlebury",
        root,
        "--estimators",
        "dis_ultrafast",
        "--scenes",
    )


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (
            ["--middlebury", "{root}/nowhere"],
            "nowhere is missing, expected a folder with flow10.flo",
        ),
        (["--clips", "{root}/text.mp4"], "text.mp4 cannot be used: "),
        (
            ["--clips", "{root}/one.mp4"],
            "one.mp4 has one frame in its first 5 s, expected at least 2",
        ),
        (
            ["--weights", "{root}/nowhere.pth"],
            "weights is {root}/nowhere.pth, expected default or a file that exists",
        ),
        (
            ["--weights", "{root}/text.mp4"],
            "expected the weights of raft_small or raft_large: {root}/text.mp4 is not a file of "
            "weights",
        ),
        (
            ["--scenes", "sea"],
            "--scenes names 'sea', expected some of reeds, plant, cloth, lantern, ripples",
        ),
        (["--scenes"], "nothing to measure on, expected --middlebury, --clips or --scenes"),
        (["--frames", "31"], "--frames is 31, expected 32 to 600"),
    ],
)
def test_each_other_mistake_is_one_sentence(args, sentence, tmp_path, capsys):
    videos.write_text_file(tmp_path / "text.mp4")
    videos.write_video(tmp_path / "one.mp4", [make_texture(96, 64)], [0.0])
    more = (
        []
        if "--scenes" in args
        else ["--scenes", "ripples"]
        if "--frames" in args
        else ["--scenes"]
    )
    more = [] if args[0] == "--weights" else more
    args = [arg.format(root=tmp_path) for arg in args]
    err = refused(capsys, "--out", tmp_path / "out", "--estimators", "dis_ultrafast", *args, *more)
    assert sentence.format(root=tmp_path) in err
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("name", ["letter.txt", "data"])
def test_a_card_is_written_neither_over_a_file_nor_into_a_data_set(name, tmp_path, capsys):
    (tmp_path / "letter.txt").write_text("dear")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "run.json").write_text("{}")
    with pytest.raises(SystemExit) as stopped:
        benchmark_flow.main(
            [
                "--out",
                str(tmp_path / name),
                "--scenes",
                "ripples",
                "--frames",
                "32",
                "--estimators",
                "dis_ultrafast",
            ]
        )
    assert stopped.value.code == ExitCode.USAGE
    assert (
        f"--out is '{tmp_path / name}', expected a folder that holds no dataset"
        in capsys.readouterr().err
    )
    assert len(list(tmp_path.rglob("*"))) == 3


def test_a_named_estimator_without_weights_is_refused_and_another_is_left_out(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    err = refused(capsys, "--out", tmp_path / "out", "--estimators", "dis_fast", "raft_large")
    assert "no --weights FILE fits raft_large, and torch.hub's cache has none of it" in err
    job = benchmark_flow.BenchmarkFlow(out=tmp_path / "out")
    configs, left_out = benchmark_flow.choose_estimators(job)
    assert list(configs) == ["dis_ultrafast", "dis_fast", "dis_medium", "dis_fine"]
    assert left_out["raft_small"] == (
        "raft_small is left out: no --weights FILE fits raft_small, and torch.hub's cache has "
        "none of it"
    )


def test_weights_go_to_the_network_they_fit(material, tmp_path):
    configs, left_out = benchmark_flow.choose_estimators(
        benchmark_flow.BenchmarkFlow(out=tmp_path, weights=(material / "weights/raft-small.pth",))
    )
    assert (
        configs["raft_small"].weights.endswith("raft-small.pth")
        and "raft_large" not in configs | {}
    )
    assert list(left_out) in ([], ["raft_large"])


@pytest.mark.slow
def test_a_file_of_weights_that_would_not_be_used_is_refused(material, tmp_path, capsys):
    """A card would say less than was asked for, or be of other weights than a reader thinks."""
    given, other = material / "weights/raft-small.pth", tmp_path / "other.pth"
    other.write_bytes(given.read_bytes())
    twice = refused(
        capsys, "--out", tmp_path / "out", "--scenes", "ripples", "--weights", given, other
    )
    assert (
        f"--weights has {given} and {other}, which both fit raft_small, expected one file for each "
        "network" in twice
    )
    named = refused(
        capsys,
        "--out",
        tmp_path / "out",
        "--scenes",
        "ripples",
        "--estimators",
        "dis_fast",
        "dis_fine",
        "--weights",
        given,
    )
    assert (
        f"--weights is {given}, which fits raft_small, expected weights of one of the "
        "--estimators: dis_fast, dis_fine" in named
    )
    assert not (tmp_path / "out").exists()
