"""Diffusion: the noise schedule of steps n = 0 .. 999, the training loss, and one DDIM step back.

    z_n = sqrt(a_n) z_0 + sqrt(1 - a_n) noise,    a_n = prod_{i <= n} (1 - beta_i)

sqrt(beta) rises linearly over 1,000 steps ("square linear" in the paper, `scaled_linear` in
diffusers). The paper does not give its ends. Here they are those of Rombach et al. 2022 (LDM) for
faces, churches and bedrooms, 0.0015 to 0.0195. Those of its text-to-image model, 0.00085 to 0.012,
leave 7 % of the signal at the last step, and motion is so smooth that its largest waves stand out
of the noise even there: sampling, which begins with pure noise, would halve them
(docs/design/decisions/0010).
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
"""The step number that stands for no noise at all."""

Prediction = Literal["noise", "velocity"]
"""What a network predicts: the noise, or v = sqrt(a_n) noise - sqrt(1 - a_n) z_0 (Salimans and Ho
2022).
"""

Eps = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""eps(z, n, features): predicts the noise in z, as the networks of model/prior/denoiser.py do."""


@cache
def _amplitude_table(device: torch.device) -> Float[Tensor, "2 steps"]:
    """sqrt(a_n) and sqrt(1 - a_n) for n = 0 .. 999, computed in float64; a last entry without noise
    makes index -1 the `CLEAN_STEP`.
    """
    beta = torch.linspace(
        _BETA[0] ** 0.5, _BETA[1] ** 0.5, DIFFUSION_STEPS, dtype=torch.float64
    ).square()
    a = torch.cat([(1 - beta).cumprod(0), torch.ones(1, dtype=torch.float64)])
    return torch.stack([a.sqrt(), (1 - a).sqrt()]).float().to(device)


def amplitudes(
    n: Int[Tensor, " batch"],
) -> tuple[Float[Tensor, "batch 1 1 1 1"], Float[Tensor, "batch 1 1 1 1"]]:
    """The amplitude of the signal, sqrt(a_n), and that of the noise, sigma_n = sqrt(1 - a_n): from
    (0.9992, 0.039) at n = 0 to (0.012, 0.9999) at 999.
    """
    signal, sigma = _amplitude_table(n.device)[:, n].reshape(2, -1, 1, 1, 1, 1)
    return signal, sigma


def add_noise(
    z0: Float[Tensor, "batch freq 4 h w"],
    n: Int[Tensor, " batch"],
    noise: Float[Tensor, "batch freq 4 h w"],
) -> Float[Tensor, "batch freq 4 h w"]:
    """z_n: clean latents with the noise of step `n`."""
    signal, sigma = amplitudes(n)
    return signal * z0 + sigma * noise


class _NoiseDraw(NamedTuple):
    """The random numbers of a training step."""

    n: Int[Tensor, " batch"]
    noise: Float[Tensor, "batch freq 4 h w"]
    has_condition: Bool[Tensor, " batch"]
    """Whether a sample keeps its condition; the others train the null condition, for
    classifier-free guidance.
    """


def draw_noise(
    shape: tuple[int, int, int, int, int], generator: torch.Generator, dropped: float = 0.1
) -> _NoiseDraw:
    """Draws steps, noise and which conditions to keep for latents of `shape`, on the generator's
    device; `dropped` is the share of the conditions to drop.
    """
    device = generator.device
    n = torch.randint(DIFFUSION_STEPS, shape[:1], generator=generator, device=device)
    noise = torch.randn(shape, generator=generator, device=device)
    has_condition = torch.rand(shape[:1], generator=generator, device=device) >= dropped
    return _NoiseDraw(n, noise, has_condition)


def mask_features(
    features: Float[Tensor, "batch features h w"], has_condition: Bool[Tensor, " batch"]
) -> Float[Tensor, "batch features h w"]:
    """The features of samples that keep their condition; zeros, the null condition, for the
    others.
    """
    return torch.where(has_condition[:, None, None, None], features, 0)


def noise_from_output(
    output: Float[Tensor, "batch freq 4 h w"],
    z: Float[Tensor, "batch freq 4 h w"],
    n: Int[Tensor, " batch"],
    prediction: Prediction,
) -> Float[Tensor, "batch freq 4 h w"]:
    """The noise in `z` that the output of a network implies; for a velocity v it is
    sqrt(1 - a_n) z + sqrt(a_n) v.
    """
    if prediction == "noise":
        return output
    signal, sigma = amplitudes(n)
    return sigma * z + signal * output


def denoising_error(
    eps: Float[Tensor, "batch freq 4 h w"],
    noise: Float[Tensor, "batch freq 4 h w"],
    n: Int[Tensor, " batch"],
    prediction: Prediction = "noise",
    weight: Float[Tensor, "batch h w"] | None = None,
) -> Float[Tensor, " batch"]:
    """The mean square error of a network's output for each sample, computed from the noise `eps`
    that the output implies; for "noise" it is the paper's loss.

    With a `weight`, 0 to 1, the square errors are multiplied by it.
    """
    error = eps.float() - noise
    if prediction == "velocity":
        error = error / amplitudes(n)[0]
    square = error.square()
    if weight is not None:
        square = square * weight[:, None, None]
    return square.flatten(1).mean(1)


def predict_z0(
    z: Float[Tensor, "batch freq 4 h w"],
    eps: Float[Tensor, "batch freq 4 h w"],
    n: Int[Tensor, " batch"],
) -> Float[Tensor, "batch freq 4 h w"]:
    """The clean latents that the predicted noise implies."""
    signal, sigma = amplitudes(n)
    return (z - sigma * eps) / signal


def ddim_step(
    z: Float[Tensor, "batch freq 4 h w"],
    eps: Float[Tensor, "batch freq 4 h w"],
    n: Int[Tensor, " batch"],
    n_next: Int[Tensor, " batch"],
) -> Float[Tensor, "batch freq 4 h w"]:
    """The latents at the less noisy step `n_next` (`CLEAN_STEP` at the end), without fresh noise
    (Song et al. 2021, equation 12 with sigma = 0).
    """
    return add_noise(predict_z0(z, eps, n), n_next, eps)


def renoise(
    z: Float[Tensor, "batch freq 4 h w"],
    n: Int[Tensor, " batch"],
    n_before: Int[Tensor, " batch"],
    noise: Float[Tensor, "batch freq 4 h w"],
) -> Float[Tensor, "batch freq 4 h w"]:
    """The latents at the noisier step `n_before`, by fresh noise: if `z` is distributed as latents
    at step `n`, the result is as at `n_before`.
    """
    signal, signal_before = amplitudes(n)[0], amplitudes(n_before)[0]
    ratio = signal_before / signal
    return ratio * z + (1 - ratio.square()).sqrt() * noise


def ddim_schedule(steps: int) -> list[int]:
    """The numbers n of `steps` evenly spaced steps, from 999 down; `CLEAN_STEP` follows the last.

    The spacing is "trailing" (Lin et al. 2024): sampling begins with pure noise, and step 999 is
    nearest to it. With "leading" spacing, which counts from 0, few steps would begin where a
    network expects part of the signal. Raises ValueError unless `steps` is 1 to 1,000.
    """
    if not 1 <= steps <= DIFFUSION_STEPS:
        raise ValueError(f"steps are {steps}, expected 1 to {DIFFUSION_STEPS}")
    return [round(DIFFUSION_STEPS - i * DIFFUSION_STEPS / steps) - 1 for i in range(steps)]
