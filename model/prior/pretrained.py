"""Initial weights of stage 1 from a pretrained inpainting latent diffusion model; in the paper:
"up to 512 x 288 by fine-tuning a pretrained inpainting LDM".

The model is a folder that diffusers' save_pretrained wrote, for the pipeline or its U-Net alone:

    DIR/unet/config.json    a UNet2DConditionModel whose input is 4 noisy latents, 1 mask and 4
                            latents of the masked image
    DIR/unet/diffusion_pytorch_model.safetensors
                            its weights; a .bin is a pickle, which is never opened
    DIR/scheduler/scheduler_config.json
                            says that the noise is predicted; read if it exists

The files are not trusted: numbers have limits, and the shape of every tensor is checked in the
header of the weights before a network is built. Symbolic links are followed, since download caches
consist of them.
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
"""Fields of a DenoiserConfig that a pretrained U-Net determines."""
_MAX_CONFIG_BYTES = 1 << 20
"""Largest file of settings that is read."""
_MAX_LEVELS, _MAX_WIDTH, _MAX_LAYERS = 6, 4096, 4
"""Limits of a U-Net's settings; Stable Diffusion has 4, 1280, 2."""
_IGNORED_SETTINGS = {
    "sample_size",
    "attention_head_dim",
    "use_linear_projection",
    "upcast_attention",
}
"""Settings that are read elsewhere or make no difference: a linear projection is a 1x1 convolution.
"""
_FLOAT_DTYPES = ("F32", "F16", "BF16")
_ADDED_TENSOR_PREFIX = "class_embedding."
"""Prefix of the tensors that a pretrained U-Net does not have: the embedding of the frequency."""


def inpainting_config(path: Path, config: DenoiserConfig) -> DenoiserConfig:
    """`config` with the U-Net of the pretrained model in the folder `path`.

    Only headers are read. Raises ValueError, naming the file and what was expected, unless all
    weights of that U-Net fit into ours.
    """
    if config.prediction != "noise":
        raise ValueError(
            f"prediction is {config.prediction!r}, expected 'noise', which {path} predicts"
        )
    folder = _unet_folder(path)
    _check_scheduler(folder.parent / _SCHEDULER_FILE)
    settings = _read_json(folder / _CONFIG_FILE)
    try:
        result = replace(config, **_parse_unet_config(settings))
        network = build_meta_unet(result)
        _check_settings(settings, dict(network.config), result.latent_channels)
    except ValueError as error:
        raise ValueError(f"{folder / _CONFIG_FILE}: {error}") from error
    with _open_safetensors(folder / _WEIGHTS_FILE) as file:
        _check_tensors(file, network, result.latent_channels)
    return result


def load_inpainting_weights(denoiser: SliceDenoiser, path: Path) -> None:
    """Gives a denoiser of `inpainting_config` the pretrained weights.

    Until it is trained, it then predicts for any photograph and frequency the noise that the
    pretrained U-Net predicts without mask, masked image and text. The weights of mask and masked
    image are dropped; those of the photograph's features are 0, as is the last layer of the
    frequency's embedding: both have gradients from the first step on. Raises ValueError, naming the
    file and the tensor, if the weights are those of another network or not finite.
    """
    latent, own_weights = denoiser.config.latent_channels, denoiser.unet.state_dict()
    with _open_safetensors(_unet_folder(path) / _WEIGHTS_FILE) as file, torch.no_grad():
        _check_tensors(file, denoiser.unet, latent)
        for name in file.keys():  # noqa: SIM118, it is no dict
            tensor = file.get_tensor(name)
            if not torch.isfinite(tensor).all():
                raise ValueError(f"{name} has values that are not finite")
            target = own_weights[name]
            if name == "conv_in.weight":
                target[:, latent:] = 0
                target, tensor = target[:, :latent], tensor[:, :latent]
            target.copy_(tensor.reshape(target.shape))
    nn.init.zeros_(denoiser.unet.class_embedding.linear_2.weight)
    nn.init.zeros_(denoiser.unet.class_embedding.linear_2.bias)


def _unet_folder(path: Path) -> Path:
    """The U-Net's folder, given that of its pipeline or its own."""
    return path / "unet" if (path / "unet").is_dir() else path


def _check_scheduler(path: Path) -> None:
    """Raises ValueError if the pipeline's scheduler says that its U-Net does not predict the
    noise.
    """
    kind = _read_json(path).get("prediction_type", "epsilon") if path.exists() else "epsilon"
    if kind != "epsilon":
        raise ValueError(f"{path}: prediction_type is {shown(kind)}, expected 'epsilon', the noise")


def _read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ValueError unless it is a regular file of limited size with
    one in it.
    """
    _check_file(path)
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise ValueError(
            f"{path} has {human_size(path.stat().st_size)}, "
            f"expected settings of at most {human_size(_MAX_CONFIG_BYTES)}"
        )
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {shown(value)}, expected an object")
    return value


def _check_file(path: Path) -> None:
    """Raises ValueError unless `path` is a regular file, or a link to one."""
    if not path.is_file():
        hint = " (a .bin is a pickle, which is not opened)" if path.name == _WEIGHTS_FILE else ""
        raise ValueError(
            f"{path} is no file, expected a folder with {_CONFIG_FILE} and {_WEIGHTS_FILE}{hint}, "
            "or one with unet/ in it"
        )


def _parse_unet_config(settings: dict[str, Any]) -> dict[str, Any]:
    """The `PRETRAINED_FIELDS` that a pretrained U-Net's settings mean. Raises ValueError if one is
    missing, has another type, or is too large.
    """
    if settings.get("_class_name") != "UNet2DConditionModel":
        raise ValueError(
            f"_class_name is {shown(settings.get('_class_name'))}, expected 'UNet2DConditionModel'"
        )
    channels = tuple(
        _require_int(width, "block_out_channels", _MAX_WIDTH)
        for width in _require_list(settings, "block_out_channels")
    )
    blocks = _require_list(settings, "down_block_types")
    if len(blocks) != len(channels) or not all(
        block in ("CrossAttnDownBlock2D", "DownBlock2D") for block in blocks
    ):
        raise ValueError(
            f"down_block_types is {shown(blocks)}, expected CrossAttnDownBlock2D or DownBlock2D "
            f"for each of {len(channels)} levels"
        )
    heads = settings.get("attention_head_dim")
    heads = heads if isinstance(heads, list) else [heads] * len(channels)
    return dict(
        channels=channels,
        attention_levels=tuple(
            level for level, block in enumerate(blocks) if block == "CrossAttnDownBlock2D"
        ),
        layers_per_block=_require_int(
            settings.get("layers_per_block"), "layers_per_block", _MAX_LAYERS
        ),
        # for the attention across frequencies, which a pretrained network does not have
        head_channels=gcd(64, *channels),
        norm_groups=_require_int(settings.get("norm_num_groups"), "norm_num_groups", _MAX_WIDTH),
        text_channels=_require_int(
            settings.get("cross_attention_dim"), "cross_attention_dim", _MAX_WIDTH
        ),
        heads=tuple(
            _require_int(number, "attention_head_dim", _MAX_WIDTH)
            for number in heads[: _MAX_LEVELS + 1]
        ),
    )


def _require_list(settings: dict[str, Any], name: str) -> list[Any]:
    """A setting with one entry for each level. Raises ValueError unless it is such a list."""
    value = settings.get(name)
    if not isinstance(value, list) or not 1 <= len(value) <= _MAX_LEVELS:
        raise ValueError(f"{name} is {shown(value)}, expected a list of 1 to {_MAX_LEVELS}")
    return value


def _require_int(value: Any, name: str, most: int) -> int:
    """Returns `value`. Raises ValueError unless it is a whole number from 1 to `most`."""
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"{name} has {shown(value)}, expected a whole number from 1 to {most}")
    return value


def build_meta_unet(config: DenoiserConfig) -> Any:
    """The U-Net of a denoiser, without memory for its weights."""
    with torch.device("meta"):
        return build_unet(config, config.latent_channels, class_embed_type="timestep")


def _check_settings(settings: dict[str, Any], own_settings: dict[str, Any], latent: int) -> None:
    """Raises ValueError naming a setting of the pretrained U-Net that differs from ours."""
    expected = own_settings | {"in_channels": _input_channels(latent), "class_embed_type": None}
    expected = json.loads(json.dumps(expected))  # tuples become lists, as in the file
    for name, value in settings.items():
        if name in _IGNORED_SETTINGS or name.startswith("_"):
            continue
        if value != expected.get(name):
            raise ValueError(
                f"{name} is {shown(value)}, expected {shown(expected.get(name))} of an inpainting "
                "U-Net"
            )


def _input_channels(latent: int) -> int:
    """Input channels of an inpainting U-Net: noisy latents, a mask, latents of the masked image."""
    return latent + 1 + latent


@contextmanager
def _open_safetensors(path: Path) -> Iterator[Any]:
    """Opens a safetensors file. Raises ValueError naming the file if its content is wrong, which
    the caller may find, too.
    """
    _check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _check_tensors(file: Any, network: Any, latent: int) -> None:
    """Raises ValueError unless the file has all tensors of the U-Net except the embedding of the
    frequency, in their shapes, and no others.
    """
    expected = {
        name: list(tensor.shape)
        for name, tensor in network.state_dict().items()
        if not name.startswith(_ADDED_TENSOR_PREFIX)
    }
    expected["conv_in.weight"][1] = _input_channels(latent)
    names = set(file.keys())
    for name, shape in expected.items():
        if name not in names:
            raise ValueError(f"there is no {name}, expected one of {shape}")
        tensor = file.get_slice(name)
        # a 1x1 convolution may be stored as a linear map
        allowed = (shape, shape[:2] if shape[2:] == [1, 1] else shape)
        if tensor.get_dtype() not in _FLOAT_DTYPES or tensor.get_shape() not in allowed:
            raise ValueError(
                f"{name} is {tensor.get_shape()} of {tensor.get_dtype()}, "
                f"expected {shape} of {', '.join(_FLOAT_DTYPES)}"
            )
    unknown = names - expected.keys()
    if unknown:
        raise ValueError(
            f"{shown(min(unknown))} has no place in the U-Net that {_CONFIG_FILE} describes"
        )
