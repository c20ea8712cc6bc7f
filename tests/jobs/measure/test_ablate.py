"""The paper's ablations: which trainings they share, and the command to its end on a data set of a
few pictures.
"""

import json
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from jobs import train_denoiser, train_renderer
from jobs.ablation import results, steps
from jobs.ablation.report import render_ablation_page
from jobs.ablation.variants import VARIANTS, TrainingCommands, Variant, film_commands
from jobs.measure import ablate
from model import checkpoints
from pipeline.dataset.finalize import finalize
from pipeline.dataset.folder import Dataset
from pipeline.dataset.open import open_dataset
from pipeline.extract.build_shard import build_shard
from pipeline.extract.config import BuildConfig, PlanConfig, to_contract
from pipeline.filters import PRESETS as FILTERS
from pipeline.flow.config import FlowConfig
from tests.support import videos
from tests.support.building import plan_video
from tests.support.datasets import write_dataset

ROOT = Path(__file__).resolve().parents[3]
CONFIG = BuildConfig(
    size=(64, 48),
    frequencies=24,
    plan=PlanConfig(frames=48, stride=24),
    flow=FlowConfig(dis_preset="fast"),
    thresholds=FILTERS["none"],
)
QUICK = (
    "--steps",
    "1",
    "--batch",
    "1",
    "--decay",
    "0",
    "--loader-workers",
    "0",
    "--log-every",
    "1",
)
MORE = {
    "train-autoencoder": QUICK,
    "train-denoiser": (*QUICK, "--coordinate-steps", "1", "--coordinate-batch", "1"),
    "train-renderer": (*QUICK, "--picture-every", "9"),
}
TINY = replace(ablate.PRESETS["smoke"][1], photographs=2, steps=1, more=MORE)
MADE = ("repeat", "independent", "full")
"""Of one training of each kind."""
NAMED = {variant.name: variant for variant in VARIANTS}


def trainings(preset: str = "smoke") -> TrainingCommands:
    return TrainingCommands(
        preset=preset, data="data", out=Path("out"), extra_args={"train-renderer": ("--steps", "7")}
    )


def test_what_variants_have_in_common_is_trained_once():
    made = [(one.verb, one.output.name) for one in trainings().list_commands(VARIANTS)]
    assert sorted(made) == sorted(
        [
            ("train-autoencoder", "autoencoder-adaptive"),
            ("train-autoencoder", "autoencoder-resolution"),
            *(("train-denoiser", f"prior-coordinated-adaptive-{k}") for k in (4, 8, 16, 24)),
            ("train-denoiser", "prior-coordinated-resolution-16"),
            ("train-denoiser", "prior-volume-adaptive-16"),
            ("train-renderer", "renderer-pyramid"),
            ("train-renderer", "renderer-single_scale"),
        ]
    )


def test_each_variant_has_its_own_prior_and_renderer():
    plan = trainings()
    full = NAMED["full"]
    assert plan.prior_folder(NAMED["independent"]) == plan.prior_folder(
        full
    ) / "slice" and plan.renderer(NAMED["independent"]) == plan.renderer(full)
    assert plan.prior_folder(NAMED["splat"]) == plan.prior_folder(full) and plan.renderer(
        NAMED["splat"]
    ) != plan.renderer(full)
    assert (
        len(
            {
                plan.prior_folder(NAMED[name])
                for name in ("k4", "k8", "k24", "resolution", "independent", "volume", "full")
            }
        )
        == 7
    )
    assert (
        plan.autoencoder(NAMED["k4"])
        == plan.autoencoder(full)
        != plan.autoencoder(NAMED["resolution"])
    )


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda one: one.name)
def test_each_training_comes_after_what_it_builds_on(variant: Variant):
    done: list[str] = []
    for one in trainings().list_commands([variant]):
        if "--autoencoder" in one.args:
            assert one.args[one.args.index("--autoencoder") + 1] in done
        done.append(str(one.output))
    assert len(done) == 3


def test_commands_can_be_typed():
    assert str(trainings().renderer(NAMED["splat"])) == (
        "quiver train-renderer smoke --data data --mode single_scale --steps 7 "
        "--out out/trained/renderer-single_scale"
    )
    one, other = film_commands(trainings(), NAMED["k4"], ["a", "b"], ["--steps", 3], seed=5)
    assert (
        one.args[one.args.index("--seed") + 1] == "5"
        and other.args[other.args.index("--seed") + 1] == "6"
    )
    assert str(one).startswith(
        "quiver animate out/photographs/a.png "
        "--checkpoint out/trained/prior-coordinated-adaptive-4 --seed 5 --renderer "
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Dataset:
    """Three swaying videos of which two are held out."""
    return extracted(
        tmp_path_factory.mktemp("ablation"),
        {"train-000000": 30.0, "test-000000": 30.0, "test-000001": 30.0},
    )


def extracted(folder: Path, rates: dict[str, float]) -> Dataset:
    """Of swaying videos of so many frames a second, one in each shard."""
    dataset, shards, rows = Dataset(folder / "data"), tuple(rates), []
    for number, (shard, fps) in enumerate(rates.items()):
        path = videos.write_swaying(
            folder / f"{number}.mp4",
            seconds=2.0,
            fps=fps,
            amplitude=2.0,
            hertz=1.25,
            size=(96, 72),
            seed=number,
        )
        rows += [
            replace(row, shard=shard, split=shard.split("-")[0]) for row in plan_video(path, CONFIG)
        ]
    with dataset.lock():
        dataset.create_or_resume(rows, to_contract(CONFIG), {})
        for shard in shards:
            list(build_shard(dataset, shard, [row for row in rows if row.shard == shard], CONFIG))
        finalize(dataset)
    return dataset


def run(*args: object) -> None:
    """The command, with a preset of single steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ablate.PRESETS, "smoke", ("Tiny.", TINY))
        ablate.main(["smoke", *map(str, args)])


@pytest.fixture(scope="module")
def asked(data) -> list[object]:
    return ["--data", data.root, "--only", *MADE]


@pytest.fixture(scope="module")
def done(asked, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("done") / "ablation"
    run(*asked, "--out", out)
    return out


def found(out: Path) -> dict:
    return json.loads((out / "ablation.json").read_text())


def finished(out: Path) -> list[str]:
    return [entry["command"] for entry in json.loads((out / "finished.json").read_text())]


def newest(folder: Path) -> checkpoints.Checkpoint:
    return checkpoints.load_checkpoint(folder)


@pytest.mark.thorough
def test_it_trains_makes_films_and_measures_them(done):
    verbs = [command.split()[1] for command in finished(done)]
    assert verbs == [
        "train-autoencoder",
        "train-denoiser",
        "train-renderer",
        *["animate"] * 2 * len(MADE),
        *["evaluate"] * len(MADE),
    ]
    table = found(done)
    assert [one["name"] for one in table["variants"]] == list(MADE) and table["trainings"] == 3
    assert table["variants"][-1]["paper"] == [4.03, 0.08, 47.1, 62.9, 2.53, 6.75]
    for one in table["variants"]:
        values = {metric["key"]: metric for metric in one["metrics"]}
        assert (
            values["fid"]["needs"]
            and values["log_spectral_db"]["low"]
            <= values["log_spectral_db"]["value"]
            <= values["log_spectral_db"]["high"]
        )
    assert len(table["protocol"]["photographs"]) == 2 and table["protocol"]["crop"] == [256, 128]
    page = (done / "ablation.html").read_text()
    assert (
        "not which variant is better" in page
        and "47.1" in page
        and page.count("data:image/webp") == 2 * (len(MADE) + 1)
    )


def evaluated(out: Path, name: str) -> dict:
    return json.loads((out / "evaluation" / name / "evaluation.json").read_text())


@pytest.mark.slow
def test_films_are_compared_with_those_of_full_photograph_by_photograph(done):
    table = found(done)
    ours, full = (
        {pair["name"]: pair for pair in evaluated(done, name)["pairs"]}
        for name in ("repeat", "full")
    )
    assert table["compared_with"] == "full" and table["variants"][-1]["differences"] == {}
    apart = table["variants"][0]["differences"]
    one = apart["ssim"]
    both = [ours[name]["ssim"] - full[name]["ssim"] for name in ours]
    half = (
        12.7062 * abs(both[0] - both[1]) / 2
    )  # Student's t of one degree of freedom, times the error of the mean of two
    assert (one["value"], one["low"], one["high"]) == pytest.approx(
        (np.mean(both), np.mean(both) - half, np.mean(both) + half), rel=1e-4
    )
    means = {
        name: {metric["key"]: metric["value"] for metric in evaluated(done, name)["metrics"]}
        for name in ("repeat", "full")
    }
    assert {
        "psnr_db",
        "flicker",
        "motion_px",
        "log_spectral_db",
        "magnitude_px",
    } <= apart.keys() and not {"fid", "changes_frechet"} & apart.keys()
    for key, difference in apart.items():
        assert difference["value"] == pytest.approx(
            means["repeat"][key] - means["full"][key], abs=1e-9
        ), key


@pytest.mark.slow
def test_what_evaluate_remarks_is_remarked_here_too(asked, done, capsys):
    (remark,) = evaluated(done, "full")["remarks"]
    run(*asked, "--out", done)
    assert "over 2 pairs" in remark and remark in found(done)["remarks"]
    assert remark in capsys.readouterr().out and remark in (done / "ablation.html").read_text()


@pytest.mark.slow
def test_without_full_nothing_is_compared_with_it(asked, done, capsys):
    before = found(done)
    page = (done / "ablation.html").read_text()
    assert (
        "The dashed line is the value of full (K = 16)" in page
        and "<h2>Difference from full (K = 16)</h2>" in page
        and dashed(page) == 4
    )
    try:
        run(*asked[:2], "--only", "repeat", "independent", "--out", done)
        page, said = (done / "ablation.html").read_text(), capsys.readouterr().out
        assert (
            "dashed line" not in page and "Difference from" not in page + said and dashed(page) == 0
        )
        assert found(done)["compared_with"] is None and all(
            one["differences"] == {} for one in found(done)["variants"]
        )
    finally:
        run(*asked, "--out", done)
    assert found(done) == before and "Difference from full (K = 16)" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("without", [[0], [2], [0, 1, 2]])
def test_a_variant_may_lack_a_metric_that_others_have(done, without):
    table = found(done)
    for i in without:
        (one,) = (one for one in table["variants"][i]["metrics"] if one["key"] == "warping_error")
        one |= dict(value=None, low=None, high=None, needs="something that is seen again")
    page = render_ablation_page(table, {})
    assert page.count("needs something that is seen again") == (
        1 if len(without) == 3 else len(without)
    )
    assert "needs something" not in render_ablation_page(found(done), {})


def dashed(page: str) -> int:
    """Figures that have a dashed line."""
    return page.count("stroke-dasharray")


@pytest.mark.slow
def test_real_frames_that_are_shown_again_are_counted_and_told(done, tmp_path):
    """Of 48 at 30 a second: a clip of 24 has none of its own for every fifth."""
    assert found(done)["protocol"]["repeated_frames"] == dict.fromkeys(
        found(done)["protocol"]["photographs"], "0 of 48"
    )
    assert not any("again" in remark for remark in found(done)["remarks"])
    selection = open_dataset(
        str(extracted(tmp_path, {"test-000000": 30.0, "test-000001": 24.0}).root)
    )
    keys = list(steps.select_held_out(selection, 2))
    counts = steps.write_real_films(selection, keys, tmp_path)
    assert sorted((one["frames"], one["repeated"]) for one in counts.values()) == [(48, 0), (48, 9)]
    (said,) = results.remark_repeated_frames(counts, 30.0)
    assert (
        said.startswith("9 of 48 frames of 1 of 2 real films are the one before again")
        and "clips of 30 frames a second or a multiple avoid it" in said
    )
    written = [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("films/real/*.mp4"))]
    assert steps.write_real_films(selection, keys, tmp_path) == counts
    assert [
        path.stat().st_mtime_ns for path in sorted(tmp_path.glob("films/real/*.mp4"))
    ] == written


@pytest.mark.slow
def test_how_long_each_was_trained_is_what_the_checkpoints_say(done):
    trained = {one["name"]: one["trained"] for one in found(done)["variants"]}
    one = dict(steps=1, batch=1, samples=1)
    assert trained == {
        "repeat": {},
        "independent": {"autoencoder": one, "one frequency": one, "renderer": one},
        "full": {"autoencoder": one, "one frequency": one, "coordination": one, "renderer": one},
    }
    page = (done / "ablation.html").read_text()
    assert (
        "How long each was trained" in page
        and page.count("<td>1 x 1<small>1 sample</small></td>") == 7
        and "<th>volume</th>" not in page
    )


def test_samples_are_steps_times_batch():
    assert results.checkpoint_effort({"step": 60, "training": {"batch": 4}}) == dict(
        steps=60, batch=4, samples=240
    )


def test_the_stages_of_a_variant_are_those_of_its_commands():
    stages = {
        name: trainings().checkpoint_folders(NAMED[name])
        for name in ("full", "volume", "independent", "splat")
    }
    prior = Path("out/trained/prior-coordinated-adaptive-16")
    assert list(stages["full"].items())[1:3] == [
        ("one frequency", prior / "slice"),
        ("coordination", prior),
    ]
    assert (
        list(stages["volume"]) == ["autoencoder", "volume", "renderer"]
        and stages["volume"]["volume"].name == "prior-volume-adaptive-16"
    )
    assert (
        list(stages["independent"]) == ["autoencoder", "one frequency", "renderer"]
        and stages["splat"]["renderer"].name == "renderer-single_scale"
    )


def change(film: Path) -> float:
    """Mean difference of a film's frames from frame 16 on, once its compression has settled, grey
    levels.
    """
    with av.open(str(film)) as file:
        frames = np.stack(
            [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
        ).astype(int)
    return float(np.abs(frames[16:] - frames[16]).mean())


@pytest.mark.slow
def test_repeated_pictures_stand_still_and_the_others_move(done):
    changes = {
        name: [change(film) for film in sorted((done / "films" / name).iterdir())]
        for name in (*MADE, "real")
    }
    assert (
        max(changes["repeat"])
        < 0.1
        < min(changes["real"] + changes["independent"] + changes["full"])
    )


@pytest.mark.slow
def test_the_same_command_again_does_nothing_but_show_the_table(asked, done, capsys):
    before, commands = found(done), finished(done)
    run(*asked, "--out", done)
    said = capsys.readouterr().out
    assert found(done) == before and finished(done) == commands
    assert "$ quiver" not in said and said.index("The paper's table 2") < said.index(
        "Ours, 2 films of 2 held-out clips"
    ) < said.index("full (K = 16)", said.index("Ours"))


@pytest.mark.slow
def test_a_command_that_was_shown_does_the_same_alone(done, tmp_path):
    verb, *args = shlex.split(next(line for line in finished(done) if "train-renderer" in line))[1:]
    train_renderer.main([*args[:-1], str(tmp_path / "alone")])
    alone, shared = newest(tmp_path / "alone"), newest(done / "trained" / "renderer-pyramid")
    assert (
        verb == "train-renderer"
        and alone.config == shared.config
        and checkpoints.weights_equal(alone.load_weights("ema"), shared.load_weights("ema"))
    )


@pytest.mark.slow
def test_the_first_stage_of_full_is_a_training_of_independent_frequencies(done, tmp_path):
    line = next(line for line in finished(done) if "train-denoiser" in line).replace(
        "--mode coordinated", "--mode independent"
    )
    train_denoiser.main([*shlex.split(line)[2:-1], str(tmp_path / "alone")])
    assert checkpoints.weights_equal(
        newest(tmp_path / "alone").load_weights("ema"),
        newest(done / "trained" / "prior-coordinated-adaptive-16" / "slice").load_weights("ema"),
    )


KILLED = """
import sys
from jobs import train_denoiser, train_renderer
from jobs.measure import ablate
from tests.jobs.measure.test_ablate import TINY
ablate.PRESETS["smoke"] = ("Tiny.", TINY)
ablate.main(sys.argv[1:])
"""


@pytest.mark.thorough
def test_killed_and_begun_again_it_gives_the_same_table(asked, done, tmp_path):
    out = tmp_path / "ablation"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, "smoke", *map(str, asked), "--out", str(out)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    ) as process:
        while (
            process.poll() is None
            and not (out / "trained" / "prior-coordinated-adaptive-16" / "slice").exists()
        ):
            time.sleep(0.02)
        process.kill()
    assert process.returncode == -signal.SIGKILL and len(finished(out)) == 1
    run(*asked, "--out", out)
    assert finished(out)[0].split()[1] == "train-autoencoder" and len(finished(out)) == len(
        finished(done)
    )
    assert found(out)["variants"] == found(done)["variants"]


def refused(capsys, code: int, *args: object) -> str:
    """The sentence with which it stops."""
    with pytest.raises(SystemExit) as stopped:
        run(*args)
    assert stopped.value.code == code
    return capsys.readouterr().err


@pytest.mark.slow
def test_another_ablation_in_the_same_folder_is_refused(asked, done, capsys):
    before = found(done)
    said = refused(capsys, 3, *asked, "--out", done, "--seed", 7)
    assert (
        "the folder holds an ablation made differently" in said
        and "seed: 0 -> 7" in said
        and "data:" not in said
    )
    assert found(done) == before


def test_what_is_missing_is_said_before_any_work(data, tmp_path, capsys):
    few = write_dataset(tmp_path / "few", {"train-000000": [{}], "test-000000": [{}]}).root
    all_learnt = write_dataset(tmp_path / "learnt", {"train-000000": [{}]}, config=CONFIG).root
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("Dear")
    out = ["--out", tmp_path / "out"]
    cases = [
        (["--data", few, *out], f"--data is {few} of 4 frequencies, expected at least 24"),
        (["--data", all_learnt, *out], "keeps no held-out window"),
        (["--data", data.root, *out, "--inception", tmp_path / "gone.pt"], "gone.pt"),
        (["--data", data.root, *out, "--imagenet", tmp_path / "gone.pth"], "gone.pth"),
        (["--data", data.root, *out, "--clips", tmp_path], "expected one of them"),
        (
            ["--data", data.root, *out, "--only", "k5"],
            "--only names 'k5', expected some of repeat, k4,",
        ),
        (["--data", data.root, *out, "--photographs", 0], "--photographs is 0, expected 1 to"),
        (["--data", data.root, "--out", tmp_path / "other"], "holds other files (letter.txt)"),
    ]
    for args, words in cases:
        said = refused(capsys, 2, *args)
        assert words in said and said.count("\n") == 1, said
    assert not (tmp_path / "out").exists()
