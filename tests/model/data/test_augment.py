"""Augmentation against what it means: the motion of the augmented video."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from model.data.augment import (
    BYTE_TO_SIGNED_UNIT,
    NO_AUGMENT,
    Augmentation,
    AugmentConfig,
    augment_image,
    augment_spectrum,
    color_transform,
    crop_affine,
    draw_augmentation,
    vector_map,
)
from pipeline.flow.dis import DenseInverseSearch
from pipeline.motion.spectrum import to_spectrum
from pipeline.synthetic.render import WORKING_SIZE, render_frame
from pipeline.synthetic.scenes import SCENES
from schemas.sample import complex_to_channels

SIZE, TIME, FREQUENCIES = (64, 40), 16, 5
MAPS = [(True, 5, 1.2), (False, -5, 1.2), (False, 30, 2.0), (False, 0, 1.5), (True, 0, 1.0)]
"""Mirrored, degrees, zoom."""


def affine_of(mirrored, degrees, zoom, size=SIZE):
    return crop_affine(size, mirrored, np.radians(degrees), zoom, np.array([0.4, -0.3]))


def augmented(channels, affine, vectors):
    out = np.empty_like(channels)
    for one, into in zip(channels, out, strict=True):
        augment_spectrum(one, affine, vectors, into)
    return out


def relative(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def motion(x, y):
    """A smooth motion texture [T, 2, ...] at any positions, pixels."""
    t = np.arange(TIME).reshape(-1, *[1] * x.ndim) / TIME * 2 * np.pi
    sway = 3 * np.sin(t + x / 20) * (1 + y / 60) + 0.7 * np.cos(3 * t - y / 15)
    lift = 1.5 * np.cos(2 * t + y / 25) + 0.4 * np.sin(t - x / 30)
    return np.stack([sway, lift], axis=1)


def spectrum_of(texture):
    return complex_to_channels(
        to_spectrum(texture.astype(np.float32), FREQUENCIES).astype(np.complex64)
    )


@pytest.mark.parametrize("how", MAPS)
def test_a_known_motion_becomes_that_of_the_augmented_video(how):
    affine = affine_of(*how)
    columns, rows = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    looks = np.tensordot(affine[:, :2], np.stack([columns, rows]), 1) + affine[:, 2, None, None]
    seen = np.einsum("ij,tjhw->tihw", np.linalg.inv(affine[:, :2]), motion(*looks))
    channels = spectrum_of(motion(columns.astype(float), rows.astype(float)))
    assert relative(augmented(channels, affine, vector_map(affine)), spectrum_of(seen)) < 2e-3
    assert relative(augmented(channels, affine, np.eye(4)), spectrum_of(seen)) > 0.1


@pytest.fixture(scope="module")
def frames():
    scene = SCENES["cloth"](np.random.default_rng(0))
    return [render_frame(scene, i / 15, WORKING_SIZE) for i in range(TIME)]


def measured(frames):
    """The spectrum of the flow from the first frame on."""
    estimator = DenseInverseSearch("medium")
    first, *rest = estimator.prepare(frames)
    return spectrum_of(estimator.displace([(first, one) for one in (first, *rest)]))


@pytest.mark.slow
@pytest.mark.parametrize("how", MAPS[:3])
def test_flow_of_a_warped_video_is_the_augmented_flow(frames, how):
    affine = affine_of(*how, WORKING_SIZE)
    warped = [
        cv2.warpAffine(
            f,
            affine,
            WORKING_SIZE,
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        for f in frames
    ]
    inner = (..., slice(12, -12), slice(12, -12))
    plain, wanted = measured(frames), measured(warped)[inner]
    found, without, backwards = (
        augmented(plain, affine, v)[inner]
        for v in (vector_map(affine), np.eye(4), np.linalg.inv(vector_map(affine)))
    )
    assert relative(found, wanted) < 0.08
    assert relative(without, wanted) > 0.15 and relative(backwards, wanted) > 0.25
    picture = augment_image(frames[0], Augmentation(affine))
    assert np.abs(picture - BYTE_TO_SIGNED_UNIT[warped[0]])[12:-12, 12:-12].max() < 0.02


def test_nothing_from_outside_the_picture_is_looked_at():
    rng, config = np.random.default_rng(0), AugmentConfig(rotation_deg=20.0)
    corners = np.array([[x, y, 1] for x in (0, SIZE[0] - 1) for y in (0, SIZE[1] - 1)])
    least, turned, mirrored = np.inf, 0, 0
    for _ in range(500):
        affine = draw_augmentation(config, SIZE, rng).affine
        looks = corners @ affine.T
        assert (looks > -1e-9).all() and (looks < np.array(SIZE) - 1 + 1e-9).all()
        least = min(least, looks.min(), (np.array(SIZE) - 1 - looks).min())
        zoom = 1 / np.sqrt(abs(np.linalg.det(affine[:, :2])))
        assert 1 <= zoom < 1.6
        mirrored += np.linalg.det(affine[:, :2]) < 0
        turned += abs(np.degrees(np.arcsin(affine[1, 0] * zoom))) > 10
    assert least < 1e-9 and 200 < mirrored < 300 and turned > 100


def test_a_mirror_alone_is_exact():
    rng = np.random.default_rng(1)
    picture, channels = (
        rng.integers(0, 256, (40, 64, 3), np.uint8),
        rng.normal(size=(2, 4, 40, 64)).astype(np.float32),
    )
    affine = crop_affine(SIZE, True, 0.0, 1.0, np.zeros(2))
    np.testing.assert_array_equal(
        augment_image(picture, Augmentation(affine)), BYTE_TO_SIGNED_UNIT[picture[:, ::-1]]
    )
    wanted = channels[..., ::-1] * np.array([-1, -1, 1, 1], np.float32).reshape(4, 1, 1)
    np.testing.assert_array_equal(augmented(channels, affine, vector_map(affine)), wanted)


def test_off_changes_no_bit():
    picture = np.random.default_rng(2).integers(0, 256, (40, 64, 3), np.uint8)
    almost = replace(NO_AUGMENT, flip=1e-300)  # drawn, and of no effect
    for seed in range(20):
        still = draw_augmentation(almost if seed else NO_AUGMENT, SIZE, np.random.default_rng(seed))
        assert still.is_affine_identity and still.is_color_identity
        np.testing.assert_array_equal(augment_image(picture, still), BYTE_TO_SIGNED_UNIT[picture])


def test_colours_are_varied_as_they_are_said_to_be():
    rng = np.random.default_rng(3)
    picture = rng.integers(90, 160, (40, 64, 3), np.uint8)
    y, still = picture / 255, np.eye(2, 3)
    grey = y @ [0.299, 0.587, 0.114]
    for name, value, wanted in (
        ("light", 1.2, 1.2 * y),
        ("contrast", 0.7, grey.mean() + 0.7 * (y - grey.mean())),
        ("saturation", 0.5, grey[..., None] + 0.5 * (y - grey[..., None])),
    ):
        np.testing.assert_allclose(
            (augment_image(picture, Augmentation(still, **{name: value})) + 1) / 2,
            wanted,
            atol=1e-6,
        )
    turned = (augment_image(picture, Augmentation(still, hue=1 / 3)) + 1) / 2
    np.testing.assert_allclose(turned @ [0.299, 0.587, 0.114], grey, atol=1e-6)
    assert np.abs(turned - y).max() > 0.1
    red = color_transform(np.zeros(3), Augmentation(still, hue=1 / 3))[:, :3] @ [1, 0, 0]
    assert red.argmax() == 1
    plain = np.repeat(rng.integers(0, 256, (40, 64, 1), np.uint8), 3, axis=2)
    np.testing.assert_allclose(
        augment_image(plain, Augmentation(still, hue=0.2, saturation=1.4)),
        BYTE_TO_SIGNED_UNIT[plain],
        atol=1e-6,
    )


def test_pictures_stay_in_range():
    rng = np.random.default_rng(4)
    picture = rng.integers(0, 2, (40, 64, 3), np.uint8) * 255
    strong = AugmentConfig(brightness=1.0, contrast=1.0, saturation=1.0, hue=0.5)
    found = np.stack(
        [augment_image(picture, draw_augmentation(strong, SIZE, rng)) for _ in range(20)]
    )
    assert found.min() == -1 and found.max() == 1 and found.dtype == np.float32


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("flip", 1.5, "flip is 1.5, expected 0 to 1"),
        ("scale", 0.9, "scale is 0.9, expected 1 to 4"),
        ("rotation_deg", -1.0, "rotation_deg is -1"),
        ("hue", 0.6, "hue is 0.6, expected 0 to 0.5"),
        ("contrast", float("nan"), "contrast is nan"),
    ],
)
def test_what_cannot_be_is_refused(name, value, words):
    with pytest.raises(ValueError, match=words):
        AugmentConfig(**{name: value})
