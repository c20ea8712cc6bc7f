"""Motion self-guidance: sampling steered to motion that ends as it began, in place and in velocity
(docs/maths.md, 23).

    eps + u sigma_n sqrt(a_n) g,    g = dL_g / dz_0,    L_g = |F_last - F_first|_1 + |dF_last -
        dF_first|_1

`self_guidance` makes the hook that `model.prior.sampling.sample` takes; the paper samples with it
in 500 steps of 2 self-recurrence iterations and guidance 1.75. Only the motion at two times is ever
computed, as weights on the coefficients.
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
_LOOP_SAMPLING_STEPS, LOOP_RECURRENCE, LOOP_GUIDANCE_WEIGHT = 500, 2, 1.75
"""What the paper samples with where it guides."""
_MAX_STEP_SHARE = 1 / 3
"""A step goes at most this share of the way to where L_g would be 0 if it were linear. At 1 it
would jump to and fro over its kinks; longer steps also raise the motion's energy, which is kept to
first order.
"""

_SpectrumDecoder = Callable[[Tensor], Tensor]
"""White latents [B, K, 4, h, w] to coefficients in pixels [B, K, 4, H, W], differentiable:
`model.prior.sampling.to_spectrum` of an autoencoder.
"""


def self_guidance(
    to_spectrum: _SpectrumDecoder,
    frames: int,
    period: int | None = None,
    strength: float = _STRENGTH,
) -> GuidanceHook:
    """For loops of `period` frames, of windows of T `frames`; of all T without.

    eps is taken to be constant in g. Raises ValueError unless the period is 2 to T and strength
    finite and at least 0.
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
        z0, (of_signal, of_noise) = predict_z0(z, eps, n), amplitudes(n)
        # one sample after another: the graph of a decoder is large
        slopes = [_seam_gradient(to_spectrum, one, frames, last) for one in z0]
        # eps + d moves z_0 by -d sigma / sqrt(a): so far at most
        furthest = [
            _MAX_STEP_SHARE * s.loss / s.gradient.square().sum().clamp(min=1e-30) for s in slopes
        ]
        steps = torch.stack(furthest).view_as(of_noise).minimum(strength * of_noise.square())
        return eps + of_signal / of_noise * steps * torch.stack([s.gradient for s in slopes])

    return hook


class _SeamGradient(NamedTuple):
    """Of one sample."""

    loss: Float[Tensor, ""]
    gradient: Float[Tensor, "freq 4 h w"]
    """dL_g/dz_0, less its part along the gradient of the motion's energy: the seam shall not be
    closed by moving less.
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
        (along,) = torch.autograd.grad(spectrum[:, 1:].square().sum(), z0)
    share = (gradient * along).sum() / along.square().sum().clamp(min=1e-30)
    return _SeamGradient(loss.detach(), gradient - share * along)


def seam_loss(
    spectrum: Float[Tensor, "batch freq 4 height width"], frames: int, last: int
) -> Float[Tensor, " batch"]:
    """L_g of coefficients (re x, im x, re y, im y): how far their motion is from closing after
    `last` frames, pixels, summed over all of them.

    Between F_0 and F_last. In a loop of all T frames those are equal whatever the coefficients, and
    F_{T-1} is compared, as the paper does: then the motion does not rush back within one frame.
    """
    apart = seam_weights(spectrum.shape[1], frames, min(last, frames - 1)).to(spectrum.device)
    real, imaginary = spectrum[:, :, 0::2], spectrum[:, :, 1::2]
    place, velocity = (
        torch.einsum("k,bkchw->bchw", w.real, real)
        - torch.einsum("k,bkchw->bchw", w.imag, imaginary)
        for w in apart
    )
    return (place.abs() + velocity.abs()).sum(dim=(1, 2, 3))


def seam_weights(frequencies: int, frames: int, last: int) -> Complex64[Tensor, "2 freq"]:
    """w with Re(sum_k w_k S_k) = F_last - F_0, and the same of dF, pixels per frame (docs/maths.md,
    2).
    """
    k = torch.arange(frequencies, dtype=torch.float64)
    turn = 2 * pi * k / frames
    terms = torch.where((k == 0) | (2 * k == frames), 1, 2) / frames
    place = terms * (torch.polar(torch.ones_like(turn), turn * last) - 1)
    return torch.stack([place, 1j * turn * place]).to(torch.complex64)
