"""Scenes whose motion is known, rendered again from their first frame and that motion. `pytest -s`
prints each one's mean and worst frame.
"""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from model.evaluate.image_quality import psnr
from model.render.warp import warp_frame
from pipeline.synthetic.paint import CANVAS_COLUMNS, CANVAS_ROWS
from pipeline.synthetic.render import (
    TEXELS_PER_WIDTH,
    WORKING_SIZE,
    Layer,
    Mode,
    Scene,
    render_frame,
    traveling_wave,
    true_motion,
    wave,
)
from pipeline.synthetic.scenes import SCENES

TIMES = np.arange(1, 21) / 4.1
MOST_PX = 3.0


def pink(rng: np.random.Generator, power: float = 1.0) -> np.ndarray:
    """A texture whose amplitude falls as 1 / f ** power, of a quarter of its mean, as in
    photographs; alpha 1.
    """
    f = (
        np.hypot(
            np.fft.fftfreq(CANVAS_ROWS, 1 / CANVAS_ROWS)[:, None],
            np.fft.fftfreq(CANVAS_COLUMNS, 1 / CANVAS_COLUMNS),
        )
        ** power
    )
    f[0, 0] = np.inf
    x = np.fft.ifft2(np.fft.fft2(rng.standard_normal((3, CANVAS_ROWS, CANVAS_COLUMNS))) / f).real
    colours = np.clip(x / x.std((1, 2), keepdims=True) * 32 + 128, 0, 255).transpose(1, 2, 0)
    return np.concatenate([colours, np.full((CANVAS_ROWS, CANVAS_COLUMNS, 1), 255)], axis=2).astype(
        np.float32
    )


def swaying(seed: int, power: float) -> Scene:
    """Cloth-like waves of three directions over the whole picture, at frequencies that do not bring
    it back to where it began.
    """
    rng = np.random.default_rng(seed)
    modes: list[Mode] = []
    for hz in (0.37, 0.83, 1.31):
        angle, phase = rng.uniform(0, 2 * np.pi, 2)
        direction, cycles = (np.cos(angle), np.sin(angle)), tuple(rng.uniform(0.5, 2, 2))
        modes.extend(
            traveling_wave(
                wave,
                direction=direction,
                cycles=cycles,
                amplitude_px=1 / hz,
                frequency_hz=hz,
                phase=phase,
            )
        )
    return Scene(layers=(Layer(texture=pink(rng, power), modes=tuple(modes)),))


def gentle(scene: Scene) -> Scene:
    """The same, its largest displacement MOST_PX."""
    factor = MOST_PX / float(np.linalg.norm(true_motion(scene, 0.0, TIMES), axis=1).max())
    layers = [
        replace(
            layer,
            modes=tuple(
                replace(mode, amplitude_px=mode.amplitude_px * factor) for mode in layer.modes
            ),
        )
        for layer in scene.layers
    ]
    return replace(scene, layers=tuple(layers))


def seen(scene: Scene, t: float) -> np.ndarray:
    """At the working size as a camera sees it: each pixel the mean over its area."""
    return cv2.resize(
        render_frame(scene, t, (TEXELS_PER_WIDTH, TEXELS_PER_WIDTH * 5 // 8)),
        WORKING_SIZE,
        interpolation=cv2.INTER_AREA,
    )


def fidelity(name: str, scene: Scene) -> tuple[float, float]:
    """Mean and worst PSNR over the frames, dB."""
    scene = gentle(scene)
    first, motion = seen(scene, 0.0), true_motion(scene, 0.0, TIMES)
    weight = np.linalg.norm(motion, axis=1).mean(0)
    pictures = np.stack(
        [
            np.stack([warp_frame(first, flow, weight), seen(scene, t)])
            for flow, t in zip(motion, TIMES, strict=True)
        ]
    )
    made, true = torch.from_numpy(pictures.transpose(1, 0, 4, 2, 3).astype(np.float32) / 255)
    found = psnr(made, true)
    print(f"{name}: {found.mean():.2f} dB, worst frame {found.min():.2f}")
    return float(found.mean()), float(found.min())


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "power"), [(0, 1.0), (1, 1.0), (2, 1.0), (0, 1.5)])
def test_true_motion_gives_the_true_frames(seed, power):
    assert fidelity(f"1/f^{power:g} texture, seed {seed}", swaying(seed, power))[0] >= 32


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["lantern", "plant", "ripples"])
def test_layers_that_cover_each_other_come_out_as_well(name):
    assert fidelity(name, SCENES[name](np.random.default_rng(1)))[0] >= 32
