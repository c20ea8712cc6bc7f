#!/usr/bin/env python
"""Benchmarks flow estimators: how far each can be trusted, and what it costs, on known flow, on
swaying scenes and on real clips.

    quiver benchmark-flow --out card --middlebury DIR --clips DIR --weights raft-small.pth

Writes OUT/flow_card.json and OUT/flow_card.html. Weights are never downloaded: they come from
--weights or from torch.hub's cache.
"""

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import file_digest
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from jobs.cli.args import parse_args
from jobs.cli.console import print_message, print_output
from jobs.cli.errors import error_boundary
from jobs.cli.results import align_columns, load_page_maker, results_folder, write_results
from pipeline.decode.config import DecodeConfig
from pipeline.decode.pool import shared_pool
from pipeline.extract.list_clips import list_clips
from pipeline.flow.config import FlowConfig
from pipeline.flow.dis import Preset
from pipeline.flow.estimator import FlowEstimator, make_estimator
from pipeline.flow_benchmark import metrics, run, summary
from pipeline.flow_benchmark.middlebury import find_known_pairs, read_known_pair
from pipeline.synthetic.render import WORKING_SIZE
from pipeline.synthetic.scenes import SCENES
from schemas.outcome import Quarantined, to_printable

_EstimatorName = Literal[
    "dis_ultrafast", "dis_fast", "dis_medium", "dis_fine", "raft_small", "raft_large"
]
_DIS_CONFIGS = {f"dis_{preset}": FlowConfig(dis_preset=preset) for preset in get_args(Preset)}
_CLIP_SECONDS, _TARGET_FRAMES = 5.0, 8
"""Flow is measured from a clip's first frame to this many frames, evenly spread over its first
seconds.
"""


@dataclass(frozen=True, kw_only=True)
class BenchmarkFlow:
    """Measures flow estimators on known flow, on procedural scenes with known sway, and on real
    clips. Prints a table, and writes a JSON file and a page.
    """

    out: Path
    """Output folder, created if it is missing."""
    estimators: tuple[_EstimatorName, ...] = ()
    """Estimators to measure; by default all that are available."""
    middlebury: Path | None = None
    """Folder of pairs with known flow: a folder for each, with flow10.flo, frame10.png and
    frame11.png.
    """
    clips: tuple[str, ...] = ()
    """Videos, folders of videos, or a table of clips; the first 5 s of each are used."""
    weights: tuple[Path, ...] = ()
    """Files of RAFT weights; each is used for the network that it fits."""
    updates: int = FlowConfig.updates
    """RAFT: refinements of the flow per pair."""
    device: Literal["cuda", "cpu"] = "cpu"
    """RAFT: device that the network runs on."""
    scenes: tuple[str, ...] = tuple(SCENES)
    """Procedural scenes to measure on."""
    frames: int = 150
    """Frames of a scene, at 30 per second."""
    seed: int = 0
    """Seed of the scenes."""

    def __post_init__(self):
        if unknown := [name for name in self.scenes if name not in SCENES]:
            raise ValueError(
                f"--scenes names {', '.join(map(repr, unknown))}, "
                f"expected some of {', '.join(SCENES)}"
            )
        if not 2 * run.FREQUENCIES <= self.frames <= 600:
            raise ValueError(f"--frames is {self.frames}, expected {2 * run.FREQUENCIES} to 600")
        if self.seed < 0:
            raise ValueError(f"--seed is {self.seed}, expected 0 or more")
        if not (self.scenes or self.middlebury or self.clips):
            raise ValueError("nothing to measure on, expected --middlebury, --clips or --scenes")


def main(args: Sequence[str] | None = None) -> None:
    """Runs the job; exit codes are those of jobs/cli/errors.py."""
    with error_boundary():
        job = parse_args(BenchmarkFlow, "quiver benchmark-flow", args)
        with results_folder(job.out):
            _run_job(job)


def _run_job(job: BenchmarkFlow) -> None:
    """Measures all cases, writes both files and prints the table."""
    make_page = load_page_maker("pipeline.flow_benchmark.report", "render_page")
    known_pairs = find_known_pairs(job.middlebury) if job.middlebury else []
    clips = list_clips(job.clips) if job.clips else []
    configs, left_out = choose_estimators(job)
    for sentence in left_out.values():
        print_message(sentence)
    estimators = {name: make_estimator(config) for name, config in configs.items()}
    results: dict[str, dict[str, Any]] = dict(known={}, scenes={}, clips={})
    cases: dict[str, list[run.Case]] = {part: [] for part in results}
    protocols: dict[str, dict[str, Any]] = {part: {} for part in results}
    count = len(known_pairs) + len(job.scenes) + len(clips)
    for number, (part, protocol, evaluate) in enumerate(
        _list_cases(job, known_pairs, [clip.uri for clip in clips]), 1
    ):
        result, case = evaluate(estimators)
        results[part][case.name], protocols[part][case.name] = result, protocol
        cases[part].append(case)
        print_message(f"{number} of {count}: {case.name}")
    names = list(estimators)
    card = run.FlowCard(
        protocol=_describe_protocol(job, protocols),
        estimators={name: estimator.description() for name, estimator in estimators.items()},
        left_out=left_out,
        known=results["known"],
        scenes=results["scenes"],
        clips=results["clips"],
        smoothing=summary.compare_smoothing(results["known"], results["scenes"], names),
    )
    files = write_results(job.out, "flow_card", asdict(card), make_page(card, cases))
    print_output("\n".join([*_format_tables(card), *map(str, files)]))


# ---- Estimators


def choose_estimators(job: BenchmarkFlow) -> tuple[dict[str, FlowConfig], dict[str, str]]:
    """The configuration of each estimator, and a sentence for each that is left out.

    Raises ValueError if a named estimator is not available, or a file of weights is not used.
    """
    names = job.estimators or get_args(_EstimatorName)
    weights = _assign_weights(job, names)
    configs, left_out = {}, {}
    for name in dict.fromkeys(names):
        try:
            configs[name] = _make_flow_config(name, job, weights)
        except ValueError as error:
            if job.estimators:
                raise
            left_out[name] = f"{name} is left out: {error}"
    return configs, left_out


def _assign_weights(job: BenchmarkFlow, names: Sequence[str]) -> dict[str, Path]:
    """The file of --weights for each network.

    Raises ValueError if a file fits no network, none of these estimators, or one that another file
    fits too.
    """
    fits: dict[Path, list[str]] = {}
    for path in job.weights:
        misfits = {flow: _explain_misfit(path, job, flow) for flow in ("raft_small", "raft_large")}
        fits[path] = [flow for flow, misfit in misfits.items() if misfit is None]
        if not fits[path]:
            raise ValueError(
                f"--weights is {path}, expected the weights of raft_small or raft_large: "
                f"{misfits['raft_small']}"
            )
    assigned: dict[str, Path] = {}
    for path, flows in fits.items():
        requested = [name for name in flows if name in names]
        if not requested:
            raise ValueError(
                f"--weights is {path}, which fits {' and '.join(flows)}, "
                f"expected weights of one of the --estimators: {', '.join(names)}"
            )
        for name in requested:
            if name in assigned:
                raise ValueError(
                    f"--weights has {assigned[name]} and {path}, which both fit {name}, "
                    "expected one file for each network"
                )
            assigned[name] = path
    return assigned


def _make_flow_config(name: str, job: BenchmarkFlow, weights: dict[str, Path]) -> FlowConfig:
    """The configuration of an estimator. Raises ValueError if its weights are missing."""
    if name in _DIS_CONFIGS:
        return _DIS_CONFIGS[name]
    path = weights.get(name) or _find_cached_weights(name)
    if path is None:
        raise ValueError(f"no --weights FILE fits {name}, and torch.hub's cache has none of it")
    return _raft_config(name, path, job)


def _raft_config(name: str, path: Path, job: BenchmarkFlow) -> FlowConfig:
    flow: Any = name
    return FlowConfig(flow=flow, weights=str(path), device=job.device, updates=job.updates)


def _find_cached_weights(name: str) -> Path | None:
    """torchvision's own weights in torch.hub's cache; None if they were never downloaded. Raises
    ValueError if the file is not the one that was published.
    """
    from pipeline.flow.raft_weights import check_published_digest, locate_default_weights

    path = locate_default_weights(name)[1]
    if not path.exists():
        return None
    check_published_digest(path)
    return path


def _explain_misfit(path: Path, job: BenchmarkFlow, flow: str) -> str | None:
    """The reason why a file does not have the weights of a network; None if it has."""
    from pipeline.flow.raft_weights import load_network

    try:
        load_network(replace(_raft_config(flow, path, job), device="cpu"))
    except ValueError as error:
        return str(error)
    return None


# ---- Cases


_Evaluate = Callable[[dict[str, FlowEstimator]], tuple[dict[str, Any], run.Case]]


def _list_cases(
    job: BenchmarkFlow, known_pairs: Sequence[tuple[str, Path]], clips: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any], _Evaluate]]:
    """For each case: the part of the card it belongs to, its entry in the protocol, and the
    function that evaluates it.
    """
    for name, path in known_pairs:
        pair = read_known_pair(name, path)
        size = [pair.source.shape[1], pair.source.shape[0]]
        protocol = dict(size=size, valid=int(pair.valid.sum()), sha256=pair.digest)
        yield "known", protocol, partial(run.evaluate_known_pair, pair)
    for name in job.scenes:
        yield "scenes", {}, partial(run.evaluate_scene, name, job.seed, job.frames)
    for name, uri in zip(_unique_names([Path(uri).name for uri in clips]), clips, strict=True):
        images, times = _read_first_images(uri)
        with Path(uri).open("rb") as file:
            protocol = dict(times_s=times, sha256=file_digest(file, "sha256").hexdigest())
        yield "clips", protocol, partial(run.evaluate_clip, name, images)


def _unique_names(names: Sequence[str]) -> list[str]:
    """The names, with a number after each that has occurred before."""
    return [
        f"{name} ({names[:i].count(name) + 1})" if name in names[:i] else name
        for i, name in enumerate(names)
    ]


def _read_first_images(uri: str) -> tuple[list[np.ndarray], list[float]]:
    """The first frame of a clip and _TARGET_FRAMES later ones of its first _CLIP_SECONDS, at the
    working resolution, and their times in seconds.

    Raises ValueError if it cannot be read or has only one frame.
    """
    pool = shared_pool(DecodeConfig())
    try:
        video = pool.probe(uri)
        times = video.times - video.times[0]
        last = int(np.flatnonzero(times <= _CLIP_SECONDS)[-1])
        if last < 1:
            raise ValueError(
                f"{uri} has one frame in its first {_CLIP_SECONDS:g} s, expected at least 2"
            )
        indices = sorted({round(i) for i in np.linspace(0, last, _TARGET_FRAMES + 1)})
        images = list(pool.frames(uri, video, indices, WORKING_SIZE))
        return images, [round(float(times[i]), 4) for i in indices]
    except Quarantined as error:
        raise ValueError(f"{uri} cannot be used: {error.detail} ({error.reason})") from error


def _describe_protocol(job: BenchmarkFlow, protocols: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """All settings that decide the numbers."""
    import cv2  # late: `jobs`, which names the extra that brings it, must be imported first

    packages = ["numpy", "opencv-python-headless", "scipy"]
    if any(map(summary.is_learned, job.estimators or get_args(_EstimatorName))):
        packages += ["torch", "torchvision"]
    versions = dict(quiver=version("quiver-motion"), python=platform.python_version()) | {
        name: version(name) for name in packages
    }
    return dict(
        versions=versions,
        machine=platform.machine(),
        cpu=cv2.getCPUFeaturesLine(),
        device=job.device,
        known=dict(
            pairs=len(protocols["known"]),
            of=protocols["known"],
            edge_px=metrics.EDGE_STEP_PX,
            near_px=metrics.NEAR_PX,
            octaves_px=metrics.OCTAVE_SIGMAS_PX,
        ),
        scenes=dict(
            names=job.scenes,
            seed=job.seed,
            frames=job.frames,
            fps=run.FPS,
            size=WORKING_SIZE,
            frequencies=run.FREQUENCIES,
        ),
        clips=dict(
            count=len(protocols["clips"]),
            of=protocols["clips"],
            size=WORKING_SIZE,
            seconds=_CLIP_SECONDS,
            pairs=_TARGET_FRAMES,
        ),
    )


# ---- The table


_CARD_COLUMNS = (
    ("known", "epe_px", "known: error, px", 1),
    ("known", "angle_deg", "angle, deg", 1),
    ("known", "epe_near_px", "near edges", 1),
    ("known", "epe_inside_px", "inside", 1),
    ("known", "blur_px", "blur, px", 1),
    ("scenes", "epe_px", "scenes: error, px", 1),
    ("scenes", "spectrum_error", "of spectrum, %", 100),
    ("clips", "inconsistent_share", "clips: inconsistent, %", 100),
    ("clips", "photometric", "grey levels", 1),
    ("clips", "inside_share", "stays inside, %", 100),
)
"""Part of the card, measure, heading and factor of each column."""


def _format_tables(card: run.FlowCard) -> list[str]:
    """The table and the conclusions, for a terminal."""
    columns = [column for column in _CARD_COLUMNS if getattr(card, column[0])]
    rows = [["", *(title for _, _, title, _ in columns), "ms a pair"]]
    for name in card.estimators:
        cells = [
            (summary.mean_over_cases(getattr(card, part), name, measure), factor)
            for part, measure, _, factor in columns
        ]
        cells.append((summary.seconds_per_pair(card, name), 1000))
        rows.append(
            [name, *("-" if value is None else f"{factor * value:.3g}" for value, factor in cells)]
        )
    sentences = summary.headline_sentences(card) + summary.smoothing_sentences(card)
    return [align_columns(rows), "", *(to_printable(sentence, 1000) for sentence in sentences)]


if __name__ == "__main__":
    main()
