"""A pretrained inpainting latent diffusion model as the beginning of stage 1: "up to 512 x 288 by
fine-tuning a pretrained inpainting LDM".

It is a folder as diffusers' save_pretrained writes it, the pipeline's or that of its U-Net:

    DIR/unet/config.json                              a UNet2DConditionModel of 4 noisy latents, 1
        mask, 4 latents of the masked image
    DIR/unet/diffusion_pytorch_model.safetensors      its weights; a .bin is a pickle, and is never
        opened
    DIR/scheduler/scheduler_config.json               that it predicts the noise; looked at where it
        is there

Nothing of it is believed: numbers have limits, and every tensor's shape is compared with the header
of the weights before a network is made. Links are followed, since caches of downloads are made of
them.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import gcd
from pathlib import Path
from reprlib import repr as shown
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from model.prior.denoiser import DenoiserConfig, SliceDenoiser, build_unet
from pipeline.sizes import human_size

_CONFIG_FILE, _WEIGHTS_FILE, _SCHEDULER_FILE = (
    "config.json",
    "diffusion_pytorch_model.safetensors",
    "scheduler/scheduler_config.json",
)
PRETRAINED_FIELDS = (
    "channels",
    "attention_levels",
    "layers_per_block",
    "head_channels",
    "norm_groups",
    "text_channels",
    "heads",
)
"""Fields of a DenoiserConfig that a pretrained U-Net decides."""
_MAX_CONFIG_BYTES = 1 << 20
"""Bytes of a file of settings."""
_MAX_LEVELS, _MAX_WIDTH, _MAX_LAYERS = 6, 4096, 4
"""The most that is believed; Stable Diffusion has 4, 1280, 2."""
_IGNORED_SETTINGS = {
    "sample_size",
    "attention_head_dim",
    "use_linear_projection",
    "upcast_attention",
}
"""Settings that are read elsewhere, or make no difference: a linear projection is a convolution of
one pixel.
"""
_FLOAT_DTYPES = ("F32", "F16", "BF16")
_ADDED_TENSOR_PREFIX = "class_embedding."
"""Tensors of our U-Net that a pretrained one does not have: the embedding of the frequency."""


def inpainting_config(path: Path, config: DenoiserConfig) -> DenoiserConfig:
    """`config` with the U-Net of the pretrained model in the folder `path` for its own.

    Only headers are read. Raises ValueError, naming the file and what was expected, unless all
    weights of the U-Net have a place in ours.
    """
    if config.prediction != "noise":
        raise ValueError(
            f"prediction is {config.prediction!r}, expected 'noise', which {path} predicts"
        )
    folder = _unet_folder(path)
    _check_scheduler(folder.parent / _SCHEDULER_FILE)
    found = _read_json(folder / _CONFIG_FILE)
    try:
        made = replace(config, **_parse_unet_config(found))
        network = build_meta_unet(made)
        _check_settings(found, dict(network.config), made.latent_channels)
    except ValueError as error:
        raise ValueError(f"{folder / _CONFIG_FILE}: {error}") from error
    with _open_safetensors(folder / _WEIGHTS_FILE) as file:
        _check_tensors(file, network, made.latent_channels)
    return made


def load_inpainting_weights(denoiser: SliceDenoiser, path: Path) -> None:
    """Gives a denoiser of `inpainting_config` the pretrained weights.

    Until it is trained it then predicts, whatever the photograph and the frequency, the noise that
    the pretrained U-Net predicts without mask, masked image and text. Weights of mask and masked
    image are dropped; those of the photograph's features are zeros like the last layer of the
    frequency's embedding: both have gradients from the first step on. Raises ValueError, naming the
    file and the tensor, where the weights are not of this network or not finite.
    """
    latent, places = denoiser.config.latent_channels, denoiser.unet.state_dict()
    with _open_safetensors(_unet_folder(path) / _WEIGHTS_FILE) as file, torch.no_grad():
        _check_tensors(file, denoiser.unet, latent)
        for name in file.keys():  # noqa: SIM118, it is no dict
            tensor = file.get_tensor(name)
            if not torch.isfinite(tensor).all():
                raise ValueError(f"{name} has values that are not finite")
            place = places[name]
            if name == "conv_in.weight":
                place[:, latent:] = 0
                place, tensor = place[:, :latent], tensor[:, :latent]
            place.copy_(tensor.reshape(place.shape))
    nn.init.zeros_(denoiser.unet.class_embedding.linear_2.weight)
    nn.init.zeros_(denoiser.unet.class_embedding.linear_2.bias)


def _unet_folder(path: Path) -> Path:
    """The U-Net's own folder, of a pipeline's or its own."""
    return path / "unet" if (path / "unet").is_dir() else path


def _check_scheduler(path: Path) -> None:
    """Raises ValueError where the pipeline's scheduler says that its U-Net predicts something else
    than noise.
    """
    kind = _read_json(path).get("prediction_type", "epsilon") if path.exists() else "epsilon"
    if kind != "epsilon":
        raise ValueError(f"{path}: prediction_type is {shown(kind)}, expected 'epsilon', the noise")


def _read_json(path: Path) -> dict[str, Any]:
    """Raises ValueError unless it is a regular file of limited size with an object in it."""
    _check_file(path)
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise ValueError(
            f"{path} has {human_size(path.stat().st_size)}, expected settings of at most {human_size(_MAX_CONFIG_BYTES)}"
        )
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {shown(found)}, expected an object")
    return found


def _check_file(path: Path) -> None:
    """Raises ValueError unless there is a regular file, or a link to one."""
    if not path.is_file():
        why = " (a .bin is a pickle, which is not opened)" if path.name == _WEIGHTS_FILE else ""
        raise ValueError(
            f"{path} is no file, expected a folder with {_CONFIG_FILE} and {_WEIGHTS_FILE}{why}, or one with unet/ in it"
        )


def _parse_unet_config(found: dict[str, Any]) -> dict[str, Any]:
    """`PRETRAINED_FIELDS`, of a pretrained configuration. Raises ValueError where one is missing,
    of another type, or too large.
    """
    if found.get("_class_name") != "UNet2DConditionModel":
        raise ValueError(
            f"_class_name is {shown(found.get('_class_name'))}, expected 'UNet2DConditionModel'"
        )
    channels = tuple(
        _require_int(width, "block_out_channels", _MAX_WIDTH)
        for width in _require_list(found, "block_out_channels")
    )
    blocks = _require_list(found, "down_block_types")
    if len(blocks) != len(channels) or not all(
        block in ("CrossAttnDownBlock2D", "DownBlock2D") for block in blocks
    ):
        raise ValueError(
            f"down_block_types is {shown(blocks)}, expected CrossAttnDownBlock2D or DownBlock2D for each of {len(channels)} levels"
        )
    heads = found.get("attention_head_dim")
    heads = heads if isinstance(heads, list) else [heads] * len(channels)
    return dict(
        channels=channels,
        attention_levels=tuple(
            level for level, block in enumerate(blocks) if block == "CrossAttnDownBlock2D"
        ),
        layers_per_block=_require_int(
            found.get("layers_per_block"), "layers_per_block", _MAX_LAYERS
        ),
        head_channels=gcd(
            64, *channels
        ),  # of the attention across frequencies, which a pretrained network does not have
        norm_groups=_require_int(found.get("norm_num_groups"), "norm_num_groups", _MAX_WIDTH),
        text_channels=_require_int(
            found.get("cross_attention_dim"), "cross_attention_dim", _MAX_WIDTH
        ),
        heads=tuple(
            _require_int(number, "attention_head_dim", _MAX_WIDTH)
            for number in heads[: _MAX_LEVELS + 1]
        ),
    )


def _require_list(found: dict[str, Any], name: str) -> list[Any]:
    """One entry for each level. Raises ValueError where it is no list of a believable length."""
    value = found.get(name)
    if not isinstance(value, list) or not 1 <= len(value) <= _MAX_LEVELS:
        raise ValueError(f"{name} is {shown(value)}, expected a list of 1 to {_MAX_LEVELS}")
    return value


def _require_int(value: Any, name: str, most: int) -> int:
    """Raises ValueError unless the value is a whole number from 1 to `most`."""
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"{name} has {shown(value)}, expected a whole number from 1 to {most}")
    return value


def build_meta_unet(config: DenoiserConfig) -> Any:
    """Our U-Net without memory for its weights."""
    with torch.device("meta"):
        return build_unet(config, config.latent_channels, class_embed_type="timestep")


def _check_settings(found: dict[str, Any], ours: dict[str, Any], latent: int) -> None:
    """Raises ValueError naming a setting of the pretrained U-Net that ours has not."""
    expected = json.loads(
        json.dumps(ours | {"in_channels": _inputs(latent), "class_embed_type": None})
    )
    for name, value in found.items():
        if (
            name not in _IGNORED_SETTINGS
            and not name.startswith("_")
            and value != expected.get(name)
        ):
            raise ValueError(
                f"{name} is {shown(value)}, expected {shown(expected.get(name))} of an inpainting U-Net"
            )


def _inputs(latent: int) -> int:
    """Channels that an inpainting U-Net takes: noisy latents, a mask, and latents of the masked
    image.
    """
    return latent + 1 + latent


@contextmanager
def _open_safetensors(path: Path) -> Iterator[Any]:
    """A safetensors file; a ValueError about its content is one about this file."""
    _check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _check_tensors(file: Any, network: Any, latent: int) -> None:
    """Raises ValueError unless the file has all tensors of the U-Net but `OURS`, in their shapes,
    and no other.
    """
    expected = {
        name: list(tensor.shape)
        for name, tensor in network.state_dict().items()
        if not name.startswith(_ADDED_TENSOR_PREFIX)
    }
    expected["conv_in.weight"][1] = _inputs(latent)
    found = set(file.keys())
    for name, shape in expected.items():
        if name not in found:
            raise ValueError(f"there is no {name}, expected one of {shape}")
        piece = file.get_slice(name)
        if piece.get_dtype() not in _FLOAT_DTYPES or piece.get_shape() not in (
            shape,
            _linear_shape(shape),
        ):
            raise ValueError(
                f"{name} is {piece.get_shape()} of {piece.get_dtype()}, expected {shape} of {', '.join(_FLOAT_DTYPES)}"
            )
    if found - expected.keys():
        raise ValueError(
            f"{shown(min(found - expected.keys()))} has no place in the U-Net that {_CONFIG_FILE} describes"
        )


def _linear_shape(shape: list[int]) -> list[int]:
    """That of a linear map, where it is of a convolution of one pixel."""
    return shape[:2] if shape[2:] == [1, 1] else shape
