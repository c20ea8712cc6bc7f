"""The real command on small videos: what it writes, which videos it pairs, and each mistake in a
sentence.
"""

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jobs.cli.results import align_columns
from jobs.measure.evaluate import main
from model.backbones import AlexNet
from pipeline.dataset.finalize import finalize
from pipeline.dataset.folder import Dataset
from pipeline.extract.build_shard import build_shard
from pipeline.extract.config import BuildConfig, PlanConfig, to_contract
from pipeline.filters import PRESETS
from pipeline.flow.config import FlowConfig
from tests.model.evaluate.test_feature_networks import Inception, Texture, Video, saved
from tests.model.evaluate.test_lpips import HEADS
from tests.support import videos
from tests.support.building import plan_video
from tests.support.pages import open_browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two real videos, and generated ones of their names: one the same, one of another sway and
    shorter; and one without a partner.
    """
    folder = tmp_path_factory.mktemp("evaluate")
    for name in ("real", "generated"):
        (folder / name).mkdir()
    for name, hertz in (("<b>leaf", 1.0), ("reed", 2.0)):
        videos.write_swaying(
            folder / "real" / f"{name}.mp4",
            size=(256, 128),
            seconds=1.2,
            amplitude=3.0,
            hertz=hertz,
        )
    shutil.copy(folder / "real" / "<b>leaf.mp4", folder / "generated" / "<b>leaf.mp4")
    videos.write_swaying(
        folder / "generated" / "reed.mkv", size=(128, 64), seconds=0.8, amplitude=1.5, hertz=1.0
    )
    videos.write_swaying(folder / "generated" / "stray.mp4", size=(256, 128), seconds=0.6)
    return folder


def evaluate(folder: Path, *options: object) -> None:
    main(
        [
            "--real",
            str(folder / "real"),
            "--generated",
            str(folder / "generated"),
            "--out",
            str(folder / "out"),
            "--rounds",
            "5",
            *map(str, options),
        ]
    )


@pytest.fixture(scope="module")
def written(folder) -> dict:
    evaluate(folder)
    return json.loads((folder / "out" / "evaluation.json").read_text())


@pytest.mark.thorough
def test_everything_that_needs_no_weights_is_computed_and_the_rest_says_what_it_needs(written):
    metrics = {one["key"]: one for one in written["metrics"]}
    assert {key for key, one in metrics.items() if one["needs"]} == {
        "lpips",
        "fid",
        "kid",
        "fvd",
        "fvd32",
        "dt_fvd",
        "dt_fvd32",
        "changes32_frechet",
    }
    assert (
        metrics["fvd"]["needs"] == "--i3d FILE"
        and metrics["changes32_frechet"]["needs"] == "at least 32 frames, reed has 24"
    )
    assert all(
        one["low"] <= one["value"] <= one["high"]
        for one in metrics.values()
        if one["better"] != "lower" and not one["needs"]
    )
    assert metrics["flicker"]["real"] > metrics["flicker"]["generated"] > 0
    assert all(one["protocol"]["pairs"] == 2 for one in metrics.values())


def test_pairs_are_those_of_one_name_over_the_frames_that_both_have(written):
    pairs = {one["name"]: one for one in written["pairs"]}
    assert {
        name: (one["frames"], one["real"]["frames"], one["generated"]["frames"])
        for name, one in pairs.items()
    } == {
        "<b>leaf": (36, 36, 36),
        "reed": (24, 36, 24),
    }
    assert (
        written["protocol"]["without_a_partner"] == dict(real=[], generated=["stray"])
        and pairs["reed"]["split"] is None
    )
    assert (
        pairs["<b>leaf"]["psnr_db"] == 100
        and pairs["reed"]["psnr_db"] < 40
        and pairs["reed"]["generated"]["size"] == [128, 64]
    )
    assert (
        len(pairs["<b>leaf"]["real"]["sha256"]) == 64
        and pairs["<b>leaf"]["real"]["sha256"] == pairs["<b>leaf"]["generated"]["sha256"]
    )


def test_every_number_says_how_it_was_measured(written):
    protocol = written["protocol"]
    assert (
        protocol["crop"] == [256, 128]
        and protocol["flow"] == {"flow": "dis", "dis_preset": "medium"}
        and {"numpy", "torch"} <= set(protocol["versions"])
    )
    assert written["spectra"]["every_pixel"] == 4 and all(
        one["real"]["fps"] == pytest.approx(30) for one in written["pairs"]
    )
    assert (
        protocol["intervals"]
        == "95 %, over pairs: Student's t of means; of distances of distributions the bootstrap, 5 rounds, seed 0"
    )
    metrics = {one["key"]: one["protocol"] for one in written["metrics"]}
    visible = {
        side: [pair[side]["visible"] for pair in written["pairs"]] for side in ("real", "generated")
    }
    assert (
        metrics["warping_error"]["visible"]
        == {side: pytest.approx(sum(shares) / 2) for side, shares in visible.items()}
        and min(visible["real"]) > 0.5
    )
    assert (
        metrics["changes_frechet"]["window"],
        metrics["changes_frechet"]["stride"],
        metrics["changes_frechet"]["samples"],
    ) == (16, 8, 5)


def test_the_page_shows_it_without_a_script_or_the_network(folder, written):
    page = folder / "out" / "evaluation.html"
    with open_browser() as chromium:
        tab, asked = chromium.new_page(), []
        tab.on(
            "request",
            lambda request: (
                None if request.url.startswith(("data:", "file:")) else asked.append(request.url)
            ),
        )
        tab.on("console", lambda message: asked.append(message.text))
        tab.goto(page.as_uri())
        headings = tab.locator("h2").all_inner_texts()
        assert headings[-3:] == ["<b>leaf", "reed", "How it was measured"] and not asked
        assert tab.locator("table.figures tr").count() == 1 + len(written["metrics"])
        assert all(
            tab.locator(".slices img").evaluate_all(
                "all => all.map(one => one.naturalWidth === 256 && one.naturalHeight >= 100)"
            )
        )
        assert (
            tab.locator("svg").count() == 5
        )  # PSNR, SSIM, changes over time, and both spectra; colours over time need 30 frames
        table = tab.locator("table.figures").inner_text()
        assert "needs --i3d FILE" in table and re.search(
            r"Warping error\s.*2 pairs, \d+% and \d+% of the pixels", table
        )


def refused(folder: Path, capsys, *options: object) -> str:
    """The one sentence of a refusal, after what was told."""
    with pytest.raises(SystemExit) as stopped:
        evaluate(folder, *options)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "Traceback" not in said
    return said.splitlines()[-1]


def one_pair(folder: Path, **generated) -> Path:
    """A real video and a generated one that differs."""
    for name in ("real", "generated"):
        (folder / name).mkdir()
    common = dict(size=(256, 128), seconds=0.6)
    videos.write_swaying(folder / "real" / "a.mp4", **common)
    videos.write_swaying(folder / "generated" / "a.mp4", **(common | generated))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("generated", "said"),
    [
        (dict(seconds=1 / 30), "a has 18 real and 1 generated frames, expected at least 16"),
        (dict(seconds=0.4), "a has 18 real and 12 generated frames"),
        (
            dict(size=(256, 160)),
            "a has real 256x128 pixels and generated 256x160, expected the same aspect",
        ),
        (dict(fps=24.0, seconds=1.0), "a has real 30.00 and generated 24.00 frames a second"),
    ],
)
def test_pairs_that_cannot_be_compared_are_refused(tmp_path, capsys, generated, said):
    assert said in refused(one_pair(tmp_path, **generated), capsys)


def test_what_was_refused_leaves_no_folder_and_takes_none_away(tmp_path, capsys):
    one_pair(tmp_path, seconds=0.4)
    refused(tmp_path, capsys)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    refused(tmp_path, capsys)
    assert (tmp_path / "out").is_dir()


@pytest.mark.thorough
def test_the_terminal_says_what_is_absent_once_and_that_few_pairs_say_little(folder, capsys):
    evaluate(folder, "--out", folder / "again")
    said = capsys.readouterr().out.splitlines()
    assert (
        "FVD, FVD32: needs --i3d FILE" in said and "FID, KID x 100: needs --inception FILE" in said
    )
    assert (
        any(line.startswith("Intervals of distances (FID, KID") for line in said)
        and max(map(len, said)) < 140
    )
    assert (
        "changes) over 2 pairs are too narrow" in (folder / "again" / "evaluation.html").read_text()
    )


@pytest.mark.thorough
def test_pairs_of_different_rates_are_remarked_on(tmp_path):
    for name, fps in (("a", 30.0), ("b", 24.0)):
        for side in ("real", "generated"):
            (tmp_path / side).mkdir(exist_ok=True)
            videos.write_swaying(
                tmp_path / side / f"{name}.mp4", size=(256, 128), seconds=0.8, fps=fps
            )
    evaluate(tmp_path)
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert [
        round(pair[side]["fps"], 2) for pair in found["pairs"] for side in ("real", "generated")
    ] == [30, 30, 24, 24]
    assert found["remarks"][1].startswith(
        "Pairs have 24 to 30 frames a second: excerpts of so many frames (FVD"
    )
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert (
        found["remarks"][1] in page
        and "needs pairs whose frames are shown at the same instants" in page
    )


def test_folders_without_a_pair_are_refused(tmp_path, capsys):
    one_pair(tmp_path)
    (tmp_path / "generated" / "a.mp4").rename(tmp_path / "generated" / "b.mp4")
    assert "expected the same file names: real are a, generated b" in refused(tmp_path, capsys)
    videos.write_text_file(tmp_path / "generated" / "a.mp4")
    assert "a.mp4 cannot be used" in refused(tmp_path, capsys)
    for path in (tmp_path / "generated").iterdir():
        path.unlink()
    assert "has no video" in refused(tmp_path, capsys)
    (tmp_path / "generated" / "notes.txt").write_text("no video")
    assert "has no video" in refused(tmp_path, capsys)
    assert "expected a folder of videos" in refused(
        tmp_path, capsys, "--generated", tmp_path / "nowhere"
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_networks_that_are_given_fill_their_lines_and_are_named_by_their_digest(tmp_path):
    one_pair(tmp_path)
    files = {
        "--inception": saved(Inception(), tmp_path / "inception.pt"),
        "--i3d": saved(Video(), tmp_path / "i3d.pt"),
    }
    files |= {
        "--dt-i3d-32": saved(Texture(32), tmp_path / "texture.pt"),
        "--lpips": HEADS,
        "--alexnet": tmp_path / "alexnet.pth",
    }
    torch.save(AlexNet().state_dict(), files["--alexnet"])
    evaluate(tmp_path, *(word for pair in files.items() for word in pair))
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    metrics = {one["key"]: one for one in found["metrics"]}
    assert (
        metrics["fid"]["value"] == pytest.approx(0, abs=1e-6)
        and metrics["kid"]["value"] <= 0
        and metrics["fid"]["low"] is None
    )
    digests = {
        option: hashlib.sha256(path.read_bytes()).hexdigest() for option, path in files.items()
    }
    assert (metrics["fid"]["protocol"]["sha256"], metrics["fid"]["protocol"]["device"]) == (
        digests["--inception"],
        "cpu",
    )
    weights = dict(
        alexnet=dict(file="alexnet.pth", sha256=digests["--alexnet"]),
        lpips=dict(file="alex.pth", sha256=digests["--lpips"]),
    )
    assert (
        metrics["lpips"]["protocol"]["weights"],
        metrics["lpips"]["protocol"]["device"],
        metrics["lpips"]["value"],
    ) == (weights, "cpu", 0)
    assert (
        metrics["fid"]["protocol"]["samples"],
        metrics["fid"]["protocol"]["dimensions"],
        metrics["fid"]["protocol"]["file"],
    ) == (18, 2048, "inception.pt")
    assert (
        metrics["fvd"]["needs"] == "at least 2 samples"
        and metrics["fvd32"]["needs"] == "at least 32 frames, a has 18"
    )
    assert (
        metrics["dt_fvd"]["needs"] == "--dt-i3d FILE"
        and metrics["dt_fvd32"]["needs"] == "at least 32 frames, a has 18"
    )


CONFIG = BuildConfig(
    size=(64, 40),
    frequencies=8,
    plan=PlanConfig(frames=24, fps=30.0, stride=12),
    flow=FlowConfig(dis_preset="fast"),
    thresholds=PRESETS["none"],
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("split", "remarks"),
    [
        (
            "train",
            [
                "1 of 1 real videos are windows of the split train: what was learnt from is no held-out result"
            ],
        ),
        ("test", []),
    ],
)
def test_a_data_sets_windows_are_the_real_videos(tmp_path, capsys, split, remarks):
    config = replace(CONFIG, plan=replace(CONFIG.plan, test_fraction=float(split == "test")))
    rows = plan_video(
        videos.write_swaying(tmp_path / "sways.mp4", seconds=1.5, amplitude=3.0, hertz=1.25), config
    )
    dataset = Dataset(tmp_path / "real")
    with dataset.lock():
        dataset.create_or_resume(rows, to_contract(config), {})
        list(build_shard(dataset, rows[0].shard, rows, config))
        finalize(dataset)
    (tmp_path / "generated").mkdir()
    second = rows[1].key
    videos.write_swaying(
        tmp_path / "generated" / f"{second}.mp4",
        size=(128, 80),
        seconds=0.8,
        amplitude=3.0,
        hertz=1.25,
    )
    evaluate(tmp_path)
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    (pair,) = found["pairs"]
    assert (pair["split"], found["remarks"]) == (split, remarks)
    assert (pair["name"], pair["frames"], pair["real"]["size"], pair["real"]["sha256"]) == (
        second,
        24,
        [64, 40],
        rows[1].sha256,
    )
    video = (tmp_path / "sways.mp4").read_bytes()
    (tmp_path / "sways.mp4").write_bytes(video.replace(b"Lavf", b"Lavg"))
    said = refused(tmp_path, capsys)
    assert "sways.mp4" in said and rows[1].sha256[:12] in said
    (tmp_path / "sways.mp4").unlink()
    assert "sways.mp4 cannot be used: the file is gone" in refused(tmp_path, capsys)
    assert "nowhere', which is not there, expected a folder of videos, DATASET" in refused(
        tmp_path, capsys, "--real", tmp_path / "nowhere"
    )


class Linear(torch.nn.Module):
    """Another network than any that is wanted."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :7].float()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("option", ["--inception", "--i3d", "--dt-i3d", "--dt-i3d-32"])
def test_weights_of_another_network_are_refused(tmp_path, capsys, option):
    one_pair(tmp_path)
    torch.jit.script(Linear()).save(str(tmp_path / "linear.pt"))
    assert "linear.pt" in refused(tmp_path, capsys, option, tmp_path / "linear.pt")
    (tmp_path / "text.pt").write_text("no network")
    assert "is no TorchScript network" in refused(tmp_path, capsys, option, tmp_path / "text.pt")
    assert "it is not downloaded" in refused(tmp_path, capsys, option, tmp_path / "absent.pt")


def test_options_that_make_no_sense_are_refused(tmp_path, capsys):
    one_pair(tmp_path)
    assert "--lpips and --alexnet are wanted together" in refused(
        tmp_path, capsys, "--lpips", tmp_path / "alex.pth"
    )
    assert "--frames is 8" in refused(tmp_path, capsys, "--frames", 8)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_not_the_networks_fault(tmp_path, capsys):
    one_pair(tmp_path)
    (tmp_path / "text.pt").write_text("no network")
    assert "--network-device is cuda and there is no GPU" in refused(
        tmp_path, capsys, "--network-device", "cuda", "--inception", tmp_path / "text.pt"
    )


def test_a_table_is_aligned():
    assert align_columns([["a", "1"], ["long", "22"]]) == "a      1\nlong  22"
