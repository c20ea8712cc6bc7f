"""Augmentation of an image together with its motion.

The augmented image is J(p) = I(A p), where the affine map A takes a pixel of the result to where it
is sampled in the image: a mirror, a rotation, a zoom and a crop. A displacement F at A p becomes
L^-1 F(A p) at p, where L is the linear part of A: a mirror negates x, a rotation rotates, a zoom
scales. S is linear in F, so its coefficients are transformed in the same way. The zoom is at least
what the rotation needs, so that no pixel outside the image is ever sampled.

The image alone also gets a color jitter, which is one affine map of its colors.
"""

from dataclasses import dataclass, fields
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8

_LUMA_WEIGHTS = np.array([[0.299, 0.587, 0.114]])
"""Weights of R, G and B in perceived brightness (Rec. 601)."""
BYTE_TO_SIGNED_UNIT = (np.arange(256) / 127.5 - 1).astype(np.float32)
"""Lookup table from a byte, 0 to 255, to the -1 to 1 that networks take."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How far samples are varied; each amount is drawn uniformly, in both directions unless a
    minimum is given. Raises ValueError if one is out of range.
    """

    flip: float = 0.5
    """Share of the samples that are mirrored, left to right."""
    scale: float = 1.25
    """Largest zoom; the smallest is 1, or what the rotation needs."""
    rotation_deg: float = 5.0
    """Largest rotation, degrees."""
    brightness: float = 0.1
    """Share by which the brightness varies."""
    contrast: float = 0.1
    """Share by which differences from the image's mean gray vary."""
    saturation: float = 0.1
    """Share by which differences from a pixel's own gray vary."""
    hue: float = 0.02
    """Largest rotation of the colors about gray, 1 being a full circle."""

    def __post_init__(self):
        limits = dict(flip=(0, 1), scale=(1, 4), rotation_deg=(0, 45), hue=(0, 0.5))
        for field in fields(self):
            value, (least, most) = getattr(self, field.name), limits.get(field.name, (0, 1))
            if not least <= value <= most:
                raise ValueError(f"{field.name} is {value:g}, expected {least} to {most}")


NO_AUGMENT = AugmentConfig(
    flip=0.0, scale=1.0, rotation_deg=0.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0
)
"""Leaves every sample as it is, to the last bit."""


class Augmentation(NamedTuple):
    """What is done to one sample."""

    affine: Float64[np.ndarray, "2 3"]
    """A: takes (column, row, 1) of a pixel of the result to (column, row) in the image."""
    light: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    """Rotation of the colors about gray, in full circles."""

    @property
    def is_affine_identity(self) -> bool:
        """Whether every pixel stays in place."""
        return np.array_equal(self.affine, np.eye(2, 3))

    @property
    def is_color_identity(self) -> bool:
        """Whether every pixel keeps its color."""
        return (self.light, self.contrast, self.saturation, self.hue) == (1, 1, 1, 0)


def draw_augmentation(
    config: AugmentConfig, size: tuple[int, int], rng: np.random.Generator
) -> Augmentation:
    """Draws what is done to one sample of `size` (width, height)."""
    if config == NO_AUGMENT:
        return Augmentation(np.eye(2, 3))
    mirrored = bool(rng.random() < config.flip)
    affine = crop_affine(
        size,
        mirrored,
        np.radians(config.rotation_deg) * rng.uniform(-1, 1),
        rng.uniform(1, config.scale),
        rng.uniform(-1, 1, 2),
    )
    ranges = config.brightness, config.contrast, config.saturation, config.hue
    jitter = rng.uniform(-1, 1, 4) * ranges
    return Augmentation(affine, *map(float, 1 + jitter[:3]), hue=float(jitter[3]))


def crop_affine(
    size: tuple[int, int],
    mirrored: bool,
    angle: float,
    zoom: float,
    place: Float64[np.ndarray, "2"],
) -> Float64[np.ndarray, "2 3"]:
    """A for an optional mirror, a rotation (radians) and a zoom, which is raised to the least that
    keeps the result inside an image of `size` (width, height).

    `place` (-1 to 1 in x and y) positions the crop in the room that is left.
    """
    half = (np.array(size) - 1) / 2
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    reach = np.abs(rotation) @ half
    zoom = max(zoom, *(reach / half))
    linear = rotation * (-1.0 if mirrored else 1.0, 1.0) / zoom
    center = half + place * np.maximum(half - reach / zoom, 0)
    return np.column_stack([linear, center - linear @ half])


def augment_image(
    image: UInt8[np.ndarray, "height width 3"], augmentation: Augmentation
) -> Float32[np.ndarray, "height width 3"]:
    """J, RGB, -1 to 1: the image warped with cubic interpolation (edge pixels are repeated), then
    recolored.
    """
    result = cv2.LUT(image, BYTE_TO_SIGNED_UNIT)
    if augmentation.is_affine_identity and augmentation.is_color_identity:
        return result
    if not augmentation.is_affine_identity:
        result = warp_affine(result, augmentation.affine, cv2.INTER_CUBIC)
    if not augmentation.is_color_identity:
        mean = np.array(cv2.mean(image)[:3]) / 255
        result = cv2.transform(result, color_transform(mean, augmentation))
    return np.clip(result, -1, 1, out=result)


def vector_map(affine: Float64[np.ndarray, "2 3"]) -> Float64[np.ndarray, "4 4"]:
    """L^-1 as a matrix on the channels re x, im x, re y, im y; it is real, so it keeps real and
    imaginary parts apart.
    """
    matrix = np.zeros((4, 4))
    matrix[::2, ::2] = matrix[1::2, 1::2] = np.linalg.inv(affine[:, :2])
    return matrix


def augment_spectrum(
    channels: Float32[np.ndarray, "4 height width"],
    affine: Float64[np.ndarray, "2 3"],
    vectors: Float64[np.ndarray, "4 4"],
    out: Float32[np.ndarray, "4 height width"],
) -> None:
    """Writes the coefficients of the augmented motion at one frequency, L^-1 S(A p) in pixels, to
    `out`, with bilinear interpolation. `vectors` is `vector_map(affine)`.
    """
    warped = warp_affine(cv2.merge(list(channels)), affine, cv2.INTER_LINEAR)
    cv2.split(cv2.transform(warped, vectors), list(out))


def warp_mask(
    mask: Float32[np.ndarray, "height width"], affine: Float64[np.ndarray, "2 3"]
) -> Float32[np.ndarray, "height width"]:
    """The mask at the pixels that the augmented motion is taken from, bilinear."""
    if np.array_equal(affine, np.eye(2, 3)):
        return mask
    return warp_affine(mask, affine, cv2.INTER_LINEAR)


def color_transform(
    mean: Float64[np.ndarray, "3"], augmentation: Augmentation
) -> Float64[np.ndarray, "3 4"]:
    """(M, v) of RGB' = M RGB + v in -1 to 1: brightness, then contrast, saturation and hue.

    `mean` is the image's mean color, 0 to 1. Every step keeps grays gray; saturation and hue also
    keep their brightness.
    """
    identity, gray = np.eye(3), np.ones((3, 1)) @ _LUMA_WEIGHTS
    contrast = augmentation.light * augmentation.contrast * identity
    level = augmentation.light * (1 - augmentation.contrast) * (_LUMA_WEIGHTS @ mean)
    saturation = gray + augmentation.saturation * (identity - gray)
    angle = 2 * np.pi * augmentation.hue
    rotation = cv2.Rodrigues(np.full(3, angle / np.sqrt(3)))[0]  # about (1, 1, 1)
    hue = gray + (identity - gray) @ rotation
    matrix = hue @ saturation @ contrast
    return np.column_stack([matrix, matrix.sum(axis=1) + 2 * level - 1])


def warp_affine(
    image: np.ndarray, affine: Float64[np.ndarray, "2 3"], interpolation: int
) -> np.ndarray:
    """I(A p) at every pixel p of an image [height, width, ...]; edge pixels are repeated."""
    return cv2.warpAffine(
        image,
        affine,
        (image.shape[1], image.shape[0]),
        flags=interpolation | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
