#!/usr/bin/env python
"""Measures how close generated videos are to real ones, by every metric that the given files allow.

    quiver evaluate --real VIDEOS --generated VIDEOS --out DIR

Videos are paired by their file names without suffix; if the real videos are those of a dataset,
generated ones are named by the keys of its windows. Videos without a partner are left out and
counted. The command writes evaluation.json, in which every number has its protocol, and
evaluation.html to DIR, and prints a table.

If the videos of a pair differ in length, the frames that both have are compared, from the first
on, at most --frames; their number is recorded. Pairs of different aspect, whose crops would not
show the same, pairs whose frames are shown at different times, and pairs of fewer than 16 frames
are refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import tyro

from jobs.cli.args import parse_args
from jobs.cli.console import print_message, print_output
from jobs.cli.errors import error_boundary
from jobs.cli.results import align_columns, load_page_maker, results_folder, write_results
from model.device import check_device
from model.evaluate.curves import curve_records, spectra_record
from model.evaluate.extractors import NETWORK_SPECS, make_extractors
from model.evaluate.feature_networks import load_network
from model.evaluate.lpips import load_lpips
from model.evaluate.pairs import (
    CROP_SIZE,
    FREQUENCIES,
    MIN_PAIR_FRAMES,
    SPECTRUM_FPS,
    Evaluators,
    find_real,
    find_videos,
    match_pairs,
    measure_pair,
)
from model.evaluate.table import MetricRow, build_table, list_remarks, pair_record
from pipeline.decode.config import DecodeConfig
from pipeline.decode.pool import shared_pool
from pipeline.extract.config import BuildConfig
from pipeline.extract.versions import library_versions
from pipeline.flow.config import FlowConfig
from pipeline.flow.estimator import make_estimator
from pipeline.whole_clip.frames import CROP_DESCRIPTION, decode_clip


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    real: str
    """Folder of real videos; or DATASET or DATASET:VIEW, whose windows are read again."""
    generated: Path
    """Folder of generated videos with the same names; for a dataset, KEY.mp4 and so on."""
    out: Path
    """Folder for evaluation.json and evaluation.html."""
    frames: int = 150
    """Most frames that are compared in each pair."""
    rounds: int = 100
    """Rounds of the bootstrap for the intervals of distances of distributions."""
    inception: Path | None = None
    """FID and KID: TorchScript file of Inception (inception-2015-12-05.pt)."""
    i3d: Path | None = None
    """FVD and FVD32: TorchScript file of I3D trained on Kinetics-400 (i3d_torchscript.pt)."""
    dt_i3d: Path | None = None
    """DT-FVD: TorchScript file of I3D trained on dynamic textures, for excerpts of 16 frames, which
    returns the 1024 numbers before its logits (docs/guides/evaluate.md).
    """
    dt_i3d_32: Path | None = None
    """DT-FVD32: TorchScript file of the same authors' network for 32 frames."""
    lpips: Path | None = None
    """LPIPS: the authors' alex.pth, version 0.1; requires --alexnet."""
    alexnet: Path | None = None
    """LPIPS: torchvision's weights of AlexNet; requires --lpips."""
    network_device: Literal["cuda", "cpu"] = "cpu"
    """Device on which Inception and I3D run."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)

    def __post_init__(self):
        if self.frames < MIN_PAIR_FRAMES or not 2 <= self.rounds <= 100_000:
            raise ValueError(
                f"--frames is {self.frames} and --rounds {self.rounds}, expected at least "
                f"{MIN_PAIR_FRAMES}, and 2 to 100000"
            )
        if (self.lpips is None) != (self.alexnet is None):
            raise ValueError(
                "--lpips requires --alexnet, and --alexnet requires --lpips: LPIPS weighs the "
                "features of AlexNet"
            )


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
    """Measures every pair, and writes both files."""
    check_device(job.network_device, "--network-device")
    make_page = load_page_maker("model.evaluate.report", "render_evaluation_page")
    pool = shared_pool(job.decode)
    pairs, unmatched = match_pairs(
        find_real(job.real, pool),
        find_videos(job.generated, "--generated", pool),
        job.frames,
        print_message,
    )
    evaluators = _load_evaluators(job)
    pair_metrics, records = [], []
    for number, pair in enumerate(pairs, 1):
        real, generated = (
            decode_clip(span.truncate(pair.frames), CROP_SIZE, pool)
            for span in (pair.real, pair.generated)
        )
        pair_metrics.append(measure_pair(pair.name, real, generated, evaluators))
        records.append(pair_record(pair, pair_metrics[-1], real, generated))
        print_message(f"{number} of {len(pairs)} pairs")
    table = build_table(pair_metrics, evaluators, job.rounds)
    remarks = list_remarks(pair_metrics, [pair.real.split for pair in pairs])
    result = dict(
        metrics=[row._asdict() for row in table],
        remarks=remarks,
        curves=curve_records(pair_metrics, evaluators),
        spectra=spectra_record(pair_metrics),
        pairs=records,
        protocol=_describe_protocol(job, unmatched),
    )
    slices = {pair.name: (pair.real.xt_slice, pair.generated.xt_slice) for pair in pair_metrics}
    files = write_results(job.out, "evaluation", result, make_page(result, slices))
    rows = align_columns(_format_table(table))
    print_output("\n".join([rows, *_format_unmeasured(table), *remarks, *map(str, files)]))


def _load_evaluators(job: Evaluate) -> Evaluators:
    """The flow estimator and the networks. Raises ValueError if a file is not what it should be."""
    files = {name: getattr(job, name.replace("-", "_")) for name in NETWORK_SPECS}
    networks = {
        name: load_network(path, NETWORK_SPECS[name], job.network_device)
        for name, path in files.items()
        if path
    }
    lpips = load_lpips(job.alexnet, job.lpips) if job.lpips and job.alexnet else None
    return Evaluators(make_estimator(job.flow), make_extractors(networks), lpips)


def _describe_protocol(job: Evaluate, unmatched: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What decides the numbers besides the videos and the protocol of each number."""
    return dict(
        crop=list(CROP_SIZE),
        cropping=CROP_DESCRIPTION,
        frames=f"the first that both have, at most {job.frames}",
        flow=make_estimator(job.flow).description(),
        spectrum=(
            f"displacements from the first frame at {SPECTRUM_FPS:g} frames a second, "
            f"K = {FREQUENCIES}"
        ),
        intervals=(
            "95 %, over pairs: Student's t of means; of distances of distributions the bootstrap, "
            f"{job.rounds} rounds, seed 0"
        ),
        without_a_partner={side: list(names) for side, names in unmatched.items()},
        decoding=asdict(job.decode),
        versions=library_versions(BuildConfig(decode=job.decode, flow=job.flow))
        | dict(torch=version("torch")),
    )


def _format_table(table: Sequence[MetricRow]) -> Iterator[list[str]]:
    """The rows that have a value, for a terminal."""
    yield ["metric", "distance", "95 % interval", "real", "generated", "better"]
    for row in table:
        if row.needs:
            continue
        interval = f"{row.low:.3g} to {row.high:.3g}" if row.low is not None else "one pair"
        yield [
            row.name,
            f"{row.value:.4g} {row.unit}".strip(),
            interval,
            *("" if side is None else f"{side:.3g}" for side in (row.real, row.generated)),
            row.better,
        ]


def _format_unmeasured(table: Sequence[MetricRow]) -> list[str]:
    """The metrics without a value, a line for each thing that is missing."""
    missing = dict.fromkeys(row.needs for row in table if row.needs)
    return [
        f"{', '.join(row.name for row in table if row.needs == needs)}: needs {needs}"
        for needs in missing
    ]


if __name__ == "__main__":
    main()
