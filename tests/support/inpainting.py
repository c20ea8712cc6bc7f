"""A tiny pretrained inpainting U-Net in the files of diffusers, and a denoiser that begins with it."""

from pathlib import Path
from typing import Any

import torch

from model.prior.denoiser import SliceDenoiser
from model.prior.diffusers_modules import UNet2DConditionModel
from model.prior.pretrained import inpainting_config, load_inpainting_weights
from tests.support.tiny import perturb_weights, tiny_config

TEXT_CHANNELS = 8
UNET_SETTINGS: dict[str, Any] = dict(
    in_channels=9,
    out_channels=4,
    block_out_channels=(16, 32),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    norm_num_groups=4,
    attention_head_dim=4,
    cross_attention_dim=TEXT_CHANNELS,
    sample_size=8,
)
UNET_CONFIG_FILE, UNET_WEIGHTS_FILE = "config.json", "diffusion_pytorch_model.safetensors"


def write_inpainting_network(folder: Path, **fields: Any) -> Any:
    """A network of random weights, written as diffusers writes it."""
    torch.manual_seed(1)
    network = perturb_weights(UNet2DConditionModel(**(UNET_SETTINGS | fields)))
    network.save_pretrained(folder)
    return network.eval()


def make_inpainting_denoiser(path: Path, **fields: Any) -> SliceDenoiser:
    torch.manual_seed(2)
    denoiser = SliceDenoiser(inpainting_config(path, tiny_config(**fields)))
    load_inpainting_weights(denoiser, path)
    return denoiser
