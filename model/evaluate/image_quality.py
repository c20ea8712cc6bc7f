"""PSNR and SSIM of generated pictures and video frames: pure functions."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import conv2d

MAX_PSNR_DB = 100.0
"""What evaluations report for equal frames: more than the PSNR of any two frames of up to 500 x 300
pixels that differ at all.
"""
_SSIM_WINDOW, _SSIM_SIGMA = 11, 1.5
"""Width and standard deviation of SSIM's Gaussian, pixels (Wang et al. 2004)."""
_K1, _K2 = 0.01, 0.03
_BATCH_FRAMES = 16
"""Frames that are compared at once."""


def psnr(
    generated: Float[Tensor, "batch 3 height width"], true: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, " batch"]:
    """Peak signal-to-noise ratio of each picture, dB; infinite for equal pictures."""
    return -10 * (generated - true).square().mean(dim=(1, 2, 3)).log10()


def ssim(
    generated: Float[Tensor, "batch 3 height width"], true: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, " batch"]:
    """Structural similarity of each picture, -1 to 1, over all windows that lie entirely inside it
    (Wang et al. 2004, equation 13).

    Computes in float32. Raises ValueError for a picture smaller than the window, 11 pixels.
    """
    height, width = true.shape[-2:]
    if min(height, width) < _SSIM_WINDOW:
        raise ValueError(
            f"the picture is {width}x{height}, expected at least {_SSIM_WINDOW}x{_SSIM_WINDOW} for "
            "SSIM"
        )
    x, y = generated.float(), true.float()
    moments = torch.stack([x, y, x * x, y * y, x * y])
    mx, my, xx, yy, xy = _gaussian_blur(moments.flatten(0, 1)).unflatten(0, (5, len(x)))
    structure = (2 * (xy - mx * my) + _K2**2) / (xx - mx * mx + yy - my * my + _K2**2)
    return ((2 * mx * my + _K1**2) / (mx * mx + my * my + _K1**2) * structure).mean(dim=(1, 2, 3))


def _gaussian_blur(x: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 h w"]:
    """Pictures blurred by SSIM's Gaussian, without a border around them."""
    with torch.autocast(x.device.type, enabled=False):
        line = torch.exp(
            -(torch.arange(_SSIM_WINDOW, device=x.device) - _SSIM_WINDOW // 2).square()
            / (2 * _SSIM_SIGMA**2)
        )
        line = (line / line.sum()).expand(3, 1, 1, _SSIM_WINDOW)
        return conv2d(conv2d(x, line, groups=3), line.mT, groups=3)


def frame_psnr_ssim(
    generated: UInt8[np.ndarray, "time height width 3"],
    true: UInt8[np.ndarray, "time height width 3"],
) -> tuple[Float[np.ndarray, " time"], Float[np.ndarray, " time"]]:
    """PSNR, dB, and SSIM of each frame of a video. Raises ValueError as `ssim` does."""
    batches = []
    for i in range(0, len(true), _BATCH_FRAMES):
        pair = [
            torch.from_numpy(np.ascontiguousarray(np.moveaxis(frames, -1, 1))).float() / 255
            for frames in (generated[i : i + _BATCH_FRAMES], true[i : i + _BATCH_FRAMES])
        ]
        batches.append((psnr(*pair).numpy(), ssim(*pair).numpy()))
    psnr_db, similarity = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return psnr_db, similarity
