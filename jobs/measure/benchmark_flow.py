#!/usr/bin/env python
"""A card of flow estimators: how far each can be believed, and what it costs, on known flow, on
swaying scenes and on real clips.

    quiver benchmark-flow --out card --middlebury DIR --clips DIR --weights raft-small.pth

Writes OUT/flow_card.json and OUT/flow_card.html. Weights are never downloaded: they are those of
--weights, or of torch.hub's cache.
"""

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
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
from pipeline.flow_benchmark import metrics
from pipeline.flow_benchmark import run as card
from pipeline.flow_benchmark.middlebury import find_known_pairs, read_known_pair
from pipeline.synthetic.render import WORKING_SIZE
from pipeline.synthetic.scenes import SCENES
from schemas.outcome import Quarantined, to_printable

_EstimatorName = Literal[
    "dis_ultrafast", "dis_fast", "dis_medium", "dis_fine", "raft_small", "raft_large"
]
_DIS_CONFIGS = {f"dis_{preset}": FlowConfig(dis_preset=preset) for preset in get_args(Preset)}
_CLIP_SECONDS, _TARGET_FRAMES = 5.0, 8
"""Of a clip: how much of it, and to how many frames flow is measured, evenly spread."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkFlow:
    """Measures flow estimators on known flow, on procedural scenes with known sway, and on real
    clips: a table, a JSON file and a page.
    """

    out: Path
    """Folder to write to; made if it is not there."""
    estimators: tuple[_EstimatorName, ...] = ()
    """Which; without a name all that can be had."""
    middlebury: Path | None = None
    """Folder with flow10.flo, frame10.png and frame11.png for each pair, in folders of their own.
    """
    clips: tuple[str, ...] = ()
    """Videos, folders of them, or a table of clips; of each the first 5 s."""
    weights: tuple[Path, ...] = ()
    """Files of weights of RAFT; each goes to the network it fits."""
    updates: int = FlowConfig.updates
    """Of RAFT: refinements of the flow per pair."""
    device: Literal["cuda", "cpu"] = "cpu"
    """Where RAFT runs."""
    scenes: tuple[str, ...] = tuple(SCENES)
    """Procedural scenes to measure on."""
    frames: int = 150
    """Of a scene, at 30 a second."""
    seed: int = 0
    """Of the scenes."""

    def __post_init__(self):
        if unknown := [name for name in self.scenes if name not in SCENES]:
            raise ValueError(
                f"--scenes names {', '.join(map(repr, unknown))}, expected some of {', '.join(SCENES)}"
            )
        if not 2 * card.FREQUENCIES <= self.frames <= 600:
            raise ValueError(f"--frames is {self.frames}, expected {2 * card.FREQUENCIES} to 600")
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
    """Measures, and writes both files."""
    make_page = load_page_maker("pipeline.flow_benchmark.report", "render_page")
    known = find_known_pairs(job.middlebury) if job.middlebury else []
    clips = list_clips(job.clips) if job.clips else []
    configs, left_out = choose_estimators(job)
    for sentence in left_out.values():
        print_message(sentence)
    estimators = {name: make_estimator(config) for name, config in configs.items()}
    parts: dict[str, dict[str, Any]] = dict(known={}, scenes={}, clips={})
    cases: dict[str, list[card.Case]] = {part: [] for part in parts}
    protocols: dict[str, dict[str, Any]] = {part: {} for part in parts}
    count = len(known) + len(job.scenes) + len(clips)
    for number, (part, protocol, measure) in enumerate(
        _list_cases(job, known, [clip.uri for clip in clips]), 1
    ):
        found, case = measure(estimators)
        parts[part][case.name], protocols[part][case.name] = found, protocol
        cases[part].append(case)
        print_message(f"{number} of {count}: {case.name}")
    about = dict(
        format=1,
        protocol=_describe_protocol(job, protocols),
        estimators={name: one.description() for name, one in estimators.items()},
        left_out=left_out,
        **parts,
        smoothing=card.compare_smoothing(parts["known"], parts["scenes"], list(estimators)),
    )
    files = write_results(job.out, "flow_card", about, make_page(about, cases))
    print_output("\n".join([*_format_tables(about), *map(str, files)]))


# ---- Which estimators


def choose_estimators(job: BenchmarkFlow) -> tuple[dict[str, FlowConfig], dict[str, str]]:
    """The configuration of each, and a sentence for each that is left out. Raises ValueError where
    one that was named cannot be had, or a file has no use.
    """
    names = job.estimators or get_args(_EstimatorName)
    placed = {
        path: [flow for flow in ("raft_small", "raft_large") if _weights_fit(flow, path, job)]
        for path in job.weights
    }
    for path, flows in placed.items():
        if not flows:
            raise ValueError(
                f"--weights is {path}, expected the weights of raft_small or raft_large: {_explain_misfit(path, job)}"
            )
    _check_weights_used(placed, names)
    configs, left_out = {}, {}
    for name in dict.fromkeys(names):
        try:
            configs[name] = _make_flow_config(name, job, placed)
        except ValueError as error:
            if job.estimators:
                raise
            left_out[name] = f"{name} is left out: {error}"
    return configs, left_out


def _check_weights_used(placed: dict[Path, list[str]], names: Sequence[str]) -> None:
    """Raises ValueError where a file of weights fits none of these estimators, or one that another
    file is given for.
    """
    given: dict[str, Path] = {}
    for path, flows in placed.items():
        wanted = [name for name in flows if name in names]
        if not wanted:
            raise ValueError(
                f"--weights is {path}, which fits {' and '.join(flows)}, expected weights of one of the --estimators: {', '.join(names)}"
            )
        for name in wanted:
            if name in given:
                raise ValueError(
                    f"--weights has {given[name]} and {path}, which both fit {name}, expected one file for each network"
                )
            given[name] = path


def _make_flow_config(name: str, job: BenchmarkFlow, placed: dict[Path, list[str]]) -> FlowConfig:
    """Raises ValueError where its weights are missing."""
    if name in _DIS_CONFIGS:
        return _DIS_CONFIGS[name]
    path = next(
        (path for path, flows in placed.items() if name in flows), None
    ) or _find_cached_weights(name)
    if path is None:
        raise ValueError(f"no --weights FILE fits {name}, and torch.hub's cache has none of it")
    return _raft_config(name, path, job)


def _raft_config(name: str, path: Path, job: BenchmarkFlow) -> FlowConfig:
    flow: Any = name
    return FlowConfig(flow=flow, weights=str(path), device=job.device, updates=job.updates)


def _find_cached_weights(name: str) -> Path | None:
    """torchvision's own weights, where they have been downloaded before. Raises ValueError where
    the file is not the one that was published.
    """
    from pipeline.flow.raft_weights import check_published_digest, locate_default_weights

    path = locate_default_weights(name)[1]
    if not path.exists():
        return None
    check_published_digest(path)
    return path


def _weights_fit(flow: str, path: Path, job: BenchmarkFlow) -> bool:
    return _explain_misfit(path, job, flow) is None


def _explain_misfit(path: Path, job: BenchmarkFlow, flow: str = "raft_small") -> str | None:
    """Why a file is not the weights of a network."""
    from pipeline.flow.raft_weights import load_network

    try:
        load_network(replace(_raft_config(flow, path, job), device="cpu"))
    except ValueError as error:
        return str(error)
    return None


# ---- What they are measured on


_MeasureCase = Callable[[dict[str, FlowEstimator]], tuple[card.Numbers, card.Case]]


def _list_cases(
    job: BenchmarkFlow, known: Sequence[tuple[str, Path]], clips: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any], _MeasureCase]]:
    """Each case: the part of the card it belongs to, what is to be said of it, and what measures
    it.
    """
    for name, path in known:
        pair = read_known_pair(name, path)
        about = dict(
            size=[pair.source.shape[1], pair.source.shape[0]],
            valid=int(pair.valid.sum()),
            sha256=pair.digest,
        )
        yield (
            "known",
            about,
            lambda estimators, pair=pair: card.evaluate_known_pair(pair, estimators),
        )
    for name in job.scenes:
        yield (
            "scenes",
            {},
            lambda estimators, name=name: card.evaluate_scene(
                name, job.seed, job.frames, estimators
            ),
        )
    for name, uri in zip(_unique_names([Path(uri).name for uri in clips]), clips, strict=True):
        images, times = _read_first_images(uri)
        with Path(uri).open("rb") as file:
            about = dict(times_s=times, sha256=file_digest(file, "sha256").hexdigest())
        yield (
            "clips",
            about,
            lambda estimators, name=name, images=images: card.evaluate_clip(
                name, images, estimators
            ),
        )


def _unique_names(names: Sequence[str]) -> list[str]:
    """The names, with a number where one has been there before."""
    return [
        f"{name} ({names[:i].count(name) + 1})" if name in names[:i] else name
        for i, name in enumerate(names)
    ]


def _read_first_images(uri: str) -> tuple[list[np.ndarray], list[float]]:
    """The first frame of a clip and TARGETS later ones of its first SECONDS, at the working
    resolution, and their times.

    Raises ValueError where it cannot be read, or has one frame.
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
        shown = sorted({round(i) for i in np.linspace(0, last, _TARGET_FRAMES + 1)})
        return list(pool.frames(uri, video, shown, WORKING_SIZE)), [
            round(float(times[i]), 4) for i in shown
        ]
    except Quarantined as error:
        raise ValueError(f"{uri} cannot be used: {error.detail} ({error.reason})") from error


def _describe_protocol(job: BenchmarkFlow, protocols: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """All that decides the numbers."""
    import cv2  # not above: `jobs` must come first, which says what brings it if it is missing

    packages = [
        "numpy",
        "opencv-python-headless",
        "scipy",
        *(
            ["torch", "torchvision"]
            if any(map(card.is_learned, job.estimators or get_args(_EstimatorName)))
            else []
        ),
    ]
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
            fps=card.FPS,
            size=WORKING_SIZE,
            frequencies=card.FREQUENCIES,
        ),
        clips=dict(
            count=len(protocols["clips"]),
            of=protocols["clips"],
            size=WORKING_SIZE,
            seconds=_CLIP_SECONDS,
            pairs=_TARGET_FRAMES,
        ),
    )


# ---- What is printed


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


def _format_tables(about: dict[str, Any]) -> list[str]:
    """For a terminal."""
    columns = [column for column in _CARD_COLUMNS if about[column[0]]]
    rows = [["", *(title for _, _, title, _ in columns), "ms a pair"]]
    for name in about["estimators"]:
        found = [
            (card.mean_over_cases(about[part], name, key), factor)
            for part, key, _, factor in columns
        ] + [(card.seconds_per_pair(about, name), 1000)]
        rows.append(
            [name, *("-" if value is None else f"{factor * value:.3g}" for value, factor in found)]
        )
    return [
        align_columns(rows),
        "",
        *(
            to_printable(sentence, 1000)
            for sentence in card.headline_sentences(about) + card.smoothing_sentences(about)
        ),
    ]


if __name__ == "__main__":
    main()
