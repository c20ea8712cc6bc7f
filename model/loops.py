"""Motion self-guidance: sampling steered to motion that ends as it began, in place and in velocity (docs/maths.md, 23).

    eps + u sigma_n sqrt(a_n) dL_g/dz_0,    L_g = |F_last - F_first|_1 + |dF_last - dF_first|_1

`self_guidance` makes the hook that `model.sampling.sample` takes; the paper samples with it in 500 steps of 2 self-recurrence
iterations and guidance 1.75. Only the motion at two times is ever computed, as weights on the coefficients.
"""

from collections.abc import Callable
from math import pi

import torch
from jaxtyping import Float
from torch import Tensor

from model.diffusion import amplitudes, clean
from model.sampling import Hook

STRENGTH = 200.0
"""The paper's u."""
STEPS, RECURRENCE, GUIDANCE = 500, 2, 1.75
"""What the paper samples with where it guides."""
PIXELS = 256 * 160
"""u is meant for the mean over a picture of the paper's size. A pixel counts as much in any other, so that u needs no change there."""

ToSpectrum = Callable[[Tensor], Tensor]
"""White latents [B, K, 4, h, w] to coefficients in pixels [B, K, 4, H, W], differentiable: `model.sampling.to_spectrum` of an autoencoder."""


def self_guidance(to_spectrum: ToSpectrum, frames: int, period: int | None = None, strength: float = STRENGTH) -> Hook:
    """For loops of `period` frames, of windows of T `frames`; all T without.

    Raises ValueError unless the period is 2 to T and strength at least 0 and finite.
    """
    last = frames if period is None else period
    if not 2 <= last <= frames:
        raise ValueError(f"a loop of {last} frames was asked for, expected 2 to the window's {frames}")
    if not 0 <= strength < float("inf"):
        raise ValueError(f"strength is {strength:g}, expected at least 0")

    def hook(z: Float[Tensor, "batch freq 4 h w"], n: Tensor, eps: Float[Tensor, "batch freq 4 h w"]) -> Tensor:
        # one sample after another: the graph of a decoder is large
        z0 = clean(z, eps, n).detach()
        gradient = torch.stack([slope(to_spectrum, one, frames, last) for one in z0])
        of_signal, of_noise = amplitudes(n)
        return eps + strength * of_noise * of_signal * gradient

    return hook


def slope(to_spectrum: ToSpectrum, z0: Float[Tensor, "freq 4 h w"], frames: int, last: int) -> Float[Tensor, "freq 4 h w"]:
    """dL_g/dz_0 of one sample."""
    with torch.enable_grad():
        z0 = z0.clone().requires_grad_()
        loss = seam_loss(to_spectrum(z0[None]), frames, last).sum()
        return torch.autograd.grad(loss, z0)[0]


def seam_loss(spectrum: Float[Tensor, "batch freq 4 height width"], frames: int, last: int) -> Float[Tensor, " batch"]:
    """L_g, pixels: how far the motion of coefficients (re x, im x, re y, im y) is from closing after `last` frames.

    Between F_0 and F_last. In a loop of all T frames those are equal whatever the coefficients, and F_{T-1} is compared, as the paper does:
    then the motion does not rush back within one frame. The sum over pixels and components of both distances, over 2 x 256 x 160.
    """
    apart = ends(len(spectrum[0]), frames, min(last, frames - 1)).to(spectrum.device)
    real, imaginary = spectrum[:, :, 0::2], spectrum[:, :, 1::2]
    place, velocity = (torch.einsum("k,bkchw->bchw", w.real, real) - torch.einsum("k,bkchw->bchw", w.imag, imaginary) for w in apart)
    return (place.abs() + velocity.abs()).sum(dim=(1, 2, 3)) / (2 * PIXELS)


def ends(frequencies: int, frames: int, last: int) -> Tensor:
    """Weights [2, K] with Re(w S) = F_last - F_0, and the same of dF, pixels per frame (docs/maths.md, 2)."""
    k = torch.arange(frequencies, dtype=torch.float64)
    turn = 2 * pi * k / frames
    terms = torch.where((k == 0) | (2 * k == frames), 1, 2) / frames
    place = terms * (torch.polar(torch.ones_like(turn), turn * last) - 1)
    return torch.stack([place, 1j * turn * place]).to(torch.complex64)
