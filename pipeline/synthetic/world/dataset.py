"""Samples of scenes, written by the rules of an extraction (pipeline/extract/build_shard.py): the
same plan, shards, commits, measures and derived files, but no video, decoder or optical flow.

A scene is one clip of one window. The picture as it is painted is the start frame, and the
displacement of each of its pixels is known at every instant.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from threadpoolctl import threadpool_limits

from pipeline.dataset.commit import ShardDraft
from pipeline.dataset.folder import Dataset
from pipeline.extract.build_shard import WindowResult
from pipeline.extract.config import KNOWN_FLOW, BuildConfig, to_contract
from pipeline.extract.frame_stream import PreparedFrame
from pipeline.extract.plan import plan_rows
from pipeline.extract.plan_clip import PlannedClip, choose_split
from pipeline.extract.timing import ShardTimer, ShardTiming
from pipeline.extract.window import (
    WindowMotion,
    choose_pair_frames,
    make_kept_row,
    make_sample,
    round_measures,
)
from pipeline.filters.motion import measure_motion
from pipeline.motion.spectrum import BLOCK_FRAMES, RunningSpectrum
from pipeline.synthetic.render import ASPECT, MARGIN, Layer, Scene, pixel_centers, render_frame
from pipeline.synthetic.world.scenes import make_scene
from schemas.clip import Clip, Window
from schemas.outcome import WindowOutcome
from schemas.records import PlanRow
from schemas.run_contract import contract_provenance
from schemas.sample import sample_key

_TEXELS_PER_PIXEL = 1.5
_KNOWN_FLOW = {"flow": KNOWN_FLOW, "scenes": 1}
"""The flow of the run contract; `scenes` counts the changes of how scenes are painted."""
_STILL_MEASURES = dict(
    cut_correlation=1.0,
    cut_histogram=0.0,
    light_change=0.0,
    contrast_change=0.0,
    frozen_share=0.0,
    unexplained_share=0.0,
    inconsistent_share=0.0,
)
"""What the filters would measure on a video without cuts, fades and errors of flow."""


def plan_scenes(kinds: Sequence[str], count: int, seed: int, config: BuildConfig) -> list[PlanRow]:
    """The plan of `count` scenes, which takes the kinds in turn. Each counts as a clip that nobody
    but Quiver made.
    """
    clips = []
    for i in range(count):
        kind, number = kinds[i % len(kinds)], seed * 1_000_000 + i
        name = f"{kind}-{number:09d}"
        source = f"quiver-scenes/{name}"
        clip = Clip(uri=f"scene:{kind}:{number}", clip_id=name, licence="CC0-1.0", source=source)
        clips.append(
            PlannedClip(
                clip=clip,
                clip_id=name,
                split=choose_split(source, config.plan.test_fraction),
                sha256=None,
                bytes=None,
                duration_s=config.plan.frames / config.plan.fps,
                windows=(Window(key=sample_key(name, 0), start_frame=0, start_time_s=0.0),),
            )
        )
    return plan_rows(clips, config.plan)


def scene_contract(config: BuildConfig) -> dict[str, Any]:
    """The settings of a dataset of scenes, as the run contract holds them."""
    return to_contract(config) | {"flow": _KNOWN_FLOW}


def build_scene_shard(
    dataset: Dataset, shard: str, rows: Sequence[PlanRow], config: BuildConfig
) -> tuple[list[WindowOutcome], ShardTiming]:
    """Paints and commits one shard of the plan."""
    cv2.setNumThreads(1)
    timer = ShardTimer()
    draft = ShardDraft(dataset, shard, config.frequencies, contract_provenance(dataset.contract()))
    outcomes = []
    try:
        with threadpool_limits(1, "blas"):
            for row in rows:
                result = build_scene_window(row, config)
                draft.add(result.row, result.sample, result.strip)
                outcomes.append(WindowOutcome(result.row.key, result.row.outcome))
        draft.commit()
        return outcomes, timer.timing()
    finally:
        draft.discard()


def build_scene_window(row: PlanRow, config: BuildConfig) -> WindowResult:
    """Paints the scene of a row and makes its sample."""
    _, kind, number = row.uri.split(":")
    scene = make_scene(kind, int(number), round(_TEXELS_PER_PIXEL * config.size[0]))
    frames, motion = _paint_frames(scene, str(row.key), config), _known_motion(scene, config)
    measures = round_measures(
        _STILL_MEASURES
        | dict(frame_rate=config.plan.fps, longest_gap_s=1 / config.plan.fps)
        | measure_motion(motion.sums.weight(), motion.coarse_motion, motion.confidence)
    )
    kept_row = make_kept_row(str(row.key), measures, motion)
    sample = make_sample(
        row,
        frames,
        motion,
        measures,
        config,
        decoder="none",
        decoder_reason="a procedural scene has no video",
        flow=_KNOWN_FLOW,
        scene={"kind": kind, "seed": int(number)},
    )
    return WindowResult(kept_row, sample)


def check_size(size: tuple[int, int]) -> None:
    """Raises ValueError if `size` (width, height) is higher than a picture of that width."""
    width, height = size
    if height > round(width * ASPECT):
        raise ValueError(
            f"size is {width}x{height}, expected at most {width}x{round(width * ASPECT)}"
        )


def _full_size(size: tuple[int, int]) -> tuple[tuple[int, int], slice]:
    """The size of the whole picture at the width of `size`, and the middle rows that are kept.

    Raises ValueError as `check_size`.
    """
    check_size(size)
    width, height = size
    full = round(width * ASPECT)
    top = (full - height) // 2
    return (width, full), slice(top, top + height)


def _inside(layer: Layer) -> Float32[np.ndarray, "rows columns 4"]:
    """The texture of a layer without its margin."""
    margin = round(MARGIN * layer.texels_per_width)
    return layer.texture[margin:-margin, margin:-margin]


def paint_first_frame(scene: Scene, size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
    """The picture at time 0, when nothing is displaced yet."""
    full, rows = _full_size(size)
    picture = _inside(scene.layers[0])[..., :3]
    for layer in scene.layers[1:]:
        texture = _inside(layer)
        clear = cv2.merge([1 - texture[..., 3] / np.float32(255)] * 3)
        picture = cv2.add(cv2.multiply(picture, clear), np.ascontiguousarray(texture[..., :3]))
    small = cv2.resize(picture, full, interpolation=cv2.INTER_AREA)[rows]
    return np.clip(np.rint(small), 0, 255).astype(np.uint8)


def front_layers(scene: Scene, size: tuple[int, int]) -> np.ndarray:
    """The index of the front-most layer that covers at least half of each pixel at time 0."""
    full, rows = _full_size(size)
    front = np.zeros(full[::-1], int)
    for index, layer in enumerate(scene.layers[1:], 1):
        alpha = np.ascontiguousarray(_inside(layer)[..., 3])
        front[cv2.resize(alpha, full, interpolation=cv2.INTER_AREA) > 127.5] = index
    return front[rows]


def iter_known_motion(
    scene: Scene, times: np.ndarray, size: tuple[int, int], block: int = BLOCK_FRAMES
) -> Iterator[Float32[np.ndarray, "block 2 height width"]]:
    """Yields the displacement since time 0, in pixels of `size`, at `times`, a block at a time."""
    full, rows = _full_size(size)
    q, front = pixel_centers(full)[:, rows], front_layers(scene, size)
    parts = []
    for index, layer in enumerate(scene.layers):
        seen = np.flatnonzero(front == index)
        if layer.modes and seen.size:
            points = q.reshape(2, -1)[:, seen]
            basis = np.concatenate([mode.basis(points) for mode in layer.modes])
            weights = np.concatenate(
                [mode.weights(times) - mode.weights(0.0)[:, None] for mode in layer.modes]
            )
            parts.append((seen, basis.astype(np.float32), weights.T.astype(np.float32) * size[0]))
    for first in range(0, len(times), block):
        motion = np.zeros((len(times[first : first + block]), 2, front.size), np.float32)
        for seen, basis, weights in parts:
            motion[:, :, seen] = np.tensordot(weights[first : first + block], basis, 1)
        yield motion.reshape(-1, 2, *front.shape)


def _known_motion(scene: Scene, config: BuildConfig) -> WindowMotion:
    """The motion of a scene in the form of an extraction. All of it is believed."""
    plan = config.plan
    times = np.arange(plan.frames) / plan.fps
    sums = RunningSpectrum(
        times, time=plan.frames, fps=plan.fps, frequencies=config.frequencies, size=config.size
    )
    forward = {}
    for block in iter_known_motion(scene, times, config.size):
        forward |= {sums.frame_count + i: frame for i, frame in enumerate(block)}
        sums.add(block)
    width, height = config.size
    return WindowMotion(
        sums=sums,
        coarse_motion=sums.grid_motion(),
        forward=forward,
        disagreements=np.zeros((0, height, width), np.float32),
        checks=(),
        confidence=np.full((height, width), 255, np.uint8),
        camera=None,
    )


def _paint_frames(scene: Scene, key: str, config: BuildConfig) -> list[PreparedFrame]:
    """The frames of a window. Only those that its sample shows are painted; the others repeat the
    first one.
    """
    full, rows = _full_size(config.size)
    first = paint_first_frame(scene, config.size)
    later = {}
    for i in set(choose_pair_frames(key, config.plan.frames, config.pairs)):
        fine = np.rint(np.multiply(full, _TEXELS_PER_PIXEL)).astype(int)
        picture = render_frame(scene, i / config.plan.fps, (int(fine[0]), int(fine[1])))
        later[i] = cv2.resize(picture, full, interpolation=cv2.INTER_AREA)[rows]
    return [
        PreparedFrame(
            image=later.get(i, first),
            time=i / config.plan.fps,
            decoder="none",
            flow_input=None,
            stats=None,  # pyright: ignore[reportArgumentType]
            delta=None,
        )
        for i in range(config.plan.frames)
    ]
