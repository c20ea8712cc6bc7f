"""Estimates flow with RAFT (Teed and Deng, ECCV 2020), from one source frame to many targets.

The networks are torchvision's; the computation is arranged for many targets of one source. Features
are computed once per frame. The context is computed once per source, together with its share of the
recurrent unit's convolutions, which no update changes. The flow is upsampled once, after the last
update. The results are those of torchvision's forward, up to float32 rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from pipeline.flow.config import RAFT_TOO_SMALL_PX, FlowConfig
from pipeline.flow.raft_weights import load_network

_STRIDE = 8
"""Pixels per cell of the feature maps."""

_CorrelationPyramid = list[Float32[Tensor, "queries 1 _ _"]]
"""Correlations of each pair and source cell with the target's cells, one tensor per level."""


@dataclass(eq=False)
class _RaftFrame:
    """A prepared frame, on the estimator's device."""

    image: UInt8[Tensor, "height width 3"]
    features: Float32[Tensor, "channels cells"]
    """The feature map and its averages over 2, 4 and 8 cells a side, flattened and concatenated."""
    context: Float[Tensor, "1 channels rows columns"] | None = None
    """Initial hidden state, then the context's terms of each recurrent unit; computed when the
    frame is first a source.
    """


class _BatchEnd(NamedTuple):
    """The last pair of a batch, from which a warm start goes on."""

    source: _RaftFrame
    flow: Float32[Tensor, "1 2 rows columns"]
    hidden: Float[Tensor, "1 channels rows columns"]


class Raft:
    """A `FlowEstimator` with raft_small or raft_large. Raises ValueError if code, weights or device
    are missing.
    """

    def __init__(self, config: FlowConfig):
        self.config = config
        self.device = _find_device(config.device)
        loaded, self.weights_digest = load_network(config)
        network: Any = loaded.to(self.device)
        self.feature_encoder = network.feature_encoder
        self.context_encoder = network.context_encoder
        self.levels = network.corr_block.num_levels
        self.mask_predictor = network.mask_predictor
        self.update = _FlowUpdate(network).to(self.device)
        self.batch_end: _BatchEnd | None = None
        if config.compile:
            for module in (self.feature_encoder, self.context_encoder, self.update):
                module.compile()

    def description(self) -> dict[str, Any]:
        return describe_raft(self.config, self.weights_digest)

    @torch.inference_mode()
    def prepare(self, images: Sequence[UInt8[np.ndarray, "height width 3"]]) -> list[_RaftFrame]:
        """Raises ValueError for images too small for the correlations' four levels."""
        batch = self.config.pairs_per_batch
        return [
            frame
            for i in range(0, len(images), batch)
            for frame in self._prepare_batch(images[i : i + batch])
        ]

    def _prepare_batch(
        self, images: Sequence[UInt8[np.ndarray, "height width 3"]]
    ) -> list[_RaftFrame]:
        height, width = images[0].shape[:2]
        if min(height, width) <= RAFT_TOO_SMALL_PX:
            raise ValueError(
                f"the size is {width}x{height}, "
                f"expected more than {RAFT_TOO_SMALL_PX} pixels a side for RAFT"
            )
        pixels = torch.from_numpy(np.stack(images))
        if self.device == "cuda":
            pixels = pixels.pin_memory().to(self.device, non_blocking=True)
        with self._autocast():
            features = self.feature_encoder(_to_network_input(pixels))
        levels = [features.float()]
        for _ in range(self.levels - 1):
            levels.append(F.avg_pool2d(levels[-1], 2))
        flat = torch.cat([level.flatten(2) for level in levels], 2)
        return [_RaftFrame(*frame) for frame in zip(pixels, flat, strict=True)]

    @torch.inference_mode()
    def displace(
        self, pairs: Sequence[tuple[_RaftFrame, _RaftFrame]]
    ) -> Float32[Tensor, "pairs 2 height width"]:
        size = self.config.pairs_per_batch
        batches = (pairs[i : i + size] for i in range(0, len(pairs), size))
        flows = torch.cat([self._displace_batch(*zip(*batch, strict=True)) for batch in batches])
        for flow, (source, target) in zip(flows, pairs, strict=True):
            if source is target:
                flow.zero_()
        return flows

    def _displace_batch(
        self, sources: Sequence[_RaftFrame], targets: Sequence[_RaftFrame]
    ) -> Float32[Tensor, "pairs 2 height width"]:
        height, width = sources[0].image.shape[:2]
        left, _, top, _ = _cell_padding(height, width)
        distinct = sources[:1] if all(source is sources[0] for source in sources) else sources
        hidden, *terms = self._contexts(distinct).split(self.update.context_sizes, 1)
        volumes = _correlations(distinct, targets, hidden.shape[2:], self.levels)
        flow, hidden = self._initial_state(sources, hidden)
        with self._autocast():
            for _ in range(self.config.updates):
                flow, hidden = self.update(flow, hidden, volumes, terms)
            self.batch_end = (
                _BatchEnd(sources[-1], flow[-1:], hidden[-1:]) if self.config.warm_start else None
            )
            return self._upsample(flow, hidden)[..., top : top + height, left : left + width]

    def _contexts(
        self, sources: Sequence[_RaftFrame]
    ) -> Float[Tensor, "sources channels rows columns"]:
        for source in sources:
            if source.context is None:
                with self._autocast():
                    source.context = self.update.contexts(
                        self.context_encoder(_to_network_input(source.image[None]))
                    )
        return torch.cat([source.context for source in sources if source.context is not None])

    def _initial_state(
        self, sources: Sequence[_RaftFrame], hidden: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Flow and hidden state before the first update: those of the last batch if it had the same
        source and the start is warm.
        """
        flow = torch.zeros_like(hidden[:, :2], dtype=torch.float32)
        if (
            self.config.warm_start
            and self.batch_end
            and all(source is self.batch_end.source for source in sources)
        ):
            _, flow, hidden = self.batch_end
        return flow.expand(len(sources), -1, -1, -1), hidden.expand(len(sources), -1, -1, -1)

    def _upsample(
        self, flow: Float32[Tensor, "pairs 2 rows columns"], hidden: Tensor
    ) -> Float32[Tensor, "pairs 2 height width"]:
        """Flow at full resolution, padding included. The weights of the 9 cells around are learned
        if the network has a mask predictor, and bilinear otherwise.
        """
        if self.mask_predictor is None:
            return _STRIDE * F.interpolate(
                flow, scale_factor=_STRIDE, mode="bilinear", align_corners=True
            )
        return _convex_upsampling(flow, self.mask_predictor(hidden).float())

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device, torch.bfloat16, enabled=self.config.precision == "bfloat16"
        )


class _FlowUpdate(nn.Module):
    """One refinement of the flow: looks up the correlations where it points, and corrects it."""

    def __init__(self, network: Any):
        super().__init__()
        block, recurrent = network.update_block, network.update_block.recurrent_block
        units = [
            unit for unit in (recurrent.convgru1, recurrent.convgru2) if isinstance(unit, nn.Module)
        ]
        self.radius = network.corr_block.radius
        self.motion_encoder, self.flow_head = block.motion_encoder, block.flow_head
        self.units: Any = nn.ModuleList(
            _RecurrentUnit(unit, block.motion_encoder.out_channels) for unit in units
        )
        self.context_sizes = [block.hidden_state_size] + [3 * block.hidden_state_size] * len(units)

    def contexts(
        self, encoded: Float[Tensor, "sources channels rows columns"]
    ) -> Float[Tensor, "sources terms rows columns"]:
        """Initial hidden state and each unit's terms, from the context encoder's output; their
        sizes are `context_sizes`.
        """
        hidden, context = encoded.split(
            [self.context_sizes[0], encoded.shape[1] - self.context_sizes[0]], 1
        )
        context = F.relu(context)
        return torch.cat([torch.tanh(hidden), *(unit.terms(context) for unit in self.units)], 1)

    def forward(
        self, flow: Tensor, hidden: Tensor, volumes: _CorrelationPyramid, terms: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Flow [pairs, 2, rows, columns] in cells, and the hidden state, after one update.

        The terms of one source serve all its pairs.
        """
        motion = self.motion_encoder(flow, _look_up_correlations(volumes, flow, self.radius))
        for unit, term in zip(self.units, terms, strict=True):
            hidden = unit(hidden, motion, term)
        return flow + self.flow_head(hidden).float(), hidden


class _RecurrentUnit(nn.Module):
    """A convolutional GRU. Its convolutions of (hidden, context, motion) are split, so that the
    context's part is computed once.
    """

    context: Tensor
    bias: Tensor
    gates: Tensor
    candidate: Tensor

    def __init__(self, unit: Any, motion: int):
        super().__init__()
        convolutions = (unit.convz, unit.convr, unit.convq)
        weight = torch.cat([convolution.weight for convolution in convolutions])
        self.hidden, self.padding = unit.convz.out_channels, unit.convz.padding
        hidden, context, moving = weight.split(
            [self.hidden, weight.shape[1] - self.hidden - motion, motion], 1
        )
        gates, candidate = torch.cat([hidden, moving], 1).split([2 * self.hidden, self.hidden])
        self.register_buffer("context", context.contiguous())
        self.register_buffer("bias", torch.cat([convolution.bias for convolution in convolutions]))
        self.register_buffer("gates", gates.contiguous())
        self.register_buffer("candidate", candidate.contiguous())

    def terms(
        self, context: Float[Tensor, "sources channels rows columns"]
    ) -> Float[Tensor, "sources terms rows columns"]:
        """The context's addends to update gate, reset gate and candidate, before their
        nonlinearities.
        """
        return F.conv2d(context, self.context, self.bias, padding=self.padding)

    def forward(self, hidden: Tensor, motion: Tensor, terms: Tensor) -> Tensor:
        gates, candidate = terms.split([2 * self.hidden, self.hidden], 1)
        gates = torch.sigmoid(
            gates + F.conv2d(torch.cat([hidden, motion], 1), self.gates, padding=self.padding)
        )
        update, reset = gates.chunk(2, 1)
        candidate = torch.tanh(
            candidate
            + F.conv2d(torch.cat([reset * hidden, motion], 1), self.candidate, padding=self.padding)
        )
        return hidden + update * (candidate - hidden)


def describe_raft(config: FlowConfig, weights: str) -> dict[str, Any]:
    """All settings that decide the results of a network whose weights have that SHA-256 (hex)."""
    names = (
        "flow",
        "networks",
        "updates",
        "pairs_per_batch",
        "device",
        "precision",
        "compile",
        "warm_start",
    )
    return {name: getattr(config, name) for name in names} | {"weights": weights}


def _find_device(name: str) -> str:
    """The device's name. Raises ValueError if there is no such device.

    On the CPU torch gets one thread, since work is spread over processes.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device is cuda, but no CUDA device was found; --device cpu runs RAFT on the CPU"
        )
    if name == "cpu":
        torch.set_num_threads(1)
    return name


def _cell_padding(height: int, width: int) -> tuple[int, int, int, int]:
    """Pixels to add left, right, above and below for whole cells: half of them on each side, as
    RAFT's authors do.
    """
    across, down = -width % _STRIDE, -height % _STRIDE
    return across // 2, across - across // 2, down // 2, down - down // 2


def _to_network_input(
    images: UInt8[Tensor, "n height width 3"],
) -> Float32[Tensor, "n 3 rows columns"]:
    """The images in the range -1 to 1, padded to whole cells by repeating the edge."""
    pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    return F.pad(pixels, _cell_padding(*images.shape[1:3]), mode="replicate")


def _correlations(
    sources: Sequence[_RaftFrame], targets: Sequence[_RaftFrame], size: Sequence[int], levels: int
) -> _CorrelationPyramid:
    """Correlations of each source cell's features with those of all target cells, at each level.
    `sources` is one frame for all targets, or one for each.

    The features are averaged, not the volume as in the paper: averages are linear, and those of a
    frame are computed once.
    """
    rows, columns = size
    source_features = torch.stack([frame.features[:, : rows * columns] for frame in sources])
    volume = source_features.mT @ torch.stack([frame.features for frame in targets])
    sizes = [(rows >> level, columns >> level) for level in range(levels)]
    parts = (volume / sources[0].features.shape[0] ** 0.5).split([h * w for h, w in sizes], 2)
    return [part.reshape(-1, 1, h, w) for part, (h, w) in zip(parts, sizes, strict=True)]


def _look_up_correlations(
    volumes: _CorrelationPyramid, flow: Float32[Tensor, "pairs 2 rows columns"], radius: int
) -> Float32[Tensor, "pairs channels rows columns"]:
    """Correlations at the (2 radius + 1)^2 whole offsets around the place that the flow points to,
    at each level; 0 outside the image.
    """
    pairs, _, rows, columns = flow.shape
    x = (flow[:, 0] + torch.arange(columns, device=flow.device)).flatten()
    y = (flow[:, 1] + torch.arange(rows, device=flow.device)[:, None]).flatten()
    steps = torch.arange(-radius, radius + 1, device=flow.device)
    correlations = []
    for level, volume in enumerate(volumes):
        # the size of a cell, since grid_sample counts from -1 to 1
        across, down = 2 / (volume.shape[3] - 1), 2 / (volume.shape[2] - 1)
        centers = torch.stack([x * (across / 2**level) - 1, y * (down / 2**level) - 1], 1)
        offsets = torch.stack(torch.meshgrid(steps * across, steps * down, indexing="ij"), 2)
        samples = F.grid_sample(volume, centers[:, None, None] + offsets, align_corners=True)
        correlations.append(samples.view(pairs, rows, columns, -1))
    return torch.cat(correlations, 3).permute(0, 3, 1, 2)


def _convex_upsampling(
    flow: Float32[Tensor, "pairs 2 rows columns"],
    mask: Float32[Tensor, "pairs weights rows columns"],
) -> Float32[Tensor, "pairs 2 height width"]:
    """Each pixel's flow as a convex combination of the 3 x 3 cells around its own (RAFT, appendix
    B).
    """
    pairs, _, rows, columns = flow.shape
    weights = mask.view(pairs, 9, _STRIDE, _STRIDE, rows, columns).softmax(1)
    cells = F.unfold(_STRIDE * flow, 3, padding=1).view(pairs, 2, 9, rows, columns)
    return torch.einsum("nkijhw,nckhw->nchiwj", weights, cells).reshape(
        pairs, 2, _STRIDE * rows, _STRIDE * columns
    )
