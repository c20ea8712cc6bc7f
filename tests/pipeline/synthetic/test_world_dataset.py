"""A dataset of painted scenes is a dataset like any other."""

import cv2
import numpy as np
import pytest
from safetensors.numpy import load_file

from jobs.make_clips import main
from jobs.verify import main as verify
from pipeline.dataset.open import open_dataset
from pipeline.extract.config import BuildConfig, from_contract
from pipeline.motion.spectrum import to_spectrum
from pipeline.synthetic.clips import make_clip
from pipeline.synthetic.world.dataset import (
    build_scene_window,
    iter_known_motion,
    plan_scenes,
    scene_contract,
)
from pipeline.synthetic.world.scenes import WORLD, make_scene
from schemas.outcome import Outcome
from schemas.run_contract import to_json_value
from schemas.sample import channels_to_complex, encode_sample

CONFIG = BuildConfig(size=(128, 80), pairs=2, damp=False)


def test_every_scene_is_a_clip_of_its_own():
    rows = plan_scenes(tuple(WORLD), 40, 3, CONFIG)
    assert len({row.key for row in rows}) == len({row.source for row in rows}) == 40
    assert {row.licence for row in rows} == {"CC0-1.0"}
    assert {row.uri.split(":")[1] for row in rows} == set(WORLD)
    other = plan_scenes(tuple(WORLD), 40, 4, CONFIG)
    assert not {row.key for row in rows} & {row.key for row in other}


def test_the_stored_volume_is_the_transform_of_the_known_displacement():
    row = plan_scenes(("cloth",), 1, 0, CONFIG)[0]
    result = build_scene_window(row, CONFIG)
    sample, again = result.sample, build_scene_window(row, CONFIG).sample
    assert sample and again and encode_sample(sample) == encode_sample(again)
    scene = make_scene("cloth", 0, 192)
    motion = np.concatenate(list(iter_known_motion(scene, np.arange(150) / 30, CONFIG.size)))
    expected = to_spectrum(motion, 16)
    stored = channels_to_complex(sample.spectrum)
    assert np.abs(stored - expected).max() < 1e-3 * np.abs(expected).max()
    lengths = np.sqrt(np.square(motion).sum(axis=1)).mean(axis=0)
    assert np.allclose(sample.weight, lengths, atol=2e-3)
    frames = np.rint(sample.pair_time * 30).astype(int)
    assert np.allclose(sample.pair_flow, motion[frames], atol=1e-2)
    assert result.row.outcome == Outcome.KEPT and (sample.confidence == 255).all()
    assert sample.meta["scene"] == {"kind": "cloth", "seed": 0}
    assert sample.meta["flow"]["flow"] == "known" and sample.meta["decoder"] == "none"


def test_the_later_frame_is_the_painting_moved():
    """Forward: what is at p in the first frame is at p + F in the later one."""
    row = plan_scenes(("cloth",), 1, 0, CONFIG)[0]
    sample = build_scene_window(row, CONFIG).sample
    assert sample
    columns, rows = np.meshgrid(np.arange(128, dtype=np.float32), np.arange(80, dtype=np.float32))
    flow = sample.pair_flow[-1].astype(np.float32)
    back = cv2.remap(sample.pair_image[-1], columns + flow[0], rows + flow[1], cv2.INTER_CUBIC)
    moving = np.abs(flow).max(axis=0) > 0.3
    moved, still = (
        np.abs(image.astype(int) - sample.image)[moving].mean()
        for image in (back, sample.pair_image[-1])
    )
    assert moving.any() and moved < 0.6 * still


def test_the_contract_can_be_read():
    config = from_contract(to_json_value(scene_contract(CONFIG)))
    assert (config.size, config.plan) == (CONFIG.size, CONFIG.plan)


@pytest.mark.slow
def test_a_video_of_a_painted_scene_has_its_truth(tmp_path):
    line = make_clip("cloth-30fps", tmp_path, seconds=0.2, seed=1)
    assert line.startswith("cloth-30fps: 6 frames") and line.endswith("with truth")
    truth = load_file(tmp_path / "cloth-30fps.truth.safetensors")
    assert not truth["motion"][0].any() and truth["motion"].any() and truth["valid"].any()


@pytest.mark.slow
def test_the_command_writes_a_dataset_that_verifies_and_resumes(tmp_path, capsys):
    out = str(tmp_path / "scenes")
    args = ["--out", out, "--scenes", "3", "--size", "128", "80", "--pairs", "1"]
    main([*args, "--kinds", "cloth", "lanterns", "--processes", "1"])
    assert "3 kept" in capsys.readouterr().out
    view = open_dataset(out)
    before = [record.tar for record in map(view.read_index().shards.get, view.read_index().shards)]
    assert len(view) == 3 and view[0].spectrum.shape == (16, 2, 80, 128)
    main([*args, "--kinds", "cloth", "lanterns", "--processes", "1"])
    index = view.read_index().shards
    assert [index[name].tar for name in index] == before
    verify([out])
    assert "whole" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--scenes", "0"], ["--scenes", "0", "expected"]),
        (["--scenes", "2", "--kinds", "unicorn"], ["'unicorn'", "expected", "meadow"]),
        (["--scenes", "2", "--only", "tree-30fps"], ["--only is for videos"]),
        (["--kinds", "meadow"], ["--kinds is for --scenes, which is missing"]),
        (["--scenes", "2", "--test-fraction", "1"], ["--test-fraction", "1", "under 1"]),
        (["--scenes", "2", "--size", "128", "100"], ["128x100", "expected", "128x80"]),
    ],
)
def test_the_command_refuses_in_one_sentence(tmp_path, capsys, args, words):
    with pytest.raises(SystemExit) as stopped:
        main(["--out", str(tmp_path / "scenes"), *args])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and all(word in said for word in words)
    assert not (tmp_path / "scenes").exists()
