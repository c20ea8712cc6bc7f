"""Sampling: from noise to the latents of a spectral volume, and on to its coefficients in pixels.

`eps` is any function eps(z, n, features) that predicts noise; guidance turns one into another. A
sample depends on its own seed only, not on the batch that it is in.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from model.prior.autoencoder import SliceAutoencoder
from model.prior.diffusion import CLEAN_STEP, Eps, ddim_schedule, ddim_step, renoise
from pipeline.motion.normalize import Normalization, denormalize

GuidanceHook = Callable[[Tensor, Tensor, Tensor], Tensor]
"""hook(z, n, eps) -> eps: changes the predicted noise of a step, as motion self-guidance does.
Gradients are off when it is called.
"""


def initial_noise(
    shape: tuple[int, int, int, int], seeds: Sequence[int]
) -> Float[Tensor, "batch freq 4 h w"]:
    """Standard normal numbers, for each sample from its own seed, drawn on the CPU, so that they
    are the same on every machine.
    """
    return _draw_normal(shape, _make_generators(seeds))


def _make_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """A generator for each sample, on the CPU."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _draw_normal(
    shape: tuple[int, int, int, int], generators: Sequence[torch.Generator]
) -> Float[Tensor, "batch freq 4 h w"]:
    """The next standard normal numbers of each generator."""
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


def apply_guidance(eps: Eps, weight: float) -> Eps:
    """Classifier-free guidance of weight w: (1 + w) eps(z; n, c) - w eps(z; n, 0), where features
    of 0 are the null condition (Ho and Salimans 2022).

    Both are evaluated in one batch; with w = 0, or without features, only one is.
    """

    def guided_eps(
        z: Float[Tensor, "batch freq 4 h w"],
        n: Int[Tensor, " batch"],
        features: Float[Tensor, "batch features h w"] | None,
    ) -> Tensor:
        if weight == 0 or features is None:
            return eps(z, n, features)
        predictions = eps(
            torch.cat([z, z]), torch.cat([n, n]), torch.cat([features, torch.zeros_like(features)])
        )
        conditional, unconditional = predictions.chunk(2)
        return (1 + weight) * conditional - weight * unconditional

    return guided_eps


@torch.no_grad()
def sample_latents(
    eps: Eps,
    features: Float[Tensor, "batch features h w"] | None,
    shape: tuple[int, int, int, int],
    seeds: Sequence[int],
    steps: int = 250,
    guidance: float = 1.0,
    hook: GuidanceHook | None = None,
    recurrence: int = 1,
) -> Float[Tensor, "batch freq 4 h w"]:
    """Whitened latents of `shape` (K, 4, h, w), one for each seed and each photograph's features.

    It is DDIM in float32, on the features' device; the paper takes 250 steps. Each step is done
    `recurrence` times, with fresh noise from the sample's seed added back in between, so that the
    latents adapt to what a hook changes (docs/design/maths.md, 23). Raises ValueError if the
    numbers of features and seeds differ, if `steps` is not 1 to 1,000 or `recurrence` is under 1,
    and if a sample is not finite.
    """
    if recurrence < 1:
        raise ValueError(f"recurrence is {recurrence}, expected at least 1")
    if features is not None and len(features) != len(seeds):
        raise ValueError(
            f"{len(seeds)} seeds for {len(features)} photographs, expected one for each"
        )
    predict = apply_guidance(eps, guidance)
    generators = _make_generators(seeds)
    z = _draw_normal(shape, generators).to("cpu" if features is None else features.device)
    for step, next_step in pairwise([*ddim_schedule(steps), CLEAN_STEP]):
        n, n_next = (torch.full((len(z),), number, device=z.device) for number in (step, next_step))
        for iteration in range(recurrence):
            if iteration > 0:
                z = renoise(z, n_next, n, _draw_normal(shape, generators).to(z.device))
            noise = predict(z, n, features).float()
            z = ddim_step(z, noise if hook is None else hook(z, n, noise), n, n_next)
    return check_finite(z, seeds)


def check_finite(
    z: Float[Tensor, "batch freq 4 h w"], seeds: Sequence[int]
) -> Float[Tensor, "batch freq 4 h w"]:
    """Returns `z`. Raises ValueError naming the seeds of samples with values that are not
    finite.
    """
    bad_seeds = [
        str(seed) for seed, sample in zip(seeds, z, strict=True) if not sample.isfinite().all()
    ]
    if bad_seeds:
        raise ValueError(
            f"sampled values are not finite for seed {', '.join(bad_seeds)}: "
            "was the network trained, and with this normalization?"
        )
    return z


def decode_spectrum(
    autoencoder: SliceAutoencoder,
    z: Float[Tensor, "batch freq 4 h w"],
    scale: Float[Tensor, "freq 4 1 1"],
    normalisation: Normalization = "adaptive",
) -> Float[Tensor, "batch freq 4 height width"]:
    """The coefficients in pixels (re x, im x, re y, im y) of whitened latents; Im S_0 is exactly 0
    (docs/design/maths.md, 10).

    It is differentiable, so that a hook can take gradients through it. `scale` is
    `SpectrumNormalizer.scale_tensor`.
    """
    # a sample at a time, since decoding needs far more memory than its result
    normalized = torch.stack([autoencoder.decode_white(latents) for latents in z])
    spectrum = denormalize(normalized, scale.to(z.device), normalisation)
    mask = torch.ones_like(spectrum[0, :, :, :1, :1])
    mask[0, 1::2] = 0
    return spectrum * mask
