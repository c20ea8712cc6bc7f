"""Diffusion: noise in latents by steps n = 0 .. 999, the training loss, and one DDIM step back.

    z_n = sqrt(a_n) z_0 + sqrt(1 - a_n) noise,    a_n = prod_{i <= n} (1 - beta_i)

sqrt(beta) rises linearly ("square linear" in the paper, `scaled_linear` in diffusers) over 1,000
steps between the ends that Rombach et al. 2022 (LDM) take for faces, churches and bedrooms: 0.0015
to 0.0195. The paper does not give any. Those of its text-to-image model,
0.00085 to 0.012, leave 7 % of the signal at the last step, and motion is so smooth that its largest
waves stand out of the noise even there: sampling, which begins with noise alone, would halve them
(docs/decisions/0010).
"""

from collections.abc import Callable
from functools import cache
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

DIFFUSION_STEPS = 1000
_BETA = (0.0015, 0.0195)
CLEAN_STEP = -1
"""The step that stands for no noise at all."""

Prediction = Literal["noise", "velocity"]
"""What a network gives out: the noise, or v = sqrt(a_n) noise - sqrt(1 - a_n) z_0 (Salimans and Ho
2022).
"""

Eps = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""eps(z, n, features): the noise in z, as the networks of model/prior/denoiser.py give it."""


@cache
def _amplitude_table(device: torch.device) -> Float[Tensor, "2 steps"]:
    """sqrt(a_n) and sqrt(1 - a_n) for n = 0 .. 999, and at the end of no noise, so that index -1 is
    `CLEAN_STEP`; computed in float64.
    """
    beta = torch.linspace(
        _BETA[0] ** 0.5, _BETA[1] ** 0.5, DIFFUSION_STEPS, dtype=torch.float64
    ).square()
    a = torch.cat([(1 - beta).cumprod(0), torch.ones(1, dtype=torch.float64)])
    return torch.stack([a.sqrt(), (1 - a).sqrt()]).float().to(device)


def amplitudes(
    n: Int[Tensor, " batch"],
) -> tuple[Float[Tensor, "batch 1 1 1 1"], Float[Tensor, "batch 1 1 1 1"]]:
    """Of the signal, sqrt(a_n), and of the noise, sigma_n = sqrt(1 - a_n): from (0.9992, 0.039) at
    n = 0 to (0.012, 0.9999) at 999.
    """
    of_signal, of_noise = _amplitude_table(n.device)[:, n].reshape(2, -1, 1, 1, 1, 1)
    return of_signal, of_noise


def add_noise(
    z0: Float[Tensor, "batch freq 4 h w"],
    n: Int[Tensor, " batch"],
    noise: Float[Tensor, "batch freq 4 h w"],
) -> Float[Tensor, "batch freq 4 h w"]:
    """z_n of clean latents."""
    of_signal, of_noise = amplitudes(n)
    return of_signal * z0 + of_noise * noise


class _NoiseDraw(NamedTuple):
    """What is random in a training step."""

    n: Int[Tensor, " batch"]
    noise: Float[Tensor, "batch freq 4 h w"]
    has_condition: Bool[Tensor, " batch"]
    """Samples that keep their condition; the others learn the null condition, for classifier-free
    guidance.
    """


def draw_noise(
    shape: tuple[int, int, int, int, int], generator: torch.Generator, dropped: float = 0.1
) -> _NoiseDraw:
    """Steps, noise and which conditions to keep for latents of `shape`, on the generator's device;
    `dropped` is the share to drop.
    """
    device = generator.device
    n = torch.randint(DIFFUSION_STEPS, shape[:1], generator=generator, device=device)
    noise = torch.randn(shape, generator=generator, device=device)
    return _NoiseDraw(
        n, noise, torch.rand(shape[:1], generator=generator, device=device) >= dropped
    )


def mask_features(
    features: Float[Tensor, "batch features h w"], kept: Bool[Tensor, " batch"]
) -> Float[Tensor, "batch features h w"]:
    """The features of samples that keep them; zeros, the null condition, for the others."""
    return torch.where(kept[:, None, None, None], features, 0)


def noise_from_output(
    output: Float[Tensor, "batch freq 4 h w"],
    z: Float[Tensor, "batch freq 4 h w"],
    n: Int[Tensor, " batch"],
    prediction: Prediction,
) -> Float[Tensor, "batch freq 4 h w"]:
    """The noise in `z` by what a network gives out; of a velocity v it is sqrt(1 - a_n) z +
    sqrt(a_n) v.
    """
    if prediction == "noise":
        return output
    of_signal, of_noise = amplitudes(n)
    return of_noise * z + of_signal * output


def denoising_error(
    eps: Float[Tensor, "batch freq 4 h w"],
    noise: Float[Tensor, "batch freq 4 h w"],
    n: Int[Tensor, " batch"],
    prediction: Prediction = "noise",
) -> Float[Tensor, " batch"]:
    """Mean square, for each sample, of the error of what a network gives out, by the noise `eps`
    that it implies: the paper's loss for "noise".
    """
    error = eps.float() - noise
    return (
        (error if prediction == "noise" else error / amplitudes(n)[0]).square().flatten(1).mean(1)
    )


def predict_z0(
    z: Float[Tensor, "batch freq 4 h w"],
    eps: Float[Tensor, "batch freq 4 h w"],
    n: Int[Tensor, " batch"],
) -> Float[Tensor, "batch freq 4 h w"]:
    """z_0 as the predicted noise implies it."""
    of_signal, of_noise = amplitudes(n)
    return (z - of_noise * eps) / of_signal


def ddim_step(
    z: Float[Tensor, "batch freq 4 h w"],
    eps: Float[Tensor, "batch freq 4 h w"],
    n: Int[Tensor, " batch"],
    n_next: Int[Tensor, " batch"],
) -> Float[Tensor, "batch freq 4 h w"]:
    """z at the less noisy step `n_next` (`CLEAN_STEP` for the last), without fresh noise (Song et
    al. 2021, equation 12 with sigma = 0).
    """
    return add_noise(predict_z0(z, eps, n), n_next, eps)


def renoise(
    z: Float[Tensor, "batch freq 4 h w"],
    n: Int[Tensor, " batch"],
    n_before: Int[Tensor, " batch"],
    noise: Float[Tensor, "batch freq 4 h w"],
) -> Float[Tensor, "batch freq 4 h w"]:
    """z at the noisier step `n_before`, by fresh noise: distributed as latents are there, if `z`
    was at `n`.
    """
    signal, signal_before = amplitudes(n)[0], amplitudes(n_before)[0]
    kept = signal_before / signal
    return kept * z + (1 - kept.square()).sqrt() * noise


def ddim_schedule(steps: int) -> list[int]:
    """n of each of `steps` steps, from 999 down, evenly spaced; `CLEAN_STEP` comes after the last.

    Spaced "trailing" (Lin et al. 2024): sampling begins with pure noise, and of all steps it is 999
    that comes nearest to it. Counted from 0 instead ("leading"), few steps would begin where a
    network expects to see a part of the signal. Raises ValueError unless `steps` is 1 to 1,000.
    """
    if not 1 <= steps <= DIFFUSION_STEPS:
        raise ValueError(f"steps are {steps}, expected 1 to {DIFFUSION_STEPS}")
    return [round(DIFFUSION_STEPS - i * DIFFUSION_STEPS / steps) - 1 for i in range(steps)]
