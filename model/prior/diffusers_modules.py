"""What diffusers lends, imported in one place.

Its import fails where torchvision's compiled part does not match torch.
`pipeline.torchvision_import` mends that, so it has to come first.
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

# their annotations are narrower than what they take
AutoencoderKL: Any = autoencoder_kl.AutoencoderKL
UNet2DModel: Any = unet_2d.UNet2DModel
UNet2DConditionModel: Any = unet_2d_condition.UNet2DConditionModel


def check_widths(channels: tuple[int, ...], norm_groups: int, name: str = "channels") -> None:
    """Raises ValueError unless there are levels, and the groups of the normalisation divide the
    width of each.
    """
    if (
        norm_groups < 1
        or not channels
        or any(width < 1 or width % norm_groups for width in channels)
    ):
        raise ValueError(
            f"{name} are {channels}, expected multiples of the {norm_groups} norm groups"
        )
