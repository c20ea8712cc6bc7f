"""How near a made picture is to the true one: pure functions of pictures in 0 to 1."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import conv2d

_SSIM_WINDOW, _SSIM_SIGMA = 11, 1.5
"""Of SSIM's Gaussian, pixels (Wang et al. 2004)."""
_K1, _K2 = 0.01, 0.03


def psnr(
    made: Float[Tensor, "batch 3 height width"], true: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, " batch"]:
    """Peak signal-to-noise ratio of each picture, dB; infinite where both are the same."""
    return -10 * (made - true).square().mean(dim=(1, 2, 3)).log10()


def ssim(
    made: Float[Tensor, "batch 3 height width"], true: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, " batch"]:
    """Structural similarity of each picture, -1 to 1, over all windows that lie wholly inside it
    (Wang et al. 2004, equation 13).

    In float32. Raises ValueError for a picture smaller than the window, 11 pixels.
    """
    height, width = true.shape[-2:]
    if min(height, width) < _SSIM_WINDOW:
        raise ValueError(
            f"the picture is {width}x{height}, expected at least {_SSIM_WINDOW}x{_SSIM_WINDOW} for SSIM"
        )
    x, y = (one.float() for one in (made, true))
    means = _gaussian_blur(torch.stack([x, y, x * x, y * y, x * y]).flatten(0, 1)).unflatten(
        0, (5, len(x))
    )
    mx, my, xx, yy, xy = means
    structure = (2 * (xy - mx * my) + _K2**2) / (xx - mx * mx + yy - my * my + _K2**2)
    return ((2 * mx * my + _K1**2) / (mx * mx + my * my + _K1**2) * structure).mean(dim=(1, 2, 3))


def frame_psnr_ssim(
    made: UInt8[np.ndarray, "time height width 3"], true: UInt8[np.ndarray, "time height width 3"]
) -> tuple[Float[np.ndarray, " time"], Float[np.ndarray, " time"]]:
    """PSNR, dB, and SSIM of each frame of a video. Raises ValueError as `ssim`."""
    pair = [
        torch.from_numpy(np.ascontiguousarray(np.moveaxis(one, -1, 1))).float() / 255
        for one in (made, true)
    ]
    return psnr(*pair).numpy(), ssim(*pair).numpy()


def _gaussian_blur(x: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 h w"]:
    """By SSIM's Gaussian, where it fits in."""
    with torch.autocast(x.device.type, enabled=False):
        line = torch.exp(
            -(torch.arange(_SSIM_WINDOW, device=x.device) - _SSIM_WINDOW // 2).square()
            / (2 * _SSIM_SIGMA**2)
        )
        line = (line / line.sum()).expand(3, 1, 1, _SSIM_WINDOW)
        return conv2d(conv2d(x, line, groups=3), line.mT, groups=3)
