"""Predictions of motion that need no diffusion model, which a prior has to beat."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex64, Float32, UInt8

from model.evaluate.prior.measures import amplitude_map
from model.evaluate.prior.windows import EvaluationWindow, read_spectrum
from model.prior.frequency_attention import CoordinatedDenoiser
from model.prior.inference import Prior

STILL, MEAN_MAP, RANDOM, NEAREST, OTHER_WINDOW = (
    "no motion",
    "mean of training",
    "random training window",
    "nearest training window",
    "same clip, another window",
)
"""The baselines' names; the last one, real motion of the same thing, is the ceiling."""
BASELINES = (STILL, MEAN_MAP, RANDOM, NEAREST, OTHER_WINDOW)

_Spectrum = Complex64[np.ndarray, "freq 2 height width"]


@dataclass(frozen=True, kw_only=True)
class TrainingMotions:
    """What the baselines know of the training windows."""

    windows: Sequence[EvaluationWindow]
    descriptions: Float32[np.ndarray, "windows dimensions"]
    """Of their photographs, by the prior's own encoder."""
    magnitude: Float32[np.ndarray, "freq 2 height width"]
    """The mean of |S_k|, brought to the mean of the amplitude at each pixel."""

    def mean_motion(self, phases: _Spectrum) -> _Spectrum:
        """The mean magnitude of each coefficient, with the phases of another motion."""
        return self.magnitude * np.exp(1j * np.angle(phases)).astype(np.complex64)

    def nearest(self, description: Float32[np.ndarray, " dimensions"]) -> EvaluationWindow:
        """The window whose photograph is most alike: by the distance of descriptions, each number
        divided by its deviation over the training windows.
        """
        deviation = self.descriptions.std(axis=0)
        differences = (self.descriptions - description) / np.where(deviation > 0, deviation, 1)
        return self.windows[int(np.square(differences).sum(axis=1).argmin())]

    def draw(self, count: int, rng: np.random.Generator) -> list[EvaluationWindow]:
        """`count` windows at random, different ones if there are as many; more begin with the same
        ones as fewer.
        """
        numbers = np.resize(rng.permutation(len(self.windows)), count)
        return [self.windows[i] for i in numbers.tolist()]


def read_training_motions(
    windows: Sequence[EvaluationWindow], prior: Prior, device: str
) -> TrainingMotions:
    """Reads every training window once. At least one is expected."""
    normalizer, descriptions = prior.normalizer, []
    width, height = normalizer.size
    magnitude = np.zeros((normalizer.frequencies, 2, height, width))
    amplitude = np.zeros((height, width))
    for window in windows:
        sample = window.load()
        spectrum = read_spectrum(sample, normalizer.frequencies)
        magnitude += np.abs(spectrum) / len(windows)
        amplitude += amplitude_map(spectrum, sample.frames) / len(windows)
        descriptions.append(describe_photograph(prior, sample.image, device))
    own = amplitude_map(magnitude.astype(np.complex64), normalizer.frames)
    factor = np.divide(amplitude, own, out=np.zeros_like(own), where=own > 0)
    return TrainingMotions(
        windows=windows,
        descriptions=np.stack(descriptions),
        magnitude=(magnitude * factor).astype(np.float32),
    )


def describe_photograph(
    prior: Prior, image: UInt8[np.ndarray, "height width 3"], device: str
) -> Float32[np.ndarray, " dimensions"]:
    """What the prior's encoder knows of a photograph as a whole: the mean over the picture of what
    its last layers, `leave`, are given.

    The mean of the features themselves says nothing in an encoder that ends with a normalization of
    each channel over the picture, which gives every photograph the same.
    """
    denoiser = prior.denoiser.to(device)
    slices = denoiser.slices if isinstance(denoiser, CoordinatedDenoiser) else denoiser
    encoder: Any = slices.encoder
    pixels = torch.tensor(image).permute(2, 0, 1)[None].float().to(device) / 127.5 - 1
    inputs = []
    hook = encoder.leave.register_forward_pre_hook(lambda _, args: inputs.extend(args))
    try:
        with torch.no_grad():
            encoder(pixels)
    finally:
        hook.remove()
    return inputs[0].mean(dim=(0, 2, 3)).cpu().numpy()


def predict_baselines(
    training: TrainingMotions,
    nearest: EvaluationWindow,
    other: EvaluationWindow | None,
    draws: int,
    rng: np.random.Generator,
) -> dict[str, list[_Spectrum]]:
    """The motions of every baseline by its name, `draws` of the random one; without another window
    of the clip there is no OTHER_WINDOW.
    """
    frequencies = len(training.magnitude)

    def read(window: EvaluationWindow) -> _Spectrum:
        return read_spectrum(window.load(), frequencies)

    drawn = [read(window) for window in training.draw(draws, rng)]
    motions = {
        STILL: [np.zeros_like(drawn[0])],
        MEAN_MAP: [training.mean_motion(drawn[0])],
        RANDOM: drawn,
        NEAREST: [read(nearest)],
    }
    return motions if other is None else motions | {OTHER_WINDOW: [read(other)]}
