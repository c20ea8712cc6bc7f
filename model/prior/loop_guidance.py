"""Motion self-guidance: sampling that is guided to motion which ends as it began, in position and
in velocity (docs/design/maths.md, 23).

    eps + u sigma_n sqrt(a_n) g
    g = dL_g / dz_0
    L_g = |F_last - F_first|_1 + |dF_last - dF_first|_1

`self_guidance` makes the hook that `model.prior.sampling.sample_latents` takes; the paper samples
with it in 500 steps of 2 self-recurrence iterations and guidance 1.75. The motion is computed at
two times only, as a weighted sum of the coefficients. How a loop is then closed exactly is in
model/motion/series.py.
"""

from collections.abc import Callable
from math import pi
from typing import NamedTuple

import torch
from jaxtyping import Complex64, Float
from torch import Tensor

from model.prior.diffusion import amplitudes, predict_z0
from model.prior.sampling import GuidanceHook

_STRENGTH = 200.0
"""The paper's u."""
LOOP_RECURRENCE, LOOP_GUIDANCE_WEIGHT = 2, 1.75
"""The paper's settings for guided sampling; its number of steps is 500."""
_MAX_STEP_SHARE = 1 / 3
"""A step goes at most this share of the way to where L_g would be 0 if it were linear. At 1 it
would jump back and forth over the kinks of L_g; longer steps also raise the motion's energy, which
is preserved to first order only.
"""

_SpectrumDecoder = Callable[[Tensor], Tensor]
"""Takes whitened latents [B, K, 4, h, w] to coefficients in pixels [B, K, 4, H, W], differentiably,
as `model.prior.sampling.decode_spectrum` does with an autoencoder.
"""


def self_guidance(
    to_spectrum: _SpectrumDecoder,
    frames: int,
    period: int | None = None,
    strength: float = _STRENGTH,
) -> GuidanceHook:
    """A hook that guides to loops of `period` frames in windows of T `frames`; without it, of all
    T.

    g takes eps as constant. Raises ValueError unless the period is 2 to T, and the strength finite
    and at least 0.
    """
    last = frames if period is None else period
    if not 2 <= last <= frames:
        raise ValueError(
            f"a loop of {last} frames was asked for, expected 2 to the window's {frames}"
        )
    if not 0 <= strength < float("inf"):
        raise ValueError(f"strength is {strength:g}, expected at least 0")

    def hook(
        z: Float[Tensor, "batch freq 4 h w"], n: Tensor, eps: Float[Tensor, "batch freq 4 h w"]
    ) -> Tensor:
        signal, sigma = amplitudes(n)
        # one sample after another, since the graph of a decoder is large
        seams = [
            _seam_gradient(to_spectrum, sample, frames, last) for sample in predict_z0(z, eps, n)
        ]
        # eps + d moves z_0 by -d sigma / sqrt(a)
        max_steps = [
            _MAX_STEP_SHARE * seam.loss / seam.gradient.square().sum().clamp(min=1e-30)
            for seam in seams
        ]
        steps = torch.stack(max_steps).view_as(sigma).minimum(strength * sigma.square())
        return eps + signal / sigma * steps * torch.stack([seam.gradient for seam in seams])

    return hook


class _SeamGradient(NamedTuple):
    """L_g of one sample, and its gradient."""

    loss: Float[Tensor, ""]
    gradient: Float[Tensor, "freq 4 h w"]
    """dL_g/dz_0 without its component along the gradient of the motion's energy, so that the loop
    is not closed by moving less.
    """


def _seam_gradient(
    to_spectrum: _SpectrumDecoder, z0: Float[Tensor, "freq 4 h w"], frames: int, last: int
) -> _SeamGradient:
    """Where L_g rises, at clean latents."""
    with torch.enable_grad():
        z0 = z0.detach().clone().requires_grad_()
        spectrum = to_spectrum(z0[None])
        loss = seam_loss(spectrum, frames, last).sum()
        (gradient,) = torch.autograd.grad(loss, z0, retain_graph=True)
        (energy_gradient,) = torch.autograd.grad(spectrum[:, 1:].square().sum(), z0)
    share = (gradient * energy_gradient).sum() / energy_gradient.square().sum().clamp(min=1e-30)
    return _SeamGradient(loss.detach(), gradient - share * energy_gradient)


def seam_loss(
    spectrum: Float[Tensor, "batch freq 4 height width"], frames: int, last: int
) -> Float[Tensor, " batch"]:
    """L_g of coefficients (re x, im x, re y, im y): how far their motion is from closing after
    `last` frames, in pixels, summed over all pixels.

    It compares F_0 and F_last. In a loop of all T frames these are equal whatever the coefficients,
    so F_{T-1} is compared, as in the paper; then the motion does not rush back within one frame.
    """
    weights = seam_weights(spectrum.shape[1], frames, min(last, frames - 1)).to(spectrum.device)
    real, imaginary = spectrum[:, :, 0::2], spectrum[:, :, 1::2]
    position, velocity = (
        torch.einsum("k,bkchw->bchw", w.real, real)
        - torch.einsum("k,bkchw->bchw", w.imag, imaginary)
        for w in weights
    )
    return (position.abs() + velocity.abs()).sum(dim=(1, 2, 3))


def seam_weights(frequencies: int, frames: int, last: int) -> Complex64[Tensor, "2 freq"]:
    """Weights w with Re(sum_k w_k S_k) = F_last - F_0, and those with dF_last - dF_0, pixels per
    frame (docs/design/maths.md, 2).
    """
    k = torch.arange(frequencies, dtype=torch.float64)
    omega = 2 * pi * k / frames
    multiplicity = torch.where((k == 0) | (2 * k == frames), 1, 2) / frames
    position = multiplicity * (torch.polar(torch.ones_like(omega), omega * last) - 1)
    return torch.stack([position, 1j * omega * position]).to(torch.complex64)
