"""The motion prior: from a photograph to a spectral volume, by latent diffusion.

READ FIRST: inference.

    inference              load a trained prior, and sample motion for photographs
    sampling               from noise to latents, and on to coefficients in pixels
    loop_guidance          sampling that is guided to motion which loops
    diffusion              noise schedule, training loss and DDIM step
    config                 the settings of the denoiser
    denoiser               the U-Net on one frequency, or on all as channels
    photo_encoder          from the photograph to the features that the denoiser is given
    frequency_attention    attention across the frequencies of a trained denoiser
    autoencoder            spectral slices to latents and back
    linear_init            the autoencoder's first weights
    pretrained             first weights from a pretrained inpainting model
    diffusers_modules      the only imports from diffusers
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.prior.autoencoder import AutoencoderConfig, SliceAutoencoder
    from model.prior.denoiser import DenoiserConfig, SliceDenoiser, VolumeDenoiser
    from model.prior.frequency_attention import (
        CoordinatedDenoiser,
        add_frequency_attention,
        build_denoiser,
    )
    from model.prior.inference import (
        Prior,
        load_autoencoder,
        load_prior,
        make_loop_hook,
        sample_motion,
    )

__all__ = [
    "AutoencoderConfig",
    "CoordinatedDenoiser",
    "DenoiserConfig",
    "Prior",
    "SliceAutoencoder",
    "SliceDenoiser",
    "VolumeDenoiser",
    "add_frequency_attention",
    "build_denoiser",
    "load_autoencoder",
    "load_prior",
    "make_loop_hook",
    "sample_motion",
]

_MODULES = {
    "AutoencoderConfig": "autoencoder",
    "CoordinatedDenoiser": "frequency_attention",
    "DenoiserConfig": "denoiser",
    "Prior": "inference",
    "SliceAutoencoder": "autoencoder",
    "SliceDenoiser": "denoiser",
    "VolumeDenoiser": "denoiser",
    "add_frequency_attention": "frequency_attention",
    "build_denoiser": "frequency_attention",
    "load_autoencoder": "inference",
    "load_prior": "inference",
    "make_loop_hook": "inference",
    "sample_motion": "inference",
}
"""The module of each name. They load torch, so they are imported when a name is first used."""


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
