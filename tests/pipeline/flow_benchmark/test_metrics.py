"""Measures of flow on flow whose faults are known: made from a truth by doing one thing to it."""

import json
import struct

import numpy as np
import pytest

from pipeline.flow_benchmark import metrics, run
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
    """Two halves that move apart by 4 px, with a fine ripple of 0.05 px so that neither is
    constant.
    """
    x, y = np.meshgrid(np.arange(W), np.arange(H))
    ripple = 0.05 * np.sin(2 * np.pi * x / 40) * np.cos(2 * np.pi * y / 40)
    return np.stack([np.where(x < W // 2, 2.0, -2.0) + ripple, ripple]).astype(np.float32)


@pytest.fixture(scope="module")
def truth() -> metrics.Truth:
    return metrics.Truth(step_truth(), np.ones((H, W), bool))


def test_a_perfect_estimate_has_no_error(truth):
    found = run.compare_with_truth(truth.flow.copy(), truth)
    assert (
        found["epe_px"] == found["epe_near_px"] == found["epe_inside_px"] == found["blur_px"] == 0
    )
    assert found["angle_deg"] == pytest.approx(0, abs=1e-4)
    for one in found["details"]:
        assert (one["kept"], one["error"], one["amount"]) == pytest.approx((1, 0, 1), abs=1e-6)


def test_a_shift_raises_the_end_point_error_by_its_length_and_blurs_nothing(truth):
    found = run.compare_with_truth(truth.flow + np.float32([[[0.3]], [[-0.4]]]), truth)
    assert found["epe_px"] == pytest.approx(0.5, abs=1e-5) and found[
        "epe_inside_px"
    ] == pytest.approx(0.5, abs=1e-5)
    assert found["details"][0]["kept"] == pytest.approx(1, abs=1e-3)


def test_the_angle_is_that_of_both_displacements_with_one_frame():
    rest, moved = np.zeros((2, 4, 5), np.float32), np.zeros((2, 4, 5), np.float32)
    moved[0] = 1
    assert metrics.angular_error(moved, rest) == pytest.approx(np.full((4, 5), 45.0))
    moved[0] = np.sqrt(3)
    assert metrics.angular_error(rest, moved) == pytest.approx(np.full((4, 5), 60.0), abs=1e-4)


@pytest.mark.parametrize("sigma", [0.7, 1.5, 3.0, 6.0])
def test_a_blurred_truth_is_found_to_be_blurred_by_as_much(truth, sigma):
    found = run.compare_with_truth(metrics.blur_masked(truth.flow, truth.valid, sigma), truth)
    assert found["blur_px"] == pytest.approx(sigma, rel=0.08)
    assert found["epe_near_px"] > 5 * found["epe_inside_px"]
    amounts = [one["amount"] for one in found["details"]]
    assert found["details"][0]["kept"] < 0.95 and amounts[0] < min(0.95, amounts[-1])


def test_more_blur_is_more_error_at_edges_and_less_detail(truth):
    found = [
        run.compare_with_truth(metrics.blur_masked(truth.flow, truth.valid, sigma), truth)
        for sigma in (1.0, 2.0, 4.0)
    ]
    assert sorted(one["epe_near_px"] for one in found) == [one["epe_near_px"] for one in found]
    for size in range(3):
        kept = [one["details"][size]["kept"] for one in found]
        assert kept == sorted(kept, reverse=True)


def test_noise_is_an_error_but_no_blur(truth):
    noisy = truth.flow + np.random.default_rng(0).normal(0, 0.3, truth.flow.shape).astype(
        np.float32
    )
    found = run.compare_with_truth(noisy, truth)
    assert found["blur_px"] < 0.2
    assert (
        found["details"][0]["kept"] == pytest.approx(1, abs=0.1)
        and found["details"][0]["amount"] > 1.05
    )
    assert found["epe_near_px"] == pytest.approx(found["epe_inside_px"], rel=0.1)


def test_what_is_not_known_does_not_count():
    flow, valid = step_truth(), np.ones((H, W), bool)
    valid[:, :20] = False
    truth = metrics.Truth(np.where(valid, flow, 0).astype(np.float32), valid)
    wild = flow.copy()
    wild[:, :, :20] = 1e6
    found = run.compare_with_truth(wild, truth)
    assert found["epe_px"] == found["blur_px"] == 0
    assert found["details"][1]["kept"] == pytest.approx(1, abs=1e-6)


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
    found = run.compare_with_truth(np.ones((2, H, W), np.float32), still)
    assert (
        found["epe_near_px"] is None and found["blur_px"] is None and found["details"] == [None] * 5
    )
    assert found["epe_px"] == found["epe_inside_px"] == pytest.approx(np.sqrt(2))
    constant = metrics.Truth(np.full((2, H, W), 1.3, np.float32), np.ones((H, W), bool))
    assert (
        run.compare_with_truth(np.zeros((2, H, W), np.float32), constant)["details"] == [None] * 5
    ), "what rounding leaves is no detail"


def test_a_sway_that_is_measured_too_small_is_told_by_its_band():
    """0.8 of a sway of 1.5 px in band 3, and a false one of 0.2 px in band 5."""
    frames, t = 60, np.arange(60)[:, None, None, None]
    shape = np.ones((1, 2, 8, 8)) * np.array([1.0, 0.0])[None, :, None, None]
    sway = (1.5 * np.cos(2 * np.pi * 3 * t / frames) * shape).astype(np.float32)
    found = (0.8 * sway + 0.2 * np.sin(2 * np.pi * 5 * t / frames) * shape).astype(np.float32)
    bands = metrics.band_errors(
        to_spectrum(found, 8), to_spectrum(sway, 8), np.ones((8, 8), bool), frames
    )
    assert (bands[3]["truth_px"], bands[3]["error_px"], bands[3]["kept"]) == pytest.approx(
        (1.5, 0.3, 0.8), rel=1e-5
    )
    assert bands[5]["error_px"] == pytest.approx(0.2, rel=1e-5)
    assert max(bands[k]["error_px"] for k in (0, 1, 2, 4, 6, 7)) < 1e-5


def test_flow_that_returns_is_consistent_and_one_that_does_not_is_not():
    there = np.full((2, H, W), 3.0, np.float32)
    assert metrics.consistency([(there, -there)], [metrics.stays_inside(there)]) == dict(
        disagreement_px=0.0, inconsistent_share=0.0
    )
    found = metrics.consistency(
        [(there, -there), (there, there)], [metrics.stays_inside(there)] * 2
    )
    assert (
        found["disagreement_px"] == pytest.approx(0.5 * 6 * np.sqrt(2), rel=1e-5)
        and found["inconsistent_share"] == 0.5
    )


def test_the_right_flow_makes_the_pictures_alike():
    picture = make_texture(W, H)
    moved = np.roll(picture, (2, 5), (0, 1))
    flow = np.stack([np.full((H, W), 5), np.full((H, W), 2)]).astype(np.float32)
    right, still = (
        metrics.photometric_error(picture, moved, one, metrics.stays_inside(flow))
        for one in (flow, np.zeros_like(flow))
    )
    assert right == 0 and still > 10
    assert (
        metrics.photometric_error(picture, moved, flow, metrics.stays_inside(flow + 1000)) is None
    )


def told(change) -> dict:
    """A card in which a learned estimator is `change` of the truth and a classical one the truth
    itself, slightly shifted.
    """
    truth = metrics.Truth(step_truth(), np.ones((H, W), bool))
    case = dict(
        raft_small=run.compare_with_truth(change(truth), truth),
        dis_medium=run.compare_with_truth(truth.flow + np.float32(0.01), truth),
    )
    (entry,) = run.compare_smoothing(dict(pair=case), {}, ["dis_medium", "raft_small"])
    return entry


def test_the_claim_is_tested_and_not_repeated():
    smooth = told(lambda truth: metrics.blur_masked(truth.flow, truth.valid, 6.0))
    assert "raft_small smooths more than dis_medium" in run.smoothing_sentence(smooth)
    assert smooth["measures"]["blur_px"]["learned"] == pytest.approx(6, rel=0.08)
    sharp = told(lambda truth: truth.flow)
    assert "raft_small does not smooth more than dis_medium" in run.smoothing_sentence(sharp)
    wrong = told(lambda truth: -truth.flow * np.float32(1.5))
    assert (
        "raft_small finds less detail but is not smoother than dis_medium"
        in run.smoothing_sentence(wrong)
    )


class Says:
    """An estimator that finds the same flow between all pictures."""

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
    pictures = [np.zeros((H, W, 3), np.uint8)] * 3
    found, _ = run.evaluate_clip(
        "clip", pictures, {"away": Says(np.full((2, H, W), 1e4, np.float32))}
    )
    assert [
        found["away"][key] for key in ("disagreement_px", "inconsistent_share", "photometric")
    ] == [None] * 3
    assert found["away"]["inside_share"] == found["away"]["common_share"] == 0
    json.dumps(found, allow_nan=False)


def test_an_estimator_does_not_choose_the_pixels_it_is_measured_by():
    """In the left half the pictures differ; one estimator says nothing moves, the other the same
    but that the left half has gone.
    """
    still, gone = np.zeros((2, H, W), np.float32), np.zeros((2, H, W), np.float32)
    gone[0, :, : W // 2] = -W
    before, after = np.zeros((H, W, 3), np.uint8), np.zeros((H, W, 3), np.uint8)
    after[:, : W // 2] = 100
    alone, _ = run.evaluate_clip("clip", [before, after, after], {"honest": Says(still)})
    found, _ = run.evaluate_clip(
        "clip", [before, after, after], {"honest": Says(still), "sly": Says(gone)}
    )
    assert (
        alone["honest"]["photometric"] == alone["honest"]["photometric_still"] == 50
        and alone["honest"]["common_share"] == 1
    )
    assert (
        found["honest"]["photometric"]
        == found["sly"]["photometric"]
        == found["sly"]["photometric_still"]
        == 0
    )
    assert (
        found["honest"]["inside_share"],
        found["sly"]["inside_share"],
        found["sly"]["common_share"],
    ) == (1, 0.5, 0.5)
    assert found["honest"]["disagreement_px"] == found["sly"]["disagreement_px"] == 0


# ---- files of flow


def test_a_file_of_flow_is_read_as_it_was_written():
    flow, valid = step_truth(), np.ones((H, W), bool)
    valid[3, 4] = False
    found, known = parse_flo(encode_flo(flow, valid))
    assert np.array_equal(known, valid) and np.array_equal(found[:, valid], flow[:, valid])
    assert not found[:, 3, 4].any()


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

    ((name, path),) = [
        found for found in find_known_pairs(material / "flow" / "middlebury") if found[0] == pair
    ]
    known = read_known_pair(name, path)
    configs = dict(
        dis_medium=FlowConfig(),
        raft_small=FlowConfig(
            flow="raft_small",
            weights=str(material / "weights/raft-small.pth"),
            updates=20,
            device="cpu",
        ),
    )
    found, _ = run.evaluate_known_pair(
        known, {key: make_estimator(config) for key, config in configs.items()}
    )
    assert found["dis_medium"]["epe_px"] == pytest.approx(dis, rel=0.02)
    assert found["raft_small"]["epe_px"] == pytest.approx(raft, rel=0.02)
