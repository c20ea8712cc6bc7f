"""Sampling: from noise to the latents of a spectral volume, and on to its coefficients in pixels.

`eps` is any function eps(z, n, features); guidance makes another one of it. A sample is made of its
own seed alone, so it does not depend on the batch that it is made in.
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
"""hook(z, n, eps) -> eps: changes the noise of a step, as motion self-guidance does. Gradients are
off: it turns on what it needs.
"""


def initial_noise(
    shape: tuple[int, int, int, int], seeds: Sequence[int]
) -> Float[Tensor, "batch freq 4 h w"]:
    """Standard normal numbers, each sample's from its own seed, on the CPU, so that they are the
    same on any machine.
    """
    return _draw_normal(shape, _make_generators(seeds))


def _make_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One for each sample, on the CPU."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _draw_normal(
    shape: tuple[int, int, int, int], of: Sequence[torch.Generator]
) -> Float[Tensor, "batch freq 4 h w"]:
    """The next standard normal numbers of each."""
    return torch.stack([torch.randn(shape, generator=generator) for generator in of])


def apply_guidance(eps: Eps, weight: float) -> Eps:
    """Classifier-free guidance: (1 + w) eps(z; n, c) - w eps(z; n, none), the condition none being
    features of 0.

    Both are asked for in one batch; with w = 0, or without features, there is only one to ask for.
    """

    def with_guidance(
        z: Float[Tensor, "batch freq 4 h w"],
        n: Int[Tensor, " batch"],
        features: Float[Tensor, "batch features h w"] | None,
    ) -> Tensor:
        if weight == 0 or features is None:
            return eps(z, n, features)
        both = eps(
            torch.cat([z, z]), torch.cat([n, n]), torch.cat([features, torch.zeros_like(features)])
        )
        conditional, unconditional = both.chunk(2)
        return (1 + weight) * conditional - weight * unconditional

    return with_guidance


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
    """White latents of `shape` (K, 4, h, w), one for each seed and each photograph's features.

    DDIM in float32, on the features' device; the paper takes 250 steps. Each is done `recurrence`
    times, noised back in between with fresh noise of the sample's own seed, so that what a hook
    asks for can settle (docs/maths.md, 23). Raises ValueError where there are not as many features
    as seeds, where `steps` is not 1 to 1,000 or `recurrence` under 1, and where a sample is not
    finite.
    """
    if recurrence < 1:
        raise ValueError(f"recurrence is {recurrence}, expected at least 1")
    if features is not None and len(features) != len(seeds):
        raise ValueError(
            f"{len(seeds)} seeds for {len(features)} photographs, expected one for each"
        )
    predict = apply_guidance(eps, guidance)
    of = _make_generators(seeds)
    z = _draw_normal(shape, of).to("cpu" if features is None else features.device)
    schedule = [*ddim_schedule(steps), CLEAN_STEP]
    for now, after in pairwise(schedule):
        n, n_next = (torch.full((len(z),), step, device=z.device) for step in (now, after))
        for turn in range(recurrence):
            z = z if turn == 0 else renoise(z, n_next, n, _draw_normal(shape, of).to(z.device))
            noise = predict(z, n, features).float()
            z = ddim_step(z, noise if hook is None else hook(z, n, noise), n, n_next)
    return check_finite(z, seeds)


def check_finite(
    z: Float[Tensor, "batch freq 4 h w"], seeds: Sequence[int]
) -> Float[Tensor, "batch freq 4 h w"]:
    """`z`. Raises ValueError naming the seeds of samples that have values that are not."""
    broken = [seed for seed, one in zip(seeds, z, strict=True) if not one.isfinite().all()]
    if broken:
        raise ValueError(
            f"sampled values are not finite for seed {', '.join(map(str, broken))}: was the network trained, and with this normalisation?"
        )
    return z


def decode_spectrum(
    autoencoder: SliceAutoencoder,
    z: Float[Tensor, "batch freq 4 h w"],
    scale: Float[Tensor, "freq 4 1 1"],
    normalisation: Normalization = "adaptive",
) -> Float[Tensor, "batch freq 4 height width"]:
    """Coefficients in pixels (re x, im x, re y, im y) of white latents; Im S_0 is exactly 0
    (docs/maths.md, 10).

    Differentiable, so that a `hook` can take gradients through it. `scale` is
    `pipeline.motion.normalize.channel_scales` of the statistics.
    """
    # a sample at a time: decoding needs far more memory than what it gives
    normalised = torch.stack([autoencoder.decode_white(one) for one in z])
    spectrum = denormalize(normalised, scale.to(z.device), normalisation)
    real = torch.ones_like(spectrum[0, :, :, :1, :1])
    real[0, 1::2] = 0
    return spectrum * real
