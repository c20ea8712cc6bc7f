#!/usr/bin/env python
"""How good frames can get at best: each clip's first frame moved by its own true motion, whole and from K frequencies.

    python -m jobs.ceiling VIDEOS --out DIR

Writes ceiling.json and ceiling.html to DIR. No network is needed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import numpy as np
import tyro

from jobs.cli.args import parsed
from jobs.cli.errors import say, sentences, tell
from jobs.cli.results import aligned, page_maker, results_folder, write_results
from jobs.extract_flow import registry, versions
from model.evaluate.upper_bound import COUNTS, STILL, TRUE, Reached, reached, within
from pipeline.decode import DecodeConfig
from pipeline.decode.pool import DecoderPool, shared_pool
from pipeline.extract.window import BuildConfig
from pipeline.flow import FlowConfig, make_estimator
from pipeline.images.draw import busiest_row
from pipeline.motion.spectrum import modulus
from pipeline.whole_clip.first_window import LEAST_S, like
from pipeline.whole_clip.flow import flow_from_start
from pipeline.whole_clip.frames import CROPPING, Footage, Take, decoded, take_of, videos_in

FPS = 30.0
"""The working rate of the paper's spectra."""
SHOWN = (STILL, "K = 4", "K = 16", TRUE)
"""Of which the page has X-t slices."""
MEASURES = (("PSNR dB", "psnr_db", ".2f"), ("SSIM", "ssim", ".4f"), ("motion px", "error_px", ".3f"))
"""Heading, name and form of what is shown."""

Slices = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """Measures how good frames can get: the first frame of each clip, moved by its true motion and by K frequencies of it."""

    clips: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="CLIPS")]
    """Videos, or folders of them."""
    out: Path
    """Folder for ceiling.json and ceiling.html."""
    frequencies: tuple[int, ...] = COUNTS
    """K, one or several."""
    seconds: float = 5.0
    """So much of each clip's beginning is taken, or all that there is."""
    size: tuple[int, int] = (256, 160)
    """Working resolution: each clip is scaled to about as many pixels in its own aspect."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)

    def __post_init__(self):
        if not LEAST_S <= self.seconds <= 60:
            raise ValueError(f"--seconds is {self.seconds:g}, expected {LEAST_S:g} to 60")
        if not self.clips or not self.frequencies or min(self.frequencies) < 1:
            raise ValueError(f"CLIPS are {len(self.clips)} and --frequencies {self.frequencies}, expected at least one clip, and numbers over 0")
        BuildConfig(size=self.size, flow=self.flow)  # says what is wrong with a size


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with sentences():
        job = parsed(Ceiling, "quiver ceiling", args, registry=registry, config=(tyro.conf.OmitArgPrefixes,))
        with results_folder(job.out):
            run(job)


def run(job: Ceiling) -> None:
    """Measures, and writes both files."""
    make_page = page_maker("model.evaluate.report", "ceiling_page")
    pool, clips, slices = shared_pool(job.decode), [], {}
    takes = {name: beginning(path, job, pool) for name, path in listed(job.clips).items()}
    for number, (name, (take, window)) in enumerate(takes.items(), 1):
        record, slices[name] = measured(decoded(take, like(take.size, job.size), pool), window, job)
        clips.append(dict(name=name) | record)
        tell(f"{number} of {len(takes)} clips")
    mean = mean_of(clips)
    found = dict(protocol=protocol(job), mean=mean, clips=clips)
    files = write_results(job.out, "ceiling", found, make_page(found, slices))
    say("\n".join([aligned(table(clips, mean)), *map(str, files)]))


def listed(places: Sequence[Path]) -> dict[str, Path]:
    """Videos by name. Raises ValueError where a folder has none, or two have one name."""
    found: dict[str, Path] = {}
    for place in places:
        for name, path in (videos_in(place, "CLIPS") if place.is_dir() else {place.stem: place}).items():
            if name in found:
                raise ValueError(f"CLIPS has {found[name]} and {path}, expected one video of each name")
            found[name] = path
    return found


def protocol(job: Ceiling) -> dict[str, Any]:
    """What decides the numbers beside the clips."""
    return dict(
        renderer="softmax splatting without a network (model/render/warp.py)", working_fps=FPS, cropping=CROPPING, flow=make_estimator(job.flow).description(),
        decoding=asdict(job.decode), versions=versions(BuildConfig(decode=job.decode, flow=job.flow)) ,
        psnr="of all colours, mean over the frames after the first, dB; 100 where a frame is the same", ssim="Gaussian window of 11 pixels, mean over channels and frames",
    )  # fmt: skip


def measured(clip: Footage, window: int, job: Ceiling) -> tuple[dict[str, Any], Slices]:
    """What a clip's record says, and its X-t slices."""
    flows = flow_from_start(clip.frames, make_estimator(job.flow))
    found = reached(clip.frames, flows, clip.times, window=window, fps=FPS, counts=sorted(set(job.frequencies)))
    count, row = within(clip.times, window, FPS), busiest_row(flows)
    motions, slices = [], {"real frames": clip.frames[:count, row].copy()}
    for one in found:
        motions.append(numbers(one))
        slices |= {one.name: one.frames[:, row].copy()} if one.name in SHOWN else {}
    height, width = clip.frames.shape[1:3]
    record = dict(
        sha256=clip.sha256, size=list(clip.size), working_size=[width, height], decoder=clip.decoder, window=window, seconds=clip.times[:count].tolist(),
        motion_px=float(modulus(flows[:, 0], flows[:, 1]).mean()), motions=motions,
    )  # fmt: skip
    return record, slices


def beginning(path: Path, job: Ceiling, pool: DecoderPool) -> tuple[Take, int]:
    """A clip's first frames, not decoded yet, and how many displacements at FPS they cover. Raises ValueError, in a sentence, where it cannot be used."""
    if not path.is_file():
        raise ValueError(f"{path} is not there, expected a video or a folder of them")
    take = take_of(path, pool)
    window = int(min(round(job.seconds * FPS), np.floor(take.times[-1] * FPS + 1e-6) + 1))
    if window < LEAST_S * FPS:
        raise ValueError(f"{path} has {len(take.times)} frames in {take.times[-1]:.2f} s, expected at least {LEAST_S:g} s")
    if max(job.frequencies) > window // 2 + 1:
        raise ValueError(f"--frequencies has {max(job.frequencies)}, expected 1 to {window // 2 + 1} for the {window / FPS:.2f} s of {path}")
    reaching = int(np.searchsorted(take.times, (window - 1) / FPS - 1e-6)) + 1  # the last of them may stand after the window's end
    return take.first(reaching), window


def numbers(one: Reached) -> dict[str, Any]:
    """As the file has them."""
    return dict(
        name=one.name, frequencies=one.frequencies, psnr_db=float(one.psnr_db.mean()), ssim=float(one.ssim.mean()), error_px=one.error_px,
        error_share=one.error_share, psnr_db_of_frames=one.psnr_db.tolist(), ssim_of_frames=one.ssim.tolist(),
    )  # fmt: skip


def mean_of(clips: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the motions come to over all clips, each counting as much as any other; nothing of a single one."""
    same = zip(*(clip["motions"] for clip in clips), strict=True) if len(clips) > 1 else ()
    return [dict(name=each[0]["name"]) | {key: fmean(one[key] for one in each) for _, key, _ in MEASURES} for each in same]


def table(clips: Sequence[Mapping[str, Any]], mean: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """For a terminal: PSNR, SSIM and error of the motion, and their mean over clips last, where the eye is."""
    yield ["clip", "", *(motion["name"] for motion in clips[0]["motions"])]
    for name, motions in [*((clip["name"], clip["motions"]) for clip in clips), *([("mean over clips", mean)] if mean else [])]:
        for title, key, form in MEASURES:
            yield [name if key == MEASURES[0][1] else "", title, *(format(motion[key], form) for motion in motions)]


if __name__ == "__main__":
    main()
