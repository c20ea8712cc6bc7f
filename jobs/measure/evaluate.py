#!/usr/bin/env python
"""How near generated videos are to real ones: every metric that can be computed with what is given.

    python -m jobs.evaluate --real VIDEOS --generated VIDEOS --out DIR

Videos are paired by their file names without suffix; of a data set, generated videos are named by
the keys of its windows. What has no partner is left out and counted. Writes evaluation.json, in
which every number has its protocol, and evaluation.html to DIR, and prints a table.

Of a pair of different lengths the frames that both have are compared, from the first on, at most
--frames: how many is recorded. Refused are pairs of different aspect, whose crops would not show
the same, pairs shown at different instants, and those of fewer than 16 frames.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tyro

from jobs.cli.args import parse_args
from jobs.cli.console import print_message, print_output
from jobs.cli.errors import error_boundary
from jobs.cli.results import align_columns, load_page_maker, results_folder, write_results
from model.evaluate.feature_networks import load_network
from model.evaluate.lpips import load_lpips
from model.evaluate.pairs import (
    CROP_SIZE,
    FREQUENCIES,
    MIN_PAIR_FRAMES,
    NETWORK_SPECS,
    SPECTRUM_FPS,
    Evaluators,
    PairMetrics,
    VideoMetrics,
    make_extractors,
    measure_pair,
)
from model.evaluate.table import (
    PAIRED_METRICS,
    PER_VIDEO_METRICS,
    MetricRow,
    amplitude_spectra,
    build_frame_curves,
    build_sliding_curves,
    build_table,
    describe_rate_mismatch,
)
from model.prior.inference import check_device
from pipeline.dataset.open import open_dataset
from pipeline.decode.config import DecodeConfig
from pipeline.decode.pool import DecoderPool, shared_pool
from pipeline.extract.config import BuildConfig
from pipeline.extract.versions import library_versions
from pipeline.flow.config import FlowConfig
from pipeline.flow.estimator import make_estimator
from pipeline.motion.spectrum import GRID_STEP
from pipeline.preview.reconstruct import read_manifest, read_settings
from pipeline.whole_clip.frames import (
    CROP_DESCRIPTION,
    ClipFrames,
    ClipSpan,
    collect_videos,
    decode_clip,
    open_clip,
    open_window,
)
from schemas.outcome import Outcome

_MAX_ASPECT_DIFFERENCE = 0.02
"""Share by which the aspects of a pair may differ: sizes are whole numbers, often even ones."""
_MIN_SECONDS = 0.5
"""A shorter pair has no spectrum to speak of."""
_MIN_BOOTSTRAP_PAIRS = 10
"""Pairs under which drawn intervals are remarked on."""
_INTERVALS_NOTE = (
    "Student's t of means; of distances of distributions the bootstrap, {} rounds, seed 0"
)
_MAX_EXAMPLE_NAMES = 3
"""Names that stand in a sentence."""

_SpanOpener = Callable[[], ClipSpan]


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    real: str
    """Folder of real videos, or DATASET or DATASET:VIEW, of whose windows the videos are read."""
    generated: Path
    """Folder of generated videos of the same names; of a data set, KEY.mp4 and so on."""
    out: Path
    """Folder for evaluation.json and evaluation.html."""
    frames: int = 150
    """At most so many frames of each pair."""
    rounds: int = 100
    """Of the bootstrap, for the intervals of distances of distributions."""
    inception: Path | None = None
    """FID and KID: TorchScript file of Inception (inception-2015-12-05.pt)."""
    i3d: Path | None = None
    """FVD and FVD32: TorchScript file of I3D trained on Kinetics-400 (i3d_torchscript.pt)."""
    dt_i3d: Path | None = None
    """DT-FVD: such a file of I3D trained on dynamic textures, excerpts of 16 frames, that gives the
    1024 numbers before its logits (docs/running.md).
    """
    dt_i3d_32: Path | None = None
    """DT-FVD32: the same of its authors' network for 32 frames."""
    lpips: Path | None = None
    """LPIPS: the authors' alex.pth, version 0.1; with --alexnet."""
    alexnet: Path | None = None
    """LPIPS: torchvision's weights of AlexNet."""
    network_device: Literal["cuda", "cpu"] = "cpu"
    """Where Inception and I3D run."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)

    def __post_init__(self):
        if self.frames < MIN_PAIR_FRAMES or not 2 <= self.rounds <= 100_000:
            raise ValueError(
                f"--frames is {self.frames} and --rounds {self.rounds}, expected at least {MIN_PAIR_FRAMES}, and 2 to 100000"
            )
        if (self.lpips is None) != (self.alexnet is None):
            raise ValueError(
                "--lpips and --alexnet are wanted together: LPIPS weighs the features of AlexNet"
            )


class _VideoPair(NamedTuple):
    """A pair that can be compared."""

    name: str
    real: ClipSpan
    generated: ClipSpan
    frames: int


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_args(
            Evaluate,
            "quiver evaluate",
            args,
            description=__doc__,
            config=(tyro.conf.OmitArgPrefixes,),
        )
        with results_folder(job.out):
            _run_job(job)


def _run_job(job: Evaluate) -> None:
    """Measures, and writes both files."""
    check_device(job.network_device, "--network-device")
    make_page = load_page_maker("model.evaluate.report", "render_evaluation_page")
    pool = shared_pool(job.decode)
    pairs, left = _match_pairs(
        find_real(job.real, pool), _find_generated(job.generated, pool), job.frames
    )
    given = _load_evaluators(job)
    found, about = [], []
    for number, two in enumerate(pairs, 1):
        real, generated = (
            decode_clip(take.truncate(two.frames), CROP_SIZE, pool)
            for take in (two.real, two.generated)
        )
        found.append(measure_pair(two.name, real, generated, given))
        about.append(_pair_record(two, found[-1], real, generated))
        print_message(f"{number} of {len(pairs)} pairs")
    table = build_table(found, given, job.rounds)
    said = _list_remarks(found, [two.real.split for two in pairs])
    result = dict(
        metrics=[row._asdict() for row in table],
        remarks=said,
        curves=_curve_records(found, given),
        spectra=_spectra_record(found),
        pairs=about,
        protocol=_describe_protocol(job, left),
    )
    files = write_results(
        job.out,
        "evaluation",
        result,
        make_page(result, {one.name: (one.real.slice, one.generated.slice) for one in found}),
    )
    print_output(
        "\n".join(
            [
                align_columns(_format_table(table)),
                *_format_unmeasured(table),
                *said,
                *map(str, files),
            ]
        )
    )


def _load_evaluators(job: Evaluate) -> Evaluators:
    """Estimator and networks. Raises ValueError where a file is not what it should be."""
    files = {name: getattr(job, name.replace("-", "_")) for name in NETWORK_SPECS}
    networks = {
        name: load_network(path, NETWORK_SPECS[name], job.network_device)
        for name, path in files.items()
        if path
    }
    return Evaluators(
        make_estimator(job.flow),
        make_extractors(networks),
        load_lpips(job.alexnet, job.lpips) if job.lpips and job.alexnet else None,
    )


def _find_generated(folder: Path, pool: DecoderPool) -> dict[str, _SpanOpener]:
    """Videos of a folder, each looked at when it is asked for."""
    return {
        name: lambda path=path: open_clip(path, pool)
        for name, path in collect_videos(folder, "--generated").items()
    }


def find_real(place: str, pool: DecoderPool) -> dict[str, _SpanOpener]:
    """Videos of a folder, or the kept windows of a data set."""
    if not Path(place.partition(":")[0]).exists():
        raise ValueError(
            f"--real is {place!r}, which is not there, expected a folder of videos, DATASET or DATASET:VIEW"
        )
    if Path(place).is_dir() and not (Path(place) / "run.json").exists():
        return {
            name: lambda path=path: open_clip(path, pool)
            for name, path in collect_videos(Path(place), "--real").items()
        }
    selection = open_dataset(place)
    settings = read_settings(selection.dataset)
    kept = read_manifest(selection, filters=[("outcome", "==", str(Outcome.KEPT))])
    return {row.window().key: lambda row=row: open_window(row, settings, pool) for row in kept}


def _match_pairs(
    real: Mapping[str, _SpanOpener], generated: Mapping[str, _SpanOpener], most: int
) -> tuple[list[_VideoPair], dict[str, list[str]]]:
    """Pairs of one name, and the names that have no partner. Raises ValueError where there is no
    pair, or one cannot be compared.
    """
    names = [name for name in generated if name in real]
    if not names:
        some = (", ".join(list(one)[:_MAX_EXAMPLE_NAMES]) for one in (real, generated))
        raise ValueError(
            "no generated video has the name of a real one, expected the same file names: real are {}, generated {}".format(
                *some
            )
        )
    left = dict(
        real=[name for name in real if name not in generated],
        generated=[name for name in generated if name not in real],
    )
    for side, alone in left.items():
        if alone:
            print_message(
                f"{len(alone)} {side} without a partner, left out: {', '.join(alone[:_MAX_EXAMPLE_NAMES])}{', ...' if len(alone) > _MAX_EXAMPLE_NAMES else ''}"
            )
    return [_make_pair(name, real[name](), generated[name](), most) for name in names], left


def _make_pair(name: str, real: ClipSpan, generated: ClipSpan, most: int) -> _VideoPair:
    """Raises ValueError where the two cannot be compared frame by frame."""
    lengths = len(real.times), len(generated.times)
    count = min(*lengths, most)
    if count < MIN_PAIR_FRAMES:
        raise ValueError(
            f"{name} has {lengths[0]} real and {lengths[1]} generated frames, expected at least {MIN_PAIR_FRAMES} of both"
        )
    lasts = min(take.times[count - 1] for take in (real, generated))
    if lasts < _MIN_SECONDS:
        raise ValueError(
            f"{name} has {count} frames in {lasts:.2f} s, expected at least {_MIN_SECONDS:g} s"
        )
    aspects = [take.size[0] / take.size[1] for take in (real, generated)]
    if abs(aspects[0] / aspects[1] - 1) > _MAX_ASPECT_DIFFERENCE:
        sizes = "{}x{} pixels and generated {}x{}".format(*real.size, *generated.size)
        raise ValueError(
            f"{name} has real {sizes}, expected the same aspect: their crops would not show the same"
        )
    late = np.abs(real.times[:count] - generated.times[:count]).max()
    if late > np.median(np.diff(real.times)) / 2:
        rates = [(count - 1) / take.times[count - 1] for take in (real, generated)]
        raise ValueError(
            f"{name} has real {rates[0]:.2f} and generated {rates[1]:.2f} frames a second, expected frames of the same instants"
        )
    if lengths[0] != lengths[1] and count < most:
        print_message(
            f"{name} has {lengths[0]} real and {lengths[1]} generated frames: the first {count} are compared"
        )
    return _VideoPair(name, real, generated, count)


def _pair_record(
    two: _VideoPair, found: PairMetrics, real: ClipFrames, generated: ClipFrames
) -> dict[str, Any]:
    """A pair, as the file has it."""
    keys = [key for key, *_ in PAIRED_METRICS if getattr(found, key) is not None]
    sides = dict(
        real=_video_record(two.real, real, found.real),
        generated=_video_record(two.generated, generated, found.generated),
    )
    return dict(
        name=two.name,
        split=two.real.split,
        frames=two.frames,
        window=found.window,
        magnitude_px=found.magnitude_px,
        row=found.slice_row,
        log_spectral_db=float(found.spectral_db.mean()),
        log_spectral_db_of_bands=found.spectral_db.tolist(),
        **sides,
        **{key: float(getattr(found, key).mean()) for key in keys},
        of_frames_after_the_first={key: getattr(found, key).tolist() for key in keys},
    )


def _video_record(take: ClipSpan, clip: ClipFrames, side: VideoMetrics) -> dict[str, Any]:
    """One video of a pair."""
    rate = (len(clip.times) - 1) / float(clip.times[-1])
    about = dict(
        frames=len(take.times),
        fps=rate,
        size=list(clip.size),
        sha256=clip.sha256,
        decoder=clip.decoder,
        visible=side.visible,
    )
    return about | {key: getattr(side, key) for key, *_ in PER_VIDEO_METRICS}


def _curve_records(found: Sequence[PairMetrics], given: Evaluators) -> list[dict[str, Any]]:
    """Over time; those of single frames have a unit."""
    units = {key: unit for key, _, unit, _ in PAIRED_METRICS}
    return [
        curve._asdict() | dict(unit=units.get(curve.key))
        for curve in (*build_frame_curves(found), *build_sliding_curves(found, given))
    ]


def _spectra_record(found: Sequence[PairMetrics]) -> dict[str, Any]:
    """Spectra of the motion."""
    hz, (real, generated) = amplitude_spectra(found)
    return dict(
        hz=hz.tolist(),
        real_px=real.tolist(),
        generated_px=generated.tolist(),
        every_pixel=GRID_STEP,
    )


def _describe_protocol(job: Evaluate, left: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What decides the numbers beside the videos and what stands with each."""
    return dict(
        crop=list(CROP_SIZE),
        cropping=CROP_DESCRIPTION,
        frames=f"the first that both have, at most {job.frames}",
        flow=make_estimator(job.flow).description(),
        spectrum=f"displacements from the first frame at {SPECTRUM_FPS:g} frames a second, K = {FREQUENCIES}",
        intervals=f"95 %, over pairs: {_INTERVALS_NOTE.format(job.rounds)}",
        without_a_partner={side: list(names) for side, names in left.items()},
        decoding=asdict(job.decode),
        versions=library_versions(BuildConfig(decode=job.decode, flow=job.flow))
        | dict(torch=version("torch")),
    )


def _list_remarks(found: Sequence[PairMetrics], splits: Sequence[str | None]) -> list[str]:
    """What is to be said of these pairs."""
    return [
        *_remark_few_pairs(len(found)),
        *_remark_mixed_rates(describe_rate_mismatch(found)),
        *_remark_training_windows(splits),
    ]


def _remark_training_windows(splits: Sequence[str | None]) -> list[str]:
    """Of windows that are no held-out ones."""
    count = splits.count("train")
    return (
        [
            f"{count} of {len(splits)} real videos are windows of the split train: what was learnt from is no held-out result"
        ]
        if count
        else []
    )


def _remark_mixed_rates(rates: str | None) -> list[str]:
    """Of pairs that are not of one clock."""
    return (
        [
            f"Pairs have {rates}: excerpts of so many frames (FVD, DT-FVD, changes) do not all last as long, and no distance slides over time"
        ]
        if rates
        else []
    )


def _remark_few_pairs(pairs: int) -> list[str]:
    """Of drawn intervals over so few pairs."""
    said = f"Intervals of distances (FID, KID, FVD, colours, changes) over {pairs} pairs are too narrow: few, drawn anew, vary too little; take {_MIN_BOOTSTRAP_PAIRS} or more"
    return [said] if 1 < pairs < _MIN_BOOTSTRAP_PAIRS else []


def _format_table(table: Sequence[MetricRow]) -> Iterator[list[str]]:
    """What was measured, for a terminal."""
    yield ["metric", "distance", "95 % interval", "real", "generated", "better"]
    for row in table:
        if row.needs:
            continue
        interval = f"{row.low:.3g} to {row.high:.3g}" if row.low is not None else "one pair"
        yield [
            row.name,
            f"{row.value:.4g} {row.unit}".strip(),
            interval,
            *("" if one is None else f"{one:.3g}" for one in (row.real, row.generated)),
            row.better,
        ]


def _format_unmeasured(table: Sequence[MetricRow]) -> list[str]:
    """What was not measured, by what it needs."""
    needed = dict.fromkeys(row.needs for row in table if row.needs)
    return [
        f"{', '.join(row.name for row in table if row.needs == needs)}: needs {needs}"
        for needs in needed
    ]


if __name__ == "__main__":
    main()
