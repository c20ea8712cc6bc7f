"""Augmentation of a picture and its spectral volume together.

The augmented picture is J(p) = I(A p), with one affine map A from a pixel of the result to where it
looks in the picture: a mirror, a turn, a zoom and a crop. What moved by F at A p moves by L^-1 F(A
p) at p, where L is the linear part of A: a mirror negates x, a turn turns, a zoom multiplies. S is
linear in F, so its coefficients are transformed in the same way. The zoom is at least what the turn
needs, so that no pixel from outside the picture is ever looked at.

The picture alone also gets a colour jitter: one affine map of its colours.
"""

from dataclasses import dataclass, fields
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8

_LUMA_WEIGHTS = np.array([[0.299, 0.587, 0.114]])
"""Weights of R, G and B in what the eye sees as brightness."""
BYTE_TO_SIGNED_UNIT = (np.arange(256) / 127.5 - 1).astype(np.float32)
"""A byte's value as a network sees it, -1 to 1."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How far each is varied; where no least is named, by as much in both directions."""

    flip: float = 0.5
    """Share of the samples that are mirrored, left to right."""
    scale: float = 1.25
    """Greatest zoom; the least is 1, or what the rotation needs."""
    rotation_deg: float = 5.0
    """Greatest turn, degrees."""
    brightness: float = 0.1
    """Share by which the light varies."""
    contrast: float = 0.1
    """Share by which differences from the picture's mean grey vary."""
    saturation: float = 0.1
    """Share by which differences from a pixel's own grey vary."""
    hue: float = 0.02
    """Greatest turn of the colours about grey, 1 a full circle."""

    def __post_init__(self):
        limits = dict(flip=(0, 1), scale=(1, 4), rotation_deg=(0, 45), hue=(0, 0.5))
        for field in fields(self):
            value, (least, most) = getattr(self, field.name), limits.get(field.name, (0, 1))
            if not least <= value <= most:
                raise ValueError(f"{field.name} is {value:g}, expected {least} to {most}")


NO_AUGMENT = AugmentConfig(
    flip=0.0, scale=1.0, rotation_deg=0.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0
)
"""Every sample as it is, to the last bit."""


class Augmentation(NamedTuple):
    """One draw of what is done to a sample."""

    affine: Float64[np.ndarray, "2 3"]
    """A: (column, row) of a pixel of the result, and 1, to where it looks in the picture."""
    light: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    """Full circles."""

    @property
    def is_affine_identity(self) -> bool:
        """Whether every pixel stays where it is."""
        return np.array_equal(self.affine, np.eye(2, 3))

    @property
    def is_color_identity(self) -> bool:
        return (self.light, self.contrast, self.saturation, self.hue) == (1, 1, 1, 0)


def draw_augmentation(
    config: AugmentConfig, size: tuple[int, int], rng: np.random.Generator
) -> Augmentation:
    """What is done to one sample of `size` (width, height)."""
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
    colours = rng.uniform(-1, 1, 4) * (
        config.brightness,
        config.contrast,
        config.saturation,
        config.hue,
    )
    return Augmentation(affine, *map(float, 1 + colours[:3]), hue=float(colours[3]))


def crop_affine(
    size: tuple[int, int],
    mirrored: bool,
    angle: float,
    zoom: float,
    place: Float64[np.ndarray, "2"],
) -> Float64[np.ndarray, "2 3"]:
    """A for a mirror or none, a turn (radians) and a zoom, or the least one that keeps the whole
    result inside the picture.

    `place` (-1 to 1 in x and y) is where the cut-out lies in the room that is left.
    """
    half = (np.array(size) - 1) / 2
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    reach = np.abs(turn) @ half
    zoom = max(zoom, *(reach / half))
    linear = turn * (-1.0 if mirrored else 1.0, 1.0) / zoom
    centre = half + place * np.maximum(half - reach / zoom, 0)
    return np.column_stack([linear, centre - linear @ half])


def augment_image(
    picture: UInt8[np.ndarray, "height width 3"], augmentation: Augmentation
) -> Float32[np.ndarray, "height width 3"]:
    """J: the picture moved and recoloured, RGB, -1 to 1. Cubic; at its very edge the last pixel
    stands for the next.
    """
    moved = cv2.LUT(picture, BYTE_TO_SIGNED_UNIT)
    if augmentation.is_affine_identity and augmentation.is_color_identity:
        return moved
    if not augmentation.is_affine_identity:
        moved = _warp(moved, augmentation.affine, cv2.INTER_CUBIC)
    if not augmentation.is_color_identity:
        moved = cv2.transform(
            moved, color_transform(np.array(cv2.mean(picture)[:3]) / 255, augmentation)
        )
    return np.clip(moved, -1, 1, out=moved)


def vector_map(affine: Float64[np.ndarray, "2 3"]) -> Float64[np.ndarray, "4 4"]:
    """L^-1 on the channels re x, im x, re y, im y: real, so re goes to re and im to im."""
    mixing = np.zeros((4, 4))
    mixing[::2, ::2] = mixing[1::2, 1::2] = np.linalg.inv(affine[:, :2])
    return mixing


def augment_spectrum(
    channels: Float32[np.ndarray, "4 height width"],
    affine: Float64[np.ndarray, "2 3"],
    vectors: Float64[np.ndarray, "4 4"],
    out: Float32[np.ndarray, "4 height width"],
) -> None:
    """Writes the raw coefficients of the augmented motion at one frequency, pixels, to `out`: L^-1
    S(A p), bilinear.

    `vectors` is `vector_map(affine)`.
    """
    cv2.split(
        cv2.transform(_warp(cv2.merge(list(channels)), affine, cv2.INTER_LINEAR), vectors),
        list(out),
    )


def color_transform(
    mean: Float64[np.ndarray, "3"], augmentation: Augmentation
) -> Float64[np.ndarray, "3 4"]:
    """(M, v) of RGB' = M RGB + v in the range -1 to 1: light, then contrast, saturation and hue.

    `mean` is the picture's mean colour, 0 to 1. Each step keeps grey what is grey; the last two
    keep its brightness.
    """
    one, grey = np.eye(3), np.ones((3, 1)) @ _LUMA_WEIGHTS
    contrast = augmentation.light * augmentation.contrast * one
    level = augmentation.light * (1 - augmentation.contrast) * (_LUMA_WEIGHTS @ mean)
    saturation = grey + augmentation.saturation * (one - grey)
    hue = grey + (one - grey) @ _rotate_about_gray(2 * np.pi * augmentation.hue)
    colours = hue @ saturation @ contrast
    return np.column_stack([colours, colours.sum(axis=1) + 2 * level - 1])


def _rotate_about_gray(angle: float) -> Float64[np.ndarray, "3 3"]:
    """Rotation about (1, 1, 1)."""
    return cv2.Rodrigues(np.full(3, angle / np.sqrt(3)))[0]


def _warp(picture: np.ndarray, affine: np.ndarray, interpolation: int) -> np.ndarray:
    size = picture.shape[1], picture.shape[0]
    return cv2.warpAffine(
        picture,
        affine,
        size,
        flags=interpolation | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
