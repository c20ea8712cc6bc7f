"""Measures of flow on flow with known faults: the truth with one change each."""

import json
import struct
from dataclasses import asdict

import numpy as np
import pytest

from pipeline.flow_benchmark import metrics, run, summary
from pipeline.flow_benchmark.middlebury import (
    FLO_TAG,
    encode_flo,
    find_known_pairs,
    parse_flo,
    read_known_pair,
)
from pipeline.motion.spectrum import to_spectrum
from tests.support.videos import make_texture

H, W = 96, 128


def step_truth() -> np.ndarray:
    """Two halves that move apart by 4 px, with a ripple of 0.05 px so that neither is constant."""
    x, y = np.meshgrid(np.arange(W), np.arange(H))
    ripple = 0.05 * np.sin(2 * np.pi * x / 40) * np.cos(2 * np.pi * y / 40)
    return np.stack([np.where(x < W // 2, 2.0, -2.0) + ripple, ripple]).astype(np.float32)


@pytest.fixture(scope="module")
def truth() -> metrics.Truth:
    return metrics.Truth(step_truth(), np.ones((H, W), bool))


def test_a_perfect_estimate_has_no_error(truth):
    errors = run.compare_with_truth(truth.flow.copy(), truth)
    assert errors.epe_px == errors.epe_near_px == errors.epe_inside_px == errors.blur_px == 0
    assert errors.angle_deg == pytest.approx(0, abs=1e-4)
    for detail in errors.details:
        assert (detail.kept, detail.error, detail.amount) == pytest.approx((1, 0, 1), abs=1e-6)


def test_a_shift_raises_the_end_point_error_by_its_length_and_blurs_nothing(truth):
    errors = run.compare_with_truth(truth.flow + np.float32([[[0.3]], [[-0.4]]]), truth)
    assert (errors.epe_px, errors.epe_inside_px) == pytest.approx((0.5, 0.5), abs=1e-5)
    assert errors.details[0].kept == pytest.approx(1, abs=1e-3)


def test_the_angle_is_that_of_both_displacements_with_one_frame():
    still, flow = np.zeros((2, 4, 5), np.float32), np.zeros((2, 4, 5), np.float32)
    flow[0] = 1
    assert metrics.angular_error(flow, still) == pytest.approx(np.full((4, 5), 45.0))
    flow[0] = np.sqrt(3)
    assert metrics.angular_error(still, flow) == pytest.approx(np.full((4, 5), 60.0), abs=1e-4)


@pytest.mark.parametrize("sigma", [0.7, 1.5, 3.0, 6.0])
def test_a_blurred_truth_is_found_to_be_blurred_by_as_much(truth, sigma):
    errors = run.compare_with_truth(metrics.blur_masked(truth.flow, truth.valid, sigma), truth)
    assert errors.blur_px == pytest.approx(sigma, rel=0.08)
    assert errors.epe_near_px > 5 * errors.epe_inside_px
    amounts = [detail.amount for detail in errors.details]
    assert errors.details[0].kept < 0.95 and amounts[0] < min(0.95, amounts[-1])


def test_more_blur_is_more_error_at_edges_and_less_detail(truth):
    errors = [
        run.compare_with_truth(metrics.blur_masked(truth.flow, truth.valid, sigma), truth)
        for sigma in (1.0, 2.0, 4.0)
    ]
    near = [blurred.epe_near_px for blurred in errors]
    assert near == sorted(near)
    for octave in range(3):
        kept = [blurred.details[octave].kept for blurred in errors]
        assert kept == sorted(kept, reverse=True)


def test_noise_is_an_error_but_no_blur(truth):
    noisy = truth.flow + np.random.default_rng(0).normal(0, 0.3, truth.flow.shape).astype(
        np.float32
    )
    errors = run.compare_with_truth(noisy, truth)
    assert errors.blur_px < 0.2
    assert errors.details[0].kept == pytest.approx(1, abs=0.1) and errors.details[0].amount > 1.05
    assert errors.epe_near_px == pytest.approx(errors.epe_inside_px, rel=0.1)


def test_what_is_not_known_does_not_count():
    flow, valid = step_truth(), np.ones((H, W), bool)
    valid[:, :20] = False
    truth = metrics.Truth(np.where(valid, flow, 0).astype(np.float32), valid)
    wild = flow.copy()
    wild[:, :, :20] = 1e6
    errors = run.compare_with_truth(wild, truth)
    assert errors.epe_px == errors.blur_px == 0
    assert errors.details[1].kept == pytest.approx(1, abs=1e-6)


def test_edges_stand_where_known_motion_steps():
    flow, valid = step_truth(), np.ones((H, W), bool)
    edges = metrics.motion_edges(flow, valid)
    assert edges[:, W // 2 - 1].all() and edges.sum() == H
    near = metrics.dilate_edges(edges)
    assert np.flatnonzero(near[H // 2]).tolist() == list(
        range(W // 2 - 1 - metrics.NEAR_PX, W // 2 + metrics.NEAR_PX)
    )
    valid[:, W // 2 :] = False
    assert not metrics.motion_edges(flow, valid).any(), "what is not known is no edge"


def test_a_truth_without_edges_has_no_measures_near_them():
    still = metrics.Truth(np.zeros((2, H, W), np.float32), np.ones((H, W), bool))
    errors = run.compare_with_truth(np.ones((2, H, W), np.float32), still)
    assert errors.epe_near_px is None and errors.blur_px is None and errors.details == [None] * 5
    assert errors.epe_px == errors.epe_inside_px == pytest.approx(np.sqrt(2))
    constant = metrics.Truth(np.full((2, H, W), 1.3, np.float32), np.ones((H, W), bool))
    errors = run.compare_with_truth(np.zeros((2, H, W), np.float32), constant)
    assert errors.details == [None] * 5, "rounding errors are no details"


def test_a_sway_that_is_measured_too_small_is_told_by_its_band():
    """0.8 of a sway of 1.5 px in band 3, and a false one of 0.2 px in band 5."""
    frames, t = 60, np.arange(60)[:, None, None, None]
    shape = np.ones((1, 2, 8, 8)) * np.array([1.0, 0.0])[None, :, None, None]
    sway = (1.5 * np.cos(2 * np.pi * 3 * t / frames) * shape).astype(np.float32)
    estimate = (0.8 * sway + 0.2 * np.sin(2 * np.pi * 5 * t / frames) * shape).astype(np.float32)
    bands = metrics.band_errors(
        to_spectrum(estimate, 8), to_spectrum(sway, 8), np.ones((8, 8), bool), frames
    )
    assert (bands[3].truth_px, bands[3].error_px, bands[3].kept) == pytest.approx(
        (1.5, 0.3, 0.8), rel=1e-5
    )
    assert bands[5].error_px == pytest.approx(0.2, rel=1e-5)
    assert max(bands[k].error_px for k in (0, 1, 2, 4, 6, 7)) < 1e-5


def test_flow_that_returns_is_consistent_and_one_that_does_not_is_not():
    flow = np.full((2, H, W), 3.0, np.float32)
    inside = metrics.stays_inside(flow)
    assert metrics.consistency([(flow, -flow)], [inside]) == (0.0, 0.0)
    agreement = metrics.consistency([(flow, -flow), (flow, flow)], [inside] * 2)
    assert agreement.disagreement_px == pytest.approx(0.5 * 6 * np.sqrt(2), rel=1e-5)
    assert agreement.inconsistent_share == 0.5


def test_the_right_flow_makes_the_pictures_alike():
    source = make_texture(W, H)
    target = np.roll(source, (2, 5), (0, 1))
    flow = np.stack([np.full((H, W), 5), np.full((H, W), 2)]).astype(np.float32)
    inside = metrics.stays_inside(flow)
    assert metrics.photometric_error(source, target, flow, inside) == 0
    assert metrics.photometric_error(source, target, np.zeros_like(flow), inside) > 10
    outside = metrics.stays_inside(flow + 1000)
    assert metrics.photometric_error(source, target, flow, outside) is None


def compare(change) -> run.SmoothingComparison:
    """A comparison of a learned estimator, which returns `change` of the truth, with a classical
    one that returns the truth itself, slightly shifted.
    """
    truth = metrics.Truth(step_truth(), np.ones((H, W), bool))
    case = dict(
        raft_small=run.compare_with_truth(change(truth), truth),
        dis_medium=run.compare_with_truth(truth.flow + np.float32(0.01), truth),
    )
    (comparison,) = summary.compare_smoothing(dict(pair=case), {}, ["dis_medium", "raft_small"])
    return comparison


def test_the_claim_is_tested_and_not_repeated():
    smooth = compare(lambda truth: metrics.blur_masked(truth.flow, truth.valid, 6.0))
    assert "raft_small smooths more than dis_medium" in summary.smoothing_sentence(smooth)
    assert smooth.measures["blur_px"].learned == pytest.approx(6, rel=0.08)
    sharp = compare(lambda truth: truth.flow)
    assert "raft_small does not smooth more than dis_medium" in summary.smoothing_sentence(sharp)
    wrong = compare(lambda truth: -truth.flow * np.float32(1.5))
    sentence = summary.smoothing_sentence(wrong)
    assert "raft_small finds less detail but is not smoother than dis_medium" in sentence


class ConstantFlow:
    """An estimator that finds the same flow between all images."""

    device = None

    def __init__(self, flow: np.ndarray):
        self.flow = flow

    def prepare(self, images):
        return images

    def displace(self, pairs):
        return np.stack([self.flow] * len(pairs))

    def description(self):
        return {}


def test_flow_that_leads_out_of_the_picture_has_no_numbers_and_spoils_no_card():
    images = [np.zeros((H, W, 3), np.uint8)] * 3
    away = ConstantFlow(np.full((2, H, W), 1e4, np.float32))
    result = run.evaluate_clip("clip", images, {"away": away})[0]["away"]
    assert (result.disagreement_px, result.inconsistent_share, result.photometric) == (None,) * 3
    assert result.inside_share == result.common_share == 0
    json.dumps(asdict(result), allow_nan=False)


def test_an_estimator_does_not_choose_the_pixels_it_is_measured_by():
    """The images differ in the left half. One estimator says that nothing moves, the other that the
    left half has left the image.
    """
    still, leaving = np.zeros((2, H, W), np.float32), np.zeros((2, H, W), np.float32)
    leaving[0, :, : W // 2] = -W
    before, after = np.zeros((H, W, 3), np.uint8), np.zeros((H, W, 3), np.uint8)
    after[:, : W // 2] = 100
    images, honest = [before, after, after], ConstantFlow(still)
    alone = run.evaluate_clip("clip", images, {"honest": honest})[0]["honest"]
    assert alone.photometric == alone.photometric_still == 50 and alone.common_share == 1
    both, _ = run.evaluate_clip("clip", images, {"honest": honest, "sly": ConstantFlow(leaving)})
    honest, sly = both["honest"], both["sly"]
    assert honest.photometric == sly.photometric == sly.photometric_still == 0
    assert (honest.inside_share, sly.inside_share, sly.common_share) == (1, 0.5, 0.5)
    assert honest.disagreement_px == sly.disagreement_px == 0


# ---- files of flow


def test_a_file_of_flow_is_read_as_it_was_written():
    flow, valid = step_truth(), np.ones((H, W), bool)
    valid[3, 4] = False
    parsed, known = parse_flo(encode_flo(flow, valid))
    assert np.array_equal(known, valid) and np.array_equal(parsed[:, valid], flow[:, valid])
    assert not parsed[:, 3, 4].any()


def header(width: int, height: int, tag: float = FLO_TAG) -> bytes:
    return struct.pack("<fii", tag, width, height)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is no file of flow"),
        (b"PIEH", "is no file of flow"),
        (
            header(2, 1, 1.0) + bytes(16),
            "is no file of flow, expected one that begins with the number 202021.25",
        ),
        (header(-1, 1), "says that it is -1x1, expected 1 to 8192 pixels a side"),
        (header(2**31 - 1, 2**31 - 1), "says that it is 2147483647x2147483647"),
        (header(2, 1) + bytes(15), "has 27 bytes, expected 28 for 2x1"),
        (header(2, 1) + bytes(17), "has 29 bytes, expected 28 for 2x1"),
        (header(1, 1) + np.float32([np.nan, 0]).tobytes(), "knows the flow of no pixel"),
        (header(1, 1) + np.float32([2e9, 0]).tobytes(), "knows the flow of no pixel"),
    ],
)
def test_a_damaged_file_of_flow_is_refused(data, sentence):
    with pytest.raises(ValueError, match=sentence):
        parse_flo(data)


@pytest.mark.parametrize(("pair", "dis", "raft"), [("RubberWhale", 0.226, 0.320)])
def test_known_estimators_err_on_middlebury_as_was_measured_elsewhere(material, pair, dis, raft):
    from pipeline.flow.config import FlowConfig
    from pipeline.flow.estimator import make_estimator

    known = read_known_pair(pair, dict(find_known_pairs(material / "flow" / "middlebury"))[pair])
    configs = dict(
        dis_medium=FlowConfig(),
        raft_small=FlowConfig(
            flow="raft_small",
            weights=str(material / "weights/raft-small.pth"),
            updates=20,
            device="cpu",
        ),
    )
    estimators = {name: make_estimator(config) for name, config in configs.items()}
    results, _ = run.evaluate_known_pair(known, estimators)
    assert results["dis_medium"].epe_px == pytest.approx(dis, rel=0.02)
    assert results["raft_small"].epe_px == pytest.approx(raft, rel=0.02)
