"""Flow that explains the picture, and flow that does not, both made up."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.filters import PRESETS, judge
from pipeline.filters.flow_quality import (
    inconsistent_share,
    measure_flow_quality,
    unexplained_share,
)
from pipeline.flow.consistency import BELIEVED, relative_disagreements
from schemas.outcome import FilterMeasures, Reason
from tests.support.datasets import PASSING_MEASURES
from tests.support.measures import move_image
from tests.support.videos import make_texture

WIDTH, HEIGHT = 128, 80
EVERYWHERE = np.ones((HEIGHT, WIDTH), bool)


def gray_texture(seed: int = 0) -> np.ndarray:
    return make_texture(WIDTH, HEIGHT, seed)[..., 1]


def uniform_flow(dx: float, dy: float) -> np.ndarray:
    flow = np.zeros((2, HEIGHT, WIDTH), np.float32)
    flow[0], flow[1] = dx, dy
    return flow


def test_flow_that_comes_back_is_consistent_and_flow_that_does_not_is_not():
    def share(*pairs: tuple[np.ndarray, np.ndarray]) -> float:
        return inconsistent_share(relative_disagreements(pairs), EVERYWHERE)

    forward = uniform_flow(2.0, 0.0)
    wrong = -forward
    wrong[0, :, 64:] = 1.0
    assert share((forward, -forward)) == 0.0
    assert share((forward, wrong)) == pytest.approx(0.5, abs=0.05)
    assert share((forward, -forward), (forward, wrong)) == pytest.approx(0.25, abs=0.03)
    assert share((forward + 200, wrong)) == 1.0
    sound = FilterMeasures(**PASSING_MEASURES)
    assert judge(replace(sound, inconsistent_share=0.9), PRESETS["subtle"]) == [
        Reason.UNRELIABLE_FLOW
    ]


def test_inconsistency_is_that_of_the_pixels_that_count():
    forward = uniform_flow(2.0, 0.0)
    wrong = -forward
    wrong[0, :, 64:] = 1.0
    disagreements, left = relative_disagreements([(forward, wrong)]), EVERYWHERE.copy()
    left[:, 60:] = False
    assert inconsistent_share(disagreements, left) == 0.0
    assert inconsistent_share(disagreements, ~EVERYWHERE) == 0.0


@settings(deadline=None, max_examples=20)
@given(st.integers(-6, 6), st.integers(-6, 6), st.integers(0, 100))
def test_exact_flow_explains_the_picture(dx, dy, seed):
    gray = gray_texture(seed)
    later = np.roll(gray, (dy, dx), (0, 1))
    inner = EVERYWHERE.copy()
    inner[:, :20] = inner[:, -20:] = inner[:20] = inner[-20:] = False
    share = unexplained_share(gray, [(later, uniform_flow(dx, dy))], inner)
    assert share == pytest.approx(0, abs=1e-3)


def test_flow_that_misses_by_a_pixel_explains_it_still():
    gray = gray_texture()
    later = move_image(gray, 3.0, 0.0)
    assert unexplained_share(gray, [(later, uniform_flow(3, 0))], EVERYWHERE) < 0.1
    assert unexplained_share(gray, [(later, uniform_flow(2, 0))], EVERYWHERE) < 0.4


def test_pictures_that_have_nothing_to_do_with_each_other_are_unexplained():
    shares = [
        unexplained_share(gray_texture(i), [(gray_texture(i + 50), uniform_flow(1, 1))], EVERYWHERE)
        for i in range(5)
    ]
    assert np.mean(shares) == pytest.approx(1.1, abs=0.2)


def test_pixels_that_leave_the_picture_do_not_count():
    """The right half of the picture leaves it; what is fetched for it is its border."""
    gray = gray_texture()
    flow = uniform_flow(0.0, 0.0)
    flow[0, :, 64:] = 200.0
    assert unexplained_share(gray, [(gray, flow)], EVERYWHERE) < 0.1
    assert unexplained_share(gray, [(gray, uniform_flow(500, 0))], EVERYWHERE) == 1.0
    assert unexplained_share(gray, [(gray, flow)], ~EVERYWHERE) == 0.0


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.floats(-300, 300))
def test_flow_that_is_not_believed_leaves_nothing_unexplained(seed, invented):
    gray, weight = gray_texture(), np.full((HEIGHT, WIDTH), 2, np.float32)
    later = np.roll(gray, 2, 1)
    doubtful = np.zeros((HEIGHT, WIDTH), bool)
    doubtful[:, 64:] = True
    confidence = np.where(doubtful, BELIEVED - 1, 255).astype(np.uint8)
    flow = uniform_flow(2, 0)
    noise = np.random.default_rng(seed).normal(size=flow.shape).astype(np.float32)
    invention = np.where(doubtful, np.float32(invented) * noise, flow)
    agreement = np.zeros((1, HEIGHT, WIDTH), np.float32)
    # the filter of 3 px looks a few pixels beyond
    weight[:, 50:64] = 0

    def measure(forward: np.ndarray) -> dict[str, float]:
        return measure_flow_quality(gray, [(later, forward)], agreement, weight, confidence)

    found, expected = measure(invention), measure(flow)
    assert found["unexplained_share"] == pytest.approx(expected["unexplained_share"], abs=1e-3)
    assert found["inconsistent_share"] == expected["inconsistent_share"]
