#!/usr/bin/env python
"""Measures the upper bound of frame quality: each clip's first frame, moved by its own true motion,
complete and from K frequencies.

    quiver upper-bound VIDEOS --out DIR

Writes ceiling.json and ceiling.html to DIR. No network is needed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from jobs.cli.args import parse_args, size_registry
from jobs.cli.console import print_message, print_output
from jobs.cli.errors import error_boundary
from jobs.cli.results import align_columns, load_page_maker, results_folder, write_results
from model.evaluate.upper_bound import (
    FREQUENCY_COUNTS,
    WORKING_FPS,
    mean_over_clips,
    measure_clip,
    open_beginning,
)
from pipeline.decode.config import DecodeConfig
from pipeline.decode.pool import shared_pool
from pipeline.extract.config import BuildConfig
from pipeline.extract.versions import library_versions
from pipeline.flow.config import FlowConfig
from pipeline.flow.estimator import make_estimator
from pipeline.whole_clip.first_window import MIN_VIDEO_S, match_aspect
from pipeline.whole_clip.frames import CROP_DESCRIPTION, collect_videos, decode_clip

_TABLE_MEASURES = (
    ("PSNR dB", "psnr_db", ".2f"),
    ("SSIM", "ssim", ".4f"),
    ("motion px", "error_px", ".3f"),
)
"""Heading, key and number format of the terminal's rows."""


@dataclass(frozen=True, kw_only=True)
class MeasureUpperBound:
    """Measures how good frames can get: the first frame of each clip is moved by its true motion,
    and by K frequencies of it.
    """

    clips: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="CLIPS")]
    """Videos, or folders of videos."""
    out: Path
    """Folder for ceiling.json and ceiling.html."""
    frequencies: tuple[int, ...] = FREQUENCY_COUNTS
    """One or several K."""
    seconds: float = 5.0
    """How much of each clip is used, from its beginning; all of a shorter one."""
    size: tuple[int, int] = (256, 160)
    """Working resolution: each clip is scaled to about that many pixels in its own aspect."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)

    def __post_init__(self):
        if not MIN_VIDEO_S <= self.seconds <= 60:
            raise ValueError(f"--seconds is {self.seconds:g}, expected {MIN_VIDEO_S:g} to 60")
        if not self.clips or not self.frequencies or min(self.frequencies) < 1:
            raise ValueError(
                f"CLIPS are {len(self.clips)} and --frequencies {self.frequencies}, expected at "
                "least one clip, and numbers over 0"
            )
        BuildConfig(size=self.size, flow=self.flow)  # raises ValueError for an impossible size


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
    """Measures every clip, and writes both files."""
    make_page = load_page_maker("model.evaluate.report", "render_upper_bound_page")
    pool, estimator = shared_pool(job.decode), make_estimator(job.flow)
    frequencies = sorted(set(job.frequencies))
    beginnings = {
        name: open_beginning(path, pool, job.seconds, frequencies)
        for name, path in _find_videos(job.clips).items()
    }
    clips, slices = [], {}
    for number, (name, (span, window)) in enumerate(beginnings.items(), 1):
        clip = decode_clip(span, match_aspect(span.size, job.size), pool)
        record, slices[name] = measure_clip(clip, window, estimator, frequencies)
        clips.append(dict(name=name) | record)
        print_message(f"{number} of {len(beginnings)} clips")
    mean = mean_over_clips(clips)
    result = dict(protocol=_describe_protocol(job), mean=mean, clips=clips)
    files = write_results(job.out, "ceiling", result, make_page(result, slices))
    print_output("\n".join([align_columns(_format_table(clips, mean)), *map(str, files)]))


def _find_videos(places: Sequence[Path]) -> dict[str, Path]:
    """The videos by name. Raises ValueError if a folder has none, or two have the same name."""
    videos: dict[str, Path] = {}
    for place in places:
        inside = collect_videos(place, "CLIPS") if place.is_dir() else {place.stem: place}
        for name, path in inside.items():
            if name in videos:
                raise ValueError(
                    f"CLIPS has {videos[name]} and {path}, expected one video of each name"
                )
            videos[name] = path
    return videos


def _describe_protocol(job: MeasureUpperBound) -> dict[str, Any]:
    """What decides the numbers besides the clips."""
    return dict(
        renderer="softmax splatting without a network (model/render/warp.py)",
        working_fps=WORKING_FPS,
        cropping=CROP_DESCRIPTION,
        flow=make_estimator(job.flow).description(),
        decoding=asdict(job.decode),
        versions=library_versions(BuildConfig(decode=job.decode, flow=job.flow)),
        psnr=(
            "of all colours, mean over the frames after the first, dB; 100 where a frame is the "
            "same"
        ),
        ssim="Gaussian window of 11 pixels, mean over channels and frames",
    )


def _format_table(
    clips: Sequence[Mapping[str, Any]], mean: Sequence[Mapping[str, Any]]
) -> Iterator[list[str]]:
    """PSNR, SSIM and error of the motion for a terminal; the mean comes last, where it stays in
    view.
    """
    yield ["clip", "", *(motion["name"] for motion in clips[0]["motions"])]
    rows = [(clip["name"], clip["motions"]) for clip in clips]
    if mean:
        rows.append(("mean over clips", mean))
    for name, motions in rows:
        for i, (title, key, form) in enumerate(_TABLE_MEASURES):
            numbers = (format(motion[key], form) for motion in motions)
            yield [name if i == 0 else "", title, *numbers]


if __name__ == "__main__":
    main()
