"""The classes and functions of diffusers that are used, imported in one place.

The import fails if torchvision's compiled part does not match torch. `pipeline.torchvision_import`
repairs that, so it has to come first.
"""

from typing import Any

from pipeline import torchvision_import

from diffusers.models.autoencoders import autoencoder_kl  # isort: skip
from diffusers.models.embeddings import get_timestep_embedding  # isort: skip
from diffusers.models.resnet import ResnetBlock2D  # isort: skip
from diffusers.models.unets import unet_2d, unet_2d_condition  # isort: skip
from diffusers.schedulers.scheduling_ddim import DDIMScheduler  # isort: skip

__all__ = [
    "AutoencoderKL",
    "DDIMScheduler",
    "ResnetBlock2D",
    "UNet2DConditionModel",
    "UNet2DModel",
    "check_widths",
    "get_timestep_embedding",
    "torchvision_import",
]

# Any, since their annotations are narrower than what they accept
AutoencoderKL: Any = autoencoder_kl.AutoencoderKL
UNet2DModel: Any = unet_2d.UNet2DModel
UNet2DConditionModel: Any = unet_2d_condition.UNet2DConditionModel


def check_widths(channels: tuple[int, ...], norm_groups: int, name: str = "channels") -> None:
    """Raises ValueError unless there is at least one level and the groups of the normalization
    divide the width of each.
    """
    if (
        norm_groups < 1
        or not channels
        or any(width < 1 or width % norm_groups for width in channels)
    ):
        raise ValueError(
            f"{name} are {channels}, expected multiples of the {norm_groups} norm groups"
        )
