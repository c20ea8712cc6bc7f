"""Painted scenes: what is fixed stays, what sways does so as its fields say, and by as much as real
clips do.
"""

import cv2
import numpy as np
import pytest

from pipeline.motion.spectrum import to_spectrum
from pipeline.synthetic.render import Scene, render_frame, true_motion
from pipeline.synthetic.world.canvas import make_canvas
from pipeline.synthetic.world.dataset import front_layers, iter_known_motion, paint_first_frame
from pipeline.synthetic.world.plants import grow
from pipeline.synthetic.world.scenes import WORLD, make_scene
from pipeline.synthetic.world.statistics import (
    REAL,
    describe_photograph,
    describe_sway,
    draw_real,
)
from pipeline.synthetic.world.sway import NODES, Sway, branch_fields, drive, unfold
from schemas.outcome import FilterMeasures
from tests.support.datasets import PASSING_MEASURES

TIMES = np.arange(150) / 30
SIZE = (128, 80)
TEXELS = 192


@pytest.fixture(scope="module", params=list(WORLD))
def scene(request) -> Scene:
    return make_scene(request.param, 4, TEXELS)


def known_motion(scene: Scene, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.concatenate(list(iter_known_motion(scene, TIMES, size)))


def swaying_rods(rng: np.random.Generator, bases: np.ndarray, tips: np.ndarray) -> Sway:
    fields = branch_fields(bases, tips, np.zeros(len(bases)))
    sizes = np.full(len(bases), 0.02)
    return drive(rng, fields, sizes, slope=-1.0, resonances=np.full(len(bases), 0.7))


def test_what_is_fixed_does_not_move(scene):
    motion, front = known_motion(scene), front_layers(scene, SIZE)
    still = [index for index, layer in enumerate(scene.layers) if not layer.modes]
    assert 0 in still and not motion[:, :, np.isin(front, still)].any()
    assert (np.abs(motion).max(axis=(0, 1)) == 0).mean() > 0.1
    assert np.abs(motion).max() > 0.1


def test_motion_begins_at_nothing_and_the_painting_is_the_first_frame(scene):
    assert not known_motion(scene)[0].any()
    rendered = render_frame(scene, 0.0, (256, 160))
    small = cv2.resize(rendered, SIZE, interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(paint_first_frame(scene, SIZE) - small).mean() < 3


def test_known_motion_is_the_true_motion_of_the_renderer(scene):
    times = np.array([0.0, 1.1, 3.7])
    known = next(iter_known_motion(scene, times, SIZE))
    difference = np.abs(known - true_motion(scene, 0.0, times, SIZE)).max(axis=(0, 1))
    assert np.quantile(difference, 0.75) < 2e-3  # layers may differ at their edges


def test_a_crop_of_twice_the_size_has_twice_the_displacement():
    scene = make_scene("cloth", 1, TEXELS)
    coarse, fine = known_motion(scene), known_motion(scene, (256, 144))
    mean = fine.reshape(150, 2, 72, 2, 128, 2).mean(axis=(3, 5)) / 2
    assert np.quantile(np.abs(mean - coarse[:, :, 4:76]), 0.9) < 0.02
    with pytest.raises(ValueError, match="128x100, expected at most 128x80"):
        next(iter_known_motion(scene, TIMES, (128, 100)))


def test_sheets_do_not_fold(scene):
    for t in (0.31, 2.9, 4.7):
        frame = render_frame(scene, t, SIZE)  # raises if the motion cannot be inverted
        assert frame.shape == (SIZE[1], SIZE[0], 3) and frame.std() > 1


def test_equal_seeds_give_equal_scenes():
    first, again, other = (make_scene("flowers", seed, TEXELS) for seed in (5, 5, 6))
    assert paint_first_frame(first, SIZE).tobytes() == paint_first_frame(again, SIZE).tobytes()
    assert known_motion(first).tobytes() == known_motion(again).tobytes()
    difference = paint_first_frame(first, SIZE).astype(int) - paint_first_frame(other, SIZE)
    assert np.abs(difference).mean() > 5


def test_paintings_agree_at_all_resolutions():
    coarse, fine = (paint_first_frame(make_scene("tree", 3, n), SIZE) for n in (128, 512))
    assert np.corrcoef(coarse.ravel(), fine.ravel())[0, 1] > 0.9


def test_the_anchor_of_a_stem_does_not_move_and_its_tip_moves_most():
    bases, tips = np.array([[0.3, 0.6], [0.7, 0.6]]), np.array([[0.3, 0.2], [0.6, 0.3]])
    sway = swaying_rods(np.random.default_rng(0), bases, tips)
    below = np.array([[0.3, 0.3, 0.7], [0.65, 0.7, 0.68]])
    assert np.abs(sway.displace(below, 1.7)).max() < 1e-7
    ends = np.abs(sway.displace(np.concatenate([bases, tips]).T, 1.7)).max(axis=0)
    assert ends[:2].max() < 1e-4 < 1e-3 < ends[2:].min()
    across = sway.displace(tips[:1].T, 1.7)[:, 0]
    assert abs(across[0]) > 20 * abs(across[1])  # an upright stem sways sideways


def test_weights_are_the_sums_of_their_waves():
    sway = swaying_rods(np.random.default_rng(1), np.array([[0.5, 0.6]]), np.array([[0.5, 0.1]]))
    t = np.array([0.0, 0.4, 2.2])
    angles = 2 * np.pi * np.multiply.outer(sway.frequencies, t)
    waves = np.cos(angles + sway.phases[0][:, None]) - np.cos(sway.phases[0])[:, None]
    assert np.allclose(sway.weights(t)[0], sway.amplitudes[0] @ waves)
    points = NODES[:, 30:32, 40:42].astype(float)
    total = np.tensordot(sway.weights(0.4), sway.basis(points), 1)
    assert np.allclose(sway.displace(points, 0.4), total, atol=1e-7)


def test_wind_has_the_slope_that_is_asked_for():
    """The mean over many joints of the power of long series, beyond the resonance."""
    fields = np.zeros((400, 1, 1, 2), np.float32)
    for slope in (-1.0, -2.0):
        sway = drive(
            np.random.default_rng(2),
            fields,
            np.ones(400),
            slope=slope,
            resonances=np.full(400, 50.0),
            together=0.0,
        )
        spacing = np.gradient(sway.frequencies)
        power = (sway.amplitudes**2).mean(axis=0) / spacing
        middle = (sway.frequencies > 0.1) & (sway.frequencies < 2)
        fitted = np.polyfit(np.log(sway.frequencies[middle]), np.log(power[middle]), 1)[0]
        assert fitted == pytest.approx(slope, abs=0.25)


def test_wild_motion_is_tamed_and_calm_motion_kept():
    calm = swaying_rods(np.random.default_rng(3), np.array([[0.5, 0.6]]), np.array([[0.5, 0.1]]))
    wild = calm.scaled(100.0)
    assert np.array_equal(unfold([calm])[0].amplitudes, calm.amplitudes)
    assert unfold([wild])[0].amplitudes.max() < 0.5 * wild.amplitudes.max()
    assert unfold([]) == ()


def test_branches_of_a_tree_grow_from_their_parents():
    rods = grow(np.random.default_rng(0), (0.5, 0.6), 0.3, forks=(4, 3))
    assert [int((rods.levels == level).sum()) for level in range(3)] == [1, 4, 12]
    trunk = rods.bases[0] - rods.tips[0]
    for base in rods.bases[rods.levels == 1]:
        away = base - rods.tips[0]
        assert abs(trunk[0] * away[1] - trunk[1] * away[0]) < 1e-12  # on the trunk's line


def test_noise_has_the_statistics_of_photographs():
    canvas = make_canvas(256)
    noise = canvas.noise(np.random.default_rng(0), 3, 7, 0.8)
    assert noise.mean() == pytest.approx(0, abs=1e-4) and noise.std() == pytest.approx(1, abs=1e-3)
    gray = np.clip(128 + 40 * noise, 0, 255).astype(np.uint8)
    slope = describe_photograph(np.dstack([gray] * 3))["detail_slope"]
    assert REAL["detail_slope"][0] < slope < REAL["detail_slope"][-1]


def test_descriptions_of_known_spectra():
    power = np.concatenate([[4.0], np.arange(1.0, 76.0) ** -1.5])
    power[7] *= 100
    weight = np.zeros((40, 64), np.float32)
    weight[:10] = 1
    described = describe_sway(FilterMeasures(**PASSING_MEASURES), power, weight)
    assert described["peak_hz"] == pytest.approx(1.4) and described["quiet_share"] == 0.75
    power[7] /= 100
    described = describe_sway(FilterMeasures(**PASSING_MEASURES), power, weight)
    assert described["power_slope"] == pytest.approx(-1.5, abs=1e-6)
    assert described["dc_share"] == pytest.approx(4 / (4 + 2 * power[1:].sum()))


def test_draws_follow_the_percentiles():
    rng = np.random.default_rng(0)
    for name in ("sway_px", "power_slope"):
        draws = [draw_real(rng, name) for _ in range(2000)]
        low, _, middle, _, high = REAL[name]
        assert low <= min(draws) and max(draws) <= high
        assert np.median(draws) == pytest.approx(middle, abs=0.1 * (high - low))


@pytest.mark.slow
def test_scenes_sway_as_much_as_real_clips():
    """Within the middle half of real clips at the median, and within their range nearly always."""
    sways, slopes, scale = [], [], 256 / SIZE[0]
    for kind in WORLD:
        for seed in (11, 12, 13):
            motion = scale * known_motion(make_scene(kind, seed, 128))[:, :, ::2, ::2]
            centered = motion - motion.mean(axis=0)
            sway = np.sqrt(2 * np.square(centered).sum(axis=1).mean(axis=0))
            sways.append(np.percentile(sway, 99))
            power = np.square(np.abs(to_spectrum(motion, 16))).mean(axis=(1, 2, 3))
            slopes.append(np.polyfit(np.log(np.arange(1, 16)), np.log(power[1:]), 1)[0])
    for values, name in ((sways, "sway_px"), (slopes, "power_slope")):
        lowest, low, _, high, highest = REAL[name]
        assert low < np.median(values) < high, name
        assert np.mean([lowest - 0.6 < value < highest + 0.6 for value in values]) > 0.9, name
