"""Splatting, or forward warping: moves features along a flow and blends what lands on the same
pixel.

One definition (docs/design/maths.md, 15 and 16), two implementations: plain torch on any device,
and on the CPU a compiled kernel (`splatting_cpu.py`), several times as fast. They agree up to
rounding. On the CPU each gives the same bits in every run, the kernel for any number of threads;
plain torch on a GPU adds in an order that varies.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import grid_sample

from model.render.splatting_cpu import (
    MIN_SHARE,
    SPLAT_MODES,
    SplatMode,
    load_kernel,
    splat_compiled,
)


class _SplatResult(NamedTuple):
    """Splatted features, and where none has arrived."""

    features: Float[Tensor, "batch channels height width"]
    """0 in holes."""
    holes: Bool[Tensor, "batch 1 height width"]
    """Pixels to which nothing of a weight over 0 has come."""


def splat(
    features: Float[Tensor, "batch channels height width"],
    flow: Float[Tensor, "batch 2 height width"],
    mode: SplatMode = "softmax",
    metric: Float[Tensor, "batch 1 height width"] | None = None,
) -> _SplatResult:
    """Moves the features of each pixel by its flow (pixels, x to the right, y down) and distributes
    them bilinearly to the four pixels around the place where they land (docs/design/maths.md, 15
    and 16).

    "sum" adds up what arrives at a pixel. The other modes take a weighted mean: "average" by the
    bilinear shares alone; "linear" by shares times the metric, which is at least 0; "softmax" by
    shares times exp(metric), for any range of the metric, so that a larger metric is in front.
    Features of metric -inf are never seen in "softmax", nor those of metric 0 in "linear". What
    lands outside the picture is dropped, and so are features whose flow is not finite.

    Differentiable once with respect to features, flow and metric. Computes in float32, or in
    float64 if the features are float64; the result has the type of the features. Raises ValueError
    if sizes do not fit, the mode is unknown, or a metric is missing or has no use in the mode.
    """
    _check_splat_inputs(features, flow, mode, metric)
    dtype = torch.promote_types(features.dtype, torch.float32)
    metric = None if metric is None else metric.to(dtype)
    inputs = (features.to(dtype), flow.to(dtype), mode, metric)
    compiled = features.device.type == "cpu" and load_kernel()
    splatted, holes = splat_compiled(*inputs) if compiled else splat_torch(*inputs)
    return _SplatResult(splatted.to(features.dtype), holes)


def splat_lost_detail(
    features: Float[Tensor, "batch channels height width"],
    splatted: Float[Tensor, "batch channels height width"],
    flow: Float[Tensor, "batch 2 height width"],
    metric: Float[Tensor, "batch 1 height width"],
    inside: Float[Tensor, "batch 1 height width"] | None = None,
) -> Float[Tensor, "batch channels height width"]:
    """The detail that softmax splatting has smoothed away (docs/design/maths.md, 29).

    `splatted` are the features after splatting. They are read where the flow took each feature; its
    difference from what is read there is the lost detail, which is splatted too. Only pixels of
    `splatted` for which `inside` is 1, not 0, are read.
    """
    height, width = flow.shape[2:]
    x, y = (
        flow[:, 0] + torch.arange(width, device=flow.device),
        flow[:, 1] + torch.arange(height, device=flow.device)[:, None],
    )
    at = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    valid = torch.ones_like(metric) if inside is None else inside
    sampled = grid_sample(
        torch.cat([splatted * valid, valid.to(splatted.dtype)], dim=1),
        at,
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    return splat(
        features - sampled[:, :-1] / sampled[:, -1:].clamp(min=MIN_SHARE), flow, "softmax", metric
    ).features


def _check_splat_inputs(features: Tensor, flow: Tensor, mode: str, metric: Tensor | None) -> None:
    """Raises ValueError if `splat` cannot take these."""
    if mode not in SPLAT_MODES:
        raise ValueError(f"mode is {mode!r}, expected one of {', '.join(SPLAT_MODES)}")
    if features.ndim != 4 or not all(x.is_floating_point() for x in (features, flow)):
        raise ValueError(
            f"features are {list(features.shape)} {features.dtype}, flow {flow.dtype}, "
            "expected [batch, channels, height, width] of real numbers"
        )
    batch, _, height, width = features.shape
    _check_like_features("flow", flow, features, (batch, 2, height, width))
    if (metric is not None) != (mode in ("linear", "softmax")):
        raise ValueError(
            f"metric is {'missing' if metric is None else 'given'} in mode {mode!r}, "
            "expected one in linear and softmax only"
        )
    if metric is not None:
        _check_like_features("metric", metric, features, (batch, 1, height, width))
        if mode == "linear" and bool((metric < 0).any()):
            raise ValueError(
                f"metric is {float(metric.min()):g} at its smallest, expected at least 0 in mode "
                "'linear'"
            )


def _check_like_features(
    name: str, tensor: Tensor, features: Tensor, shape: tuple[int, ...]
) -> None:
    """Raises ValueError unless a tensor has this shape and is on the device of the features."""
    if tensor.shape != shape or tensor.device != features.device:
        raise ValueError(
            f"{name} is {list(tensor.shape)} on {tensor.device}, expected {list(shape)} on "
            f"{features.device}, as the features are"
        )


def splat_torch(
    features: Float[Tensor, "batch channels height width"],
    flow: Float[Tensor, "batch 2 height width"],
    mode: SplatMode,
    metric: Float[Tensor, "batch 1 height width"] | None,
) -> tuple[Float[Tensor, "batch channels height width"], Bool[Tensor, "batch 1 height width"]]:
    """`splat` in plain torch; all tensors have one dtype."""
    size = features.shape[2:]
    at, share = _find_targets(flow)
    weight, holes = _compute_weights(at, share, mode, None if metric is None else metric.flatten(2))
    splatted = _scatter_features(features.flatten(2), at, weight)
    return splatted.unflatten(2, size), holes.unflatten(2, size)


def _find_targets(
    flow: Float[Tensor, "batch 2 height width"],
) -> tuple[Int64[Tensor, "batch 4 pixels"], Float[Tensor, "batch 4 pixels"]]:
    """The four targets of each pixel, as indices by rows, and its bilinear share in each. A target
    outside the picture, or with a negligible share, is index `pixels` with share 0.
    """
    height, width = flow.shape[2:]
    x = flow[:, 0] + torch.arange(width, device=flow.device)
    y = flow[:, 1] + torch.arange(height, device=flow.device)[:, None]
    # False for NaN, which must not reach the products below: 0 times NaN is not 0.
    inside = (x > -1) & (x < width) & (y > -1) & (y < height)
    x, y = x.where(inside, -2), y.where(inside, -2)
    left, top = x.detach().floor(), y.detach().floor()
    right, below = x - left, y - top
    left, top = left.long(), top.long()
    places, shares = [], []
    for row, v in ((top, 1 - below), (top + 1, below)):
        for column, u in ((left, 1 - right), (left + 1, right)):
            lands = (
                (column >= 0)
                & (column < width)
                & (row >= 0)
                & (row < height)
                & (u * v >= MIN_SHARE)
            )
            places.append((row * width + column).where(lands, height * width))
            shares.append((u * v).where(lands, 0))
    return torch.stack(places, 1).flatten(2), torch.stack(shares, 1).flatten(2)


def _compute_weights(
    at: Int64[Tensor, "batch 4 pixels"],
    share: Float[Tensor, "batch 4 pixels"],
    mode: SplatMode,
    metric: Float[Tensor, "batch 1 pixels"] | None,
) -> tuple[Float[Tensor, "batch 4 pixels"], Bool[Tensor, "batch 1 pixels"]]:
    """The weight of a pixel's features at each of its targets, and which targets are holes."""
    batch, _, pixels = share.shape
    places = at.flatten(1)
    if metric is None:
        weight = share
    else:
        factor = _softmax_factor(places, metric.expand_as(share)) if mode == "softmax" else metric
        weight = (share * factor).where(at < pixels, 0)
    total = share.new_zeros(batch, pixels + 1).scatter_add(1, places, weight.flatten(1))
    holes = (total == 0)[:, None, :-1]
    if mode == "sum":
        return weight, holes
    # At a hole a share is 0 / inf: 0, and so is its gradient.
    divisor = total.masked_fill(total == 0, torch.inf).gather(1, places).view_as(weight)
    return weight / divisor, holes


def _softmax_factor(
    places: Int64[Tensor, "batch corners"], metric: Float[Tensor, "batch 4 pixels"]
) -> Float[Tensor, "batch 4 pixels"]:
    """exp(metric) divided by the largest at the same target: the divisor cancels out, and the
    largest is always 1 (docs/design/maths.md, 16).
    """
    lowest = metric.new_full((len(metric), metric.shape[2] + 1), torch.finfo(metric.dtype).min)
    largest = lowest.scatter_reduce(1, places, metric.detach().flatten(1), "amax")
    return (metric - largest.gather(1, places).view_as(metric)).exp()


def _scatter_features(
    features: Float[Tensor, "batch channels pixels"],
    at: Int64[Tensor, "batch 4 pixels"],
    weight: Float[Tensor, "batch 4 pixels"],
) -> Float[Tensor, "batch channels pixels"]:
    """The sums of weight times features at the targets. In memory the channels of a pixel are
    adjacent, since they go to the same target.
    """
    batch, channels, pixels = features.shape
    rows = features.transpose(1, 2).contiguous()
    places = at + (pixels + 1) * torch.arange(batch, device=at.device)[:, None, None]
    sums = rows.new_zeros(batch * (pixels + 1), channels)
    for k in range(4):
        sums.index_add_(0, places[:, k].flatten(), (rows * weight[:, k, :, None]).flatten(0, 1))
    return sums.unflatten(0, (batch, pixels + 1))[:, :-1].transpose(1, 2).contiguous()
