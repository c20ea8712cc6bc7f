#!/usr/bin/env python
"""How good frames can get at best: each clip's first frame moved by its own true motion, whole and
from K frequencies.

    quiver upper-bound VIDEOS --out DIR

Writes ceiling.json and ceiling.html to DIR. No network is needed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import numpy as np
import tyro

from jobs.cli.args import parse_args, size_registry
from jobs.cli.console import print_message, print_output
from jobs.cli.errors import error_boundary
from jobs.cli.results import align_columns, load_page_maker, results_folder, write_results
from model.evaluate.upper_bound import (
    FREQUENCY_COUNTS,
    STILL_FRAME,
    TRUE_MOTION,
    UpperBound,
    count_frames_in_window,
    measure_upper_bounds,
)
from pipeline.decode.config import DecodeConfig
from pipeline.decode.pool import DecoderPool, shared_pool
from pipeline.extract.config import BuildConfig
from pipeline.extract.versions import library_versions
from pipeline.flow.config import FlowConfig
from pipeline.flow.estimator import make_estimator
from pipeline.images.draw import busiest_row
from pipeline.motion.spectrum import modulus
from pipeline.whole_clip.first_window import MIN_VIDEO_S, match_aspect
from pipeline.whole_clip.flow import flow_from_start
from pipeline.whole_clip.frames import (
    CROP_DESCRIPTION,
    ClipFrames,
    ClipSpan,
    collect_videos,
    decode_clip,
    open_clip,
)

_FPS = 30.0
"""The working rate of the paper's spectra."""
_SLICE_MOTIONS = (STILL_FRAME, "K = 4", "K = 16", TRUE_MOTION)
"""Of which the page has X-t slices."""
_TABLE_MEASURES = (
    ("PSNR dB", "psnr_db", ".2f"),
    ("SSIM", "ssim", ".4f"),
    ("motion px", "error_px", ".3f"),
)
"""Heading, name and form of what is shown."""

_XtSlices = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class MeasureUpperBound:
    """Measures how good frames can get: the first frame of each clip, moved by its true motion and
    by K frequencies of it.
    """

    clips: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="CLIPS")]
    """Videos, or folders of them."""
    out: Path
    """Folder for ceiling.json and ceiling.html."""
    frequencies: tuple[int, ...] = FREQUENCY_COUNTS
    """K, one or several."""
    seconds: float = 5.0
    """So much of each clip's beginning is taken, or all that there is."""
    size: tuple[int, int] = (256, 160)
    """Working resolution: each clip is scaled to about as many pixels in its own aspect."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)

    def __post_init__(self):
        if not MIN_VIDEO_S <= self.seconds <= 60:
            raise ValueError(f"--seconds is {self.seconds:g}, expected {MIN_VIDEO_S:g} to 60")
        if not self.clips or not self.frequencies or min(self.frequencies) < 1:
            raise ValueError(
                f"CLIPS are {len(self.clips)} and --frequencies {self.frequencies}, expected at least one clip, and numbers over 0"
            )
        BuildConfig(size=self.size, flow=self.flow)  # says what is wrong with a size


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_args(
            MeasureUpperBound,
            "quiver upper-bound",
            args,
            registry=size_registry,
            config=(tyro.conf.OmitArgPrefixes,),
        )
        with results_folder(job.out):
            _run_job(job)


def _run_job(job: MeasureUpperBound) -> None:
    """Measures, and writes both files."""
    make_page = load_page_maker("model.evaluate.report", "render_upper_bound_page")
    pool, clips, slices = shared_pool(job.decode), [], {}
    takes = {
        name: _open_beginning(path, job, pool) for name, path in _find_videos(job.clips).items()
    }
    for number, (name, (take, window)) in enumerate(takes.items(), 1):
        record, slices[name] = measure_clip(
            decode_clip(take, match_aspect(take.size, job.size), pool), window, job
        )
        clips.append(dict(name=name) | record)
        print_message(f"{number} of {len(takes)} clips")
    mean = _mean_over_clips(clips)
    found = dict(protocol=_describe_protocol(job), mean=mean, clips=clips)
    files = write_results(job.out, "ceiling", found, make_page(found, slices))
    print_output("\n".join([align_columns(_format_table(clips, mean)), *map(str, files)]))


def _find_videos(places: Sequence[Path]) -> dict[str, Path]:
    """Videos by name. Raises ValueError where a folder has none, or two have one name."""
    found: dict[str, Path] = {}
    for place in places:
        for name, path in (
            collect_videos(place, "CLIPS") if place.is_dir() else {place.stem: place}
        ).items():
            if name in found:
                raise ValueError(
                    f"CLIPS has {found[name]} and {path}, expected one video of each name"
                )
            found[name] = path
    return found


def _describe_protocol(job: MeasureUpperBound) -> dict[str, Any]:
    """What decides the numbers beside the clips."""
    return dict(
        renderer="softmax splatting without a network (model/render/warp.py)",
        working_fps=_FPS,
        cropping=CROP_DESCRIPTION,
        flow=make_estimator(job.flow).description(),
        decoding=asdict(job.decode),
        versions=library_versions(BuildConfig(decode=job.decode, flow=job.flow)),
        psnr="of all colours, mean over the frames after the first, dB; 100 where a frame is the same",
        ssim="Gaussian window of 11 pixels, mean over channels and frames",
    )


def measure_clip(
    clip: ClipFrames, window: int, job: MeasureUpperBound
) -> tuple[dict[str, Any], _XtSlices]:
    """What a clip's record says, and its X-t slices."""
    flows = flow_from_start(clip.frames, make_estimator(job.flow))
    found = measure_upper_bounds(
        clip.frames, flows, clip.times, window=window, fps=_FPS, counts=sorted(set(job.frequencies))
    )
    count, row = count_frames_in_window(clip.times, window, _FPS), busiest_row(flows)
    motions, slices = [], {"real frames": clip.frames[:count, row].copy()}
    for one in found:
        motions.append(_motion_record(one))
        slices |= {one.name: one.frames[:, row].copy()} if one.name in _SLICE_MOTIONS else {}
    height, width = clip.frames.shape[1:3]
    record = dict(
        sha256=clip.sha256,
        size=list(clip.size),
        working_size=[width, height],
        decoder=clip.decoder,
        window=window,
        seconds=clip.times[:count].tolist(),
        motion_px=float(modulus(flows[:, 0], flows[:, 1]).mean()),
        motions=motions,
    )
    return record, slices


def _open_beginning(path: Path, job: MeasureUpperBound, pool: DecoderPool) -> tuple[ClipSpan, int]:
    """A clip's first frames, not decoded yet, and how many displacements at FPS they cover. Raises
    ValueError, in a sentence, where it cannot be used.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not there, expected a video or a folder of them")
    take = open_clip(path, pool)
    window = int(min(round(job.seconds * _FPS), np.floor(take.times[-1] * _FPS + 1e-6) + 1))
    if window < MIN_VIDEO_S * _FPS:
        raise ValueError(
            f"{path} has {len(take.times)} frames in {take.times[-1]:.2f} s, expected at least {MIN_VIDEO_S:g} s"
        )
    if max(job.frequencies) > window // 2 + 1:
        raise ValueError(
            f"--frequencies has {max(job.frequencies)}, expected 1 to {window // 2 + 1} for the {window / _FPS:.2f} s of {path}"
        )
    reaching = (
        int(np.searchsorted(take.times, (window - 1) / _FPS - 1e-6)) + 1
    )  # the last of them may stand after the window's end
    return take.truncate(reaching), window


def _motion_record(one: UpperBound) -> dict[str, Any]:
    """As the file has them."""
    return dict(
        name=one.name,
        frequencies=one.frequencies,
        psnr_db=float(one.psnr_db.mean()),
        ssim=float(one.ssim.mean()),
        error_px=one.error_px,
        error_share=one.error_share,
        psnr_db_of_frames=one.psnr_db.tolist(),
        ssim_of_frames=one.ssim.tolist(),
    )


def _mean_over_clips(clips: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the motions come to over all clips, each counting as much as any other; nothing of a
    single one.
    """
    same = zip(*(clip["motions"] for clip in clips), strict=True) if len(clips) > 1 else ()
    return [
        dict(name=each[0]["name"])
        | {key: fmean(one[key] for one in each) for _, key, _ in _TABLE_MEASURES}
        for each in same
    ]


def _format_table(
    clips: Sequence[Mapping[str, Any]], mean: Sequence[Mapping[str, Any]]
) -> Iterator[list[str]]:
    """For a terminal: PSNR, SSIM and error of the motion, and their mean over clips last, where the
    eye is.
    """
    yield ["clip", "", *(motion["name"] for motion in clips[0]["motions"])]
    for name, motions in [
        *((clip["name"], clip["motions"]) for clip in clips),
        *([("mean over clips", mean)] if mean else []),
    ]:
        for title, key, form in _TABLE_MEASURES:
            yield [
                name if key == _TABLE_MEASURES[0][1] else "",
                title,
                *(format(motion[key], form) for motion in motions),
            ]


if __name__ == "__main__":
    main()
