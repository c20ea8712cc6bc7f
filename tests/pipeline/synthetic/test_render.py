"""Rendered frames, written files and stated truth must agree: everything else in the project is
measured against them.
"""

import hashlib
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from safetensors.numpy import load_file

from jobs.make_clips import main
from pipeline.motion.spectrum import to_spectrum
from pipeline.synthetic import render as synthetic
from pipeline.synthetic.clips import RECIPES, timestamps
from pipeline.synthetic.render import (
    TICKS_PER_SECOND,
    VIDEO_SIZE,
    WORKING_SIZE,
    Layer,
    Mode,
    Scene,
    displacement,
    pixel_centers,
    render_frame,
    rest_points,
    true_motion,
    trusted_mask,
    wave,
    write_clip,
    write_truth,
)
from pipeline.synthetic.scenes import SCENES

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module", params=["reeds", "lantern", "ripples"])
def scene(request) -> Scene:
    return SCENES[request.param](np.random.default_rng(7))


@pytest.fixture(scope="module")
def plain() -> Scene:
    """One layer of noise, one mode on the bin of 0.6 Hz and one between bins, at 0.9 Hz."""
    rng = np.random.default_rng(3)
    texture = cv2.GaussianBlur(rng.normal(0, 1, (896, 1280, 4)).astype(np.float32), (0, 0), 4)
    texture = np.clip(128 + 40 / texture.std() * texture, 0, 255)
    texture[..., 3] = 255
    modes = (
        Mode(
            shape=wave(direction=(1.0, 0.0), cycles=(1.0, 0.5)), amplitude_px=2.0, frequency_hz=0.6
        ),
        Mode(
            shape=wave(direction=(0.0, 1.0), cycles=(0.0, 0.0)),
            amplitude_px=0.5,
            frequency_hz=0.9,
            phase=1.0,
        ),
    )
    return Scene(layers=(Layer(texture=texture, modes=modes),))


def small(frame: np.ndarray) -> np.ndarray:
    """A frame of the video as the pipeline sees it."""
    return cv2.resize(frame, WORKING_SIZE, interpolation=cv2.INTER_AREA).astype(np.float32)


def seen(scene: Scene, t: float, size: tuple[int, int]) -> np.ndarray:
    """At the working size as downsampled from the video, without the detail that a warp of so few
    pixels cannot carry.
    """
    return (
        cv2.GaussianBlur(small(render_frame(scene, t)), (0, 0), 1)
        if size == WORKING_SIZE
        else render_frame(scene, t, size).astype(np.float32)
    )


def warped_error(
    scene: Scene, start_s: float, later_s: float, size: tuple[int, int] = WORKING_SIZE
) -> tuple[float, float]:
    """Mean |I_t(p + F_t(p)) - I_0(p)| where truth is trusted, levels, and the same without the
    motion.
    """
    times = np.linspace(0, later_s, 5)
    motion = true_motion(scene, start_s, times, size)
    valid = trusted_mask(scene, start_s, motion, times)
    assert valid.mean() > 0.2
    first, last = seen(scene, start_s, size), seen(scene, start_s + later_s, size)
    columns, rows = np.meshgrid(
        np.arange(size[0], dtype=np.float32), np.arange(size[1], dtype=np.float32)
    )
    moved = cv2.remap(last, columns + motion[-1, 0], rows + motion[-1, 1], cv2.INTER_CUBIC)
    return np.abs(moved - first)[valid].mean(), np.abs(last - first)[valid].mean()


@pytest.mark.sample(3)
@pytest.mark.slow
@pytest.mark.parametrize("start_s", [0.0, 1.7])
def test_truth_carries_frames_into_each_other(scene, start_s):
    for later_s in (0.4, 0.9):
        error, still = warped_error(scene, start_s, later_s)
        assert error < 2.5 and error < 0.2 * still


def test_truth_of_a_pan(plain):
    panned = Scene(layers=plain.layers, pan_px_per_s=(6.0, -4.0))
    error, still = warped_error(panned, 1.0, 1.5)
    assert error < 1.0 and error < 0.1 * still
    shift = (
        true_motion(panned, 1.0, np.array([1.5]))[0] - true_motion(plain, 1.0, np.array([1.5]))[0]
    )
    assert np.allclose(shift.mean(axis=(1, 2)), (9, -6), atol=0.2)


def test_truth_follows_the_material_point(plain):
    """In a steep field it matters that u is taken at the point's place of rest, not where it is
    seen.
    """
    steep = Mode(
        shape=wave(direction=(1.0, 0.0), cycles=(3.0, 1.0)), amplitude_px=4.0, frequency_hz=0.5
    )
    scene = Scene(layers=(Layer(texture=plain.layers[0].texture, modes=(steep,)),))
    for start_s in (0.0, 0.2):
        error, still = warped_error(scene, start_s, 0.8, VIDEO_SIZE)
        assert error < 0.7 and error < 0.02 * still


def test_a_shift_of_one_pixel_is_one_pixel(plain):
    """Pixel centres: content moved right by one working pixel is the picture two video pixels
    further left.
    """
    layer = Layer(texture=plain.layers[0].texture)
    before, after = (
        render_frame(Scene(layers=(layer,), pan_px_per_s=(1.0, 0.0)), t).astype(int)
        for t in (0.0, 1.0)
    )
    assert np.abs(after[:, 2:] - before[:, :-2]).max() <= 1


@pytest.mark.slow
def test_sizes_agree(scene):
    """The truth at two resolutions is one field: nine tenths of the pixels within 0.01 px (layers'
    edges may differ).
    """
    times = np.array([0.0, 0.8])
    coarse, fine = true_motion(scene, 0.5, times), true_motion(scene, 0.5, times, VIDEO_SIZE)
    mean = fine.reshape(2, 2, 160, 2, 256, 2).mean(axis=(3, 5)) / 2
    assert np.quantile(np.abs(mean - coarse), 0.9) < 0.01


def test_motion_begins_at_nothing(scene):
    assert not true_motion(scene, 0.7, np.array([0.0])).any()


def test_rest_points_are_exact(scene):
    x = pixel_centers(WORKING_SIZE)
    for layer in scene.layers:
        q = rest_points(layer, x, 1.3)
        assert np.abs(q + displacement(layer, q, 1.3) - x).max() * 256 < 1e-3


@pytest.mark.slow
def test_splines_between_the_nodes_are_exact(scene):
    for layer in scene.layers:
        texels = (
            rest_points(layer, pixel_centers(VIDEO_SIZE), 0.7) + synthetic.MARGIN
        ) * synthetic.TEXELS_PER_WIDTH - 0.5
        looked_up = np.stack(synthetic._texel_map(scene, layer, 0.7, VIDEO_SIZE))
        assert np.abs(looked_up - texels).max() * 256 / synthetic.TEXELS_PER_WIDTH < 1e-3


def test_a_folding_motion_is_refused(plain):
    wild = Mode(
        shape=wave(direction=(1.0, 0.0), cycles=(20.0, 0.0)), amplitude_px=30.0, frequency_hz=1.0
    )
    with pytest.raises(ValueError, match="folds the picture"):
        rest_points(
            Layer(texture=plain.layers[0].texture, modes=(wild,)), pixel_centers(WORKING_SIZE), 0.0
        )


def test_spectrum_peaks_at_the_modes(plain):
    """x moves at 0.6 Hz = bin 3 alone; y at 0.9 Hz, between bins 4 and 5, by 0.5 px everywhere."""
    motion = true_motion(plain, 0.0, np.arange(150) / 30)
    amplitude = 2 / 150 * np.sqrt((np.abs(to_spectrum(motion, 16)) ** 2).mean(axis=(2, 3)))
    assert amplitude[1:, 0].argmax() + 1 == 3
    assert amplitude[3, 0] == pytest.approx(2 / np.sqrt(2), rel=0.03)
    assert np.delete(amplitude[1:, 0], 2).max() < 0.01
    assert set(np.argsort(amplitude[1:, 1])[-2:] + 1) == {4, 5}
    assert 0.2 < amplitude[4, 1] < 0.5


def test_covered_pixels_are_not_trusted():
    """A disc swings 5 px to the right over a still ground: the ground that it covers, and its rim,
    are not trusted.
    """
    texture = np.full((896, 1280, 4), 255, np.float32)
    disc = np.zeros_like(texture)
    cv2.circle(disc, (640, 448), 160, (90, 90, 90, 255), -1)
    swing = Mode(
        shape=wave(direction=(1.0, 0.0), cycles=(0.0, 0.0)),
        amplitude_px=2.5,
        frequency_hz=0.5,
        phase=np.pi,
    )
    scene = Scene(layers=(Layer(texture=texture), Layer(texture=disc, modes=(swing,))))
    times = np.linspace(0, 1, 11)
    motion = true_motion(scene, 0.0, times)
    valid = trusted_mask(scene, 0.0, motion, times)
    right = round(128 - 2.5 + 40)  # the disc's right end at the start, working pixels
    assert valid[80, right + 7 : right + 40].all() and not valid[80, right - 2 : right + 5].any()
    assert valid[80, 128] and motion[-1, 0, 80, 128] == pytest.approx(5)
    assert not motion[:, :, 80, right + 3].any()


@pytest.mark.parametrize("fps", [24.0, 25.0, 30.0, 50.0, None])
def test_files_have_the_times_asked_for(tmp_path, plain, fps):
    times = timestamps(fps, 0.5, np.random.default_rng(5))
    write_clip(tmp_path / "clip.mp4", plain, times, (64, 48))
    with av.open(str(tmp_path / "clip.mp4")) as file:
        frames = list(file.decode(video=0))
    assert [round(f.pts * f.time_base * TICKS_PER_SECOND) for f in frames] == [
        round(t * TICKS_PER_SECOND) for t in times
    ]
    assert fps is None or np.allclose(times, np.arange(fps // 2) / fps)
    if fps is None:
        gaps = np.diff(times)
        assert 1 / 46 < gaps.min() < gaps.max() < 1 / 19.9 and gaps.std() > 0.003


def test_files_look_like_the_frames(tmp_path, scene):
    """Colours and places survive the codec: BT.709, limited range, no shift."""
    write_clip(tmp_path / "clip.mp4", scene, np.arange(3) / 30)
    with av.open(str(tmp_path / "clip.mp4")) as file:
        decoded = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    difference = np.stack(
        [small(a) - small(render_frame(scene, t / 30)) for t, a in enumerate(decoded)]
    )
    assert np.abs(difference.mean(axis=(0, 1, 2))).max() < 2.0 and np.abs(difference).mean() < 3.0


@pytest.mark.slow
def test_same_seed_same_bytes(tmp_path):
    for name in "ab":
        write_clip(tmp_path / name, SCENES["cloth"](np.random.default_rng(1)), np.arange(4) / 25)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.slow
def test_truth_file(tmp_path, plain):
    write_truth(tmp_path / "truth.safetensors", plain, start_s=0.3)
    truth = load_file(tmp_path / "truth.safetensors")
    motion = true_motion(plain, 0.3, np.arange(150) / 30)
    volume = to_spectrum(motion, 16)
    assert truth["motion"].dtype == np.float16 and np.allclose(truth["motion"], motion, atol=2e-3)
    assert truth["spectrum"].dtype == np.float32 and truth["spectrum"].shape == (16, 4, 160, 256)
    for channel, part in enumerate(
        (volume[:, 0].real, volume[:, 0].imag, volume[:, 1].real, volume[:, 1].imag)
    ):
        assert np.allclose(truth["spectrum"][:, channel], part, atol=1e-3)
    assert truth["valid"].dtype == np.uint8 and set(np.unique(truth["valid"])) == {0, 1}


@pytest.mark.slow
def test_job_writes_a_damaged_file_and_the_list(tmp_path, capsys):
    main(["--out", str(tmp_path / "clips"), "--only", "damaged-30fps"])
    said = capsys.readouterr().out
    assert len(said.splitlines()) == 2 and str(tmp_path / "clips") in said
    listed = (tmp_path / "clips" / "clips.csv").read_text().splitlines()
    assert listed == [
        "uri,clip_id,source,licence",
        "damaged-30fps.mp4,damaged-30fps,quiver-synthetic/damaged-30fps,CC0-1.0",
    ]
    with pytest.raises(av.error.InvalidDataError):
        av.open(str(tmp_path / "clips" / "damaged-30fps.mp4"))


def test_one_good_clip_is_held_out():
    """The split is by hash of the source; the demo shows both sides of it."""

    def share(name: str) -> float:
        return (
            int.from_bytes(hashlib.sha256(f"quiver-synthetic/{name}".encode()).digest()[:8], "big")
            / 2**64
        )

    good = [name for name in RECIPES if name.split("-")[0] in SCENES]
    assert len(good) == 5 and [name for name in good if share(name) < 0.1] == ["reeds-25fps"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--seconds", "-1"], ["-1", "expected"]),
        (["--seconds", "nan"], ["nan", "expected"]),
        (["--only", "plant-30fps", "unicorn"], ["'unicorn'", "expected", "reeds-25fps"]),
        (["--only"], ["nothing", "expected"]),
        (["--seed", "-3"], ["-3", "expected"]),
        (["--processes", "0"], ["0", "expected"]),
        (["--out", "/proc/nowhere/clips"], ["/proc/nowhere/clips", "expected"]),
    ],
)
def test_job_refuses_in_one_sentence(tmp_path, capsys, args, words):
    with pytest.raises(SystemExit) as stopped:
        main(["--out", str(tmp_path), *args])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and len(said.strip().splitlines()) == 1
    assert all(word in said for word in words)


@pytest.mark.slow
def test_all_clips_can_have_one_frame_rate_which_their_names_say(tmp_path):
    main(
        [
            "--out",
            str(tmp_path),
            "--seconds",
            "5",
            "--fps",
            "12",
            "--only",
            "still-30fps",
            "--processes",
            "1",
        ]
    )
    with av.open(str(tmp_path / "still-12fps.mp4")) as file:
        times = [float(frame.time) for frame in file.decode(video=0)]
    assert np.allclose(times, np.arange(45) / 12, atol=1e-4)
    assert (
        "still-12fps.mp4,still-12fps," in (tmp_path / "clips.csv").read_text()
        and len(list(tmp_path.glob("*.mp4"))) == 1
    )


def test_the_command_refuses_without_a_traceback(tmp_path):
    command = [sys.executable, "-m", "jobs.make_clips", "--out", str(tmp_path), "--seconds", "-1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "Traceback" not in done.stderr and "-1" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not list(tmp_path.iterdir())
