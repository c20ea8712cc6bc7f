"""TODO: what this file is."""

import hashlib
import importlib
import json
import resource
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import groupby, zip_longest
from math import ceil
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import tyro

from jobs.ablation.table import format_tables
from jobs.ablation.variants import (
    DATASET_FREQUENCIES,
    FULL_NAME,
    PAPER_COLUMNS,
    REAL_NAME,
    STAGE_NAMES,
    VARIANTS,
    QuiverCommand,
    TrainingCommands,
    Variant,
    film_commands,
    film_path,
    films_folder,
    make_command,
    photograph_path,
)
from jobs.cli.console import print_output
from jobs.cli.results import load_page_maker, write_results
from model.checkpoints import read_newest
from model.evaluate.paired import compare_evaluations
from model.evaluate.pairs import CROP_SIZE, NETWORK_SPECS
from pipeline.atomic_files import replace_file
from pipeline.dataset.folder import ContractMismatch
from pipeline.dataset.open import DatasetView, open_dataset
from pipeline.decode.config import DecodeConfig
from pipeline.decode.pool import shared_pool
from pipeline.images.encode import encode_animation, write_animation
from pipeline.preview.reconstruct import (
    count_repeats,
    read_manifest_table,
    read_settings,
    reconstruct,
)
from pipeline.synthetic.clips import WINDOW_S, clip_name_at
from pipeline.whole_clip.frames import decode_clip, open_clip
from schemas.outcome import Outcome, Quarantined
from schemas.run_contract import flatten, to_json_value
from schemas.seal import open_seal, seal, to_json

_SWAYING_CLIPS = ("lantern-50fps", "reeds-25fps", "plant-30fps", "cloth-24fps", "ripples-vfr")
"""Of the generated clips those that are to be learnt from."""
_GENERATED_FPS = 30.0
"""Of all of them, since films are compared frame by frame with motion at the working rate."""
_CLIP_LIST_FILE = "clips.csv"
_CONTRACT_FILE, _COMMAND_LOG_FILE, _REAL_COUNTS_FILE = (
    "ablation-run.json",
    "finished.json",
    "real.json",
)
_VARIANT_NAMES = [one.name for one in VARIANTS]
_MAX_PAGE_PHOTOGRAPHS = 2
"""Photographs of which the page shows what became."""
_PAPER_CAPTION = "The paper's table 2: its data, its networks, its training"
_CAUTIONS = {
    "smoke": "Ours, {films}: networks that have hardly learnt, so this says whether the way works, not which variant is better, and is not to be compared with the paper in absolute numbers",
    "small": "Ours, {films}: other clips and smaller networks than the paper's, so its order can be compared, and not its absolute numbers",
}
_REAL_FRAMES_NOTE = (
    "those nearest in time to the working rate, at the working size, compressed as the films are"
)


@dataclass(frozen=True, kw_only=True)
class Ablate:
    out: Path
    """Folder of everything that is made; created, or gone on from."""
    clips: tuple[str, ...] = ()
    """Videos to learn from and to be measured by, as of quiver extract-flow; without them, and
    without --data, generated ones.
    """
    data: str | None = None
    """A data set that is extracted already, with --frequencies 24 or more, instead of --clips."""
    filters: Literal["paper", "subtle", "none"] = "subtle"
    """Of --clips: which windows are learnt from."""
    test_fraction: float = 0.1
    """Of --clips: share of the videos held out, where a table does not say which."""
    photographs: int
    """Held-out windows at most of which films are made, of another clip each as long as there are
    others.
    """
    steps: int
    """Of DDIM, for each film."""
    seed: int = 0
    """Of the first film; each has the next one."""
    imagenet: Path | None = None
    """File of torchvision's weights of ResNet-34, with which the renderers begin."""
    inception: Path | None = None
    """Weights for FID and KID, as of quiver evaluate."""
    i3d: Path | None = None
    """Weights for FVD, as of quiver evaluate."""
    dt_i3d: Path | None = None
    """Weights for DT-FVD, as of quiver evaluate."""
    dt_i3d_32: Path | None = None
    """Weights for DT-FVD32, as of quiver evaluate."""
    device: Literal["cuda", "cpu"]
    """Where the networks run when films are made and measured."""
    only: tuple[str, ...] = ()
    """Names of some variants; without it, all of the table."""
    preset: tyro.conf.Suppress[str]
    """Of the trainings."""
    more: tyro.conf.Suppress[dict[str, tuple[str, ...]]] = field(default_factory=dict)
    """What each verb is told beside that."""
    generated: tyro.conf.Suppress[tuple[int, float]] = (1, 7.0)
    """Sets of generated clips that are learnt from, and how many seconds those last."""

    def __post_init__(self):
        if self.clips and self.data:
            raise ValueError(
                f"--clips is {' '.join(self.clips)} and --data is {self.data}, expected one of them"
            )
        for name, most in (("photographs", 100_000), ("steps", 1000)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"--{name} is {getattr(self, name)}, expected 1 to {most}")
        if strangers := [name for name in self.only if name not in _VARIANT_NAMES]:
            raise ValueError(
                f"--only names {', '.join(map(repr, strangers))}, expected some of {', '.join(_VARIANT_NAMES)}"
            )
        if self.seed < 0:
            raise ValueError(f"--seed is {self.seed}, expected at least 0")

    @property
    def dataset(self) -> str:
        return self.data or str(self.out / "data")

    @property
    def variants(self) -> list[Variant]:
        return [one for one in VARIANTS if not self.only or one.name in self.only]

    @property
    def training_commands(self) -> TrainingCommands:
        renderer = self.more.get("train-renderer", ()) + (
            ("--imagenet", str(self.imagenet)) if self.imagenet else ()
        )
        return TrainingCommands(
            preset=self.preset,
            data=self.dataset,
            out=self.out,
            extra_args=self.more | {"train-renderer": renderer},
        )


def write_or_check_contract(job: Ablate) -> None:
    """Writes down what is asked for, or compares. Raises ContractMismatch where the folder has
    another ablation, ValueError where it has something else.
    """
    path, asked = job.out / _CONTRACT_FILE, _make_contract(job)
    if not path.exists():
        if others := sorted(one.name for one in job.out.iterdir() if not one.name.startswith(".")):
            raise ValueError(
                f"{job.out} holds other files ({', '.join(others[:3])}), expected a new or an empty folder, or an ablation"
            )
        replace_file(path, seal(asked, indent=2))
        return
    try:
        there, now = flatten(open_seal(path.read_bytes(), indent=2)), flatten(asked)
    except ValueError as error:
        raise ValueError(f"{path} {error}; use another --out") from error
    different = [
        f"{name}: {there.get(name)} -> {now.get(name)}"
        for name in sorted(there.keys() | now.keys())
        if there.get(name) != now.get(name)
    ]
    if different:
        raise ContractMismatch(different, "an ablation")


def _make_contract(job: Ablate) -> dict[str, Any]:
    """What decides the films; which are made, and by which networks they are measured, may change."""
    left = {"out", "only", *(name.replace("-", "_") for name in NETWORK_SPECS)}
    settings = {one.name: getattr(job, one.name) for one in fields(job) if one.name not in left}
    content = (
        hashlib.sha256(open_dataset(job.data).derived_path("index.json").read_bytes()).hexdigest()
        if job.data
        else None
    )
    return to_json_value(
        settings | dict(imagenet=job.imagenet and _sha256_of_file(job.imagenet), content=content)
    )


def _sha256_of_file(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run_ablation(job: Ablate) -> None:
    """Everything that is left to do."""
    make_page, log = (
        load_page_maker("jobs.ablation.report", "render_ablation_page"),
        _CommandLog(job.out / _COMMAND_LOG_FILE),
    )
    if not (job.clips or job.data):
        _write_generated_list(job)
    log.run_pending(_dataset_commands(job))
    selection = open_dataset(job.dataset)
    windows = select_held_out(selection, job.photographs)
    keys = list(windows)
    log.run_pending(job.training_commands.list_commands(job.variants))
    real = write_real_films(selection, keys, job.out)
    for variant in job.variants:
        films_folder(job.out, variant.name).mkdir(parents=True, exist_ok=True)
        log.run_pending(
            film_commands(
                job.training_commands,
                variant,
                keys,
                ("--steps", job.steps, "--device", job.device),
                job.seed,
            )
        )
    log.run_pending(map(_evaluation_command(job), job.variants))
    found = _collect_results(job, windows, real, log)
    files = write_results(job.out, "ablation", found, make_page(found, _read_xt_slices(job, keys)))
    print_output("\n".join(["", *format_tables(found), "", *found["remarks"], *map(str, files)]))


def _generated_sets(job: Ablate) -> dict[int, tuple[str, float]]:
    """Of generated clips by their seed: for which split, and how long. Those held out last for one
    window.
    """
    learnt, seconds = job.generated
    return {
        seed: ("train", seconds) if seed < learnt else ("test", WINDOW_S)
        for seed in range(learnt + ceil(job.photographs / len(_SWAYING_CLIPS)))
    }


def _write_generated_list(job: Ablate) -> None:
    """Writes the table of all generated clips, which says what is held out: no clip of its seed is
    learnt from.
    """
    names = [clip_name_at(name, _GENERATED_FPS) for name in _SWAYING_CLIPS]
    rows = [
        f"{seed}/{name}.mp4,{name}-{seed},{split}"
        for seed, (split, _) in _generated_sets(job).items()
        for name in names
    ]
    (job.out / "clips").mkdir(exist_ok=True)
    replace_file(
        job.out / "clips" / _CLIP_LIST_FILE, "\n".join(["uri,clip_id,split", *rows, ""]).encode()
    )


def _dataset_commands(job: Ablate) -> list[QuiverCommand]:
    """The data set."""
    if job.data:
        return []
    made, folder = [], job.out / "clips"
    for seed, (_, seconds) in {} if job.clips else _generated_sets(job).items():
        made.append(
            make_command(
                "make-clips",
                folder / str(seed),
                "--out",
                folder / str(seed),
                "--seed",
                seed,
                "--seconds",
                seconds,
                "--fps",
                _GENERATED_FPS,
                "--only",
                *_SWAYING_CLIPS,
            )
        )
    out, clips = job.out / "data", job.clips or [folder / _CLIP_LIST_FILE]
    options = (
        "--filters",
        job.filters,
        "--test-fraction",
        job.test_fraction,
        "--frequencies",
        DATASET_FREQUENCIES,
        *job.more.get("extract-flow", ()),
    )
    return [*made, make_command("extract-flow", out, "--clips", *clips, "--out", out, *options)]


def select_held_out(selection: DatasetView, most: int) -> dict[str, str]:
    """Held-out windows, key and clip: the first of each clip, then the second of each, and so on.
    Raises ValueError where there is none.
    """
    kept: Any = [("outcome", "=", Outcome.KEPT.value), ("split", "=", "test")]
    columns = ["key", "clip_id", "start_time_s"]
    rows = read_manifest_table(selection, columns=columns, filters=kept).to_pylist()
    if not rows:
        raise ValueError(
            f"{selection} keeps no held-out window to be measured by, expected at least 1: more clips, or a greater --test-fraction"
        )
    clips = [
        list(windows)
        for _, windows in groupby(
            sorted(rows, key=itemgetter("clip_id", "start_time_s")), key=itemgetter("clip_id")
        )
    ]
    turns = [row for turn in zip_longest(*clips) for row in turn if row]
    return {row["key"]: row["clip_id"] for row in turns[:most]}


def write_real_films(
    selection: DatasetView, keys: Sequence[str], out: Path
) -> dict[str, dict[str, int]]:
    """The held-out windows as films at the working size and rate, and the photographs that they
    begin with. Of each film its frames, and how many are repeated. Raises ValueError where a video
    is gone.
    """
    for folder in (photograph_path(out, "").parent, films_folder(out, REAL_NAME)):
        folder.mkdir(parents=True, exist_ok=True)
    counted = films_folder(out, _REAL_COUNTS_FILE)
    counts: dict[str, dict[str, int]] = json.loads(counted.read_bytes()) if counted.exists() else {}
    for key in keys:
        if key in counts and film_path(out, REAL_NAME, key).exists():
            continue
        found = reconstruct(selection, key)
        replace_file(photograph_path(out, key), encode_animation([found.sample.image], 1.0, ".png"))
        try:
            frames = list(found.real_frames())
        except Quarantined as error:
            raise ValueError(f"the video of {key} cannot be read again: {error.detail}") from error
        write_animation(film_path(out, REAL_NAME, key), frames, found.settings.plan.fps)
        counts[key] = dict(frames=len(frames), repeated=count_repeats(frames))
        replace_file(counted, to_json(counts, indent=1))
    return {key: counts[key] for key in keys}


def remark_repeated_frames(real: Mapping[str, Mapping[str, int]], fps: float) -> list[str]:
    """What is to be said of real films that stand still now and then, since their videos have fewer
    frames than `fps`.
    """
    films = [one for one in real.values() if one["repeated"]]
    frames, again = (sum(one[name] for one in films) for name in ("frames", "repeated"))
    said = (
        f"{again} of {frames} frames of {len(films)} of {len(real)} real films are the one before again, as their clips have fewer than {fps:g} a second there: that favours "
        f"variants that stand still in flicker, warping error, changes and FVD; clips of {fps:g} frames a second or a multiple avoid it"
    )
    return [said] if films else []


def _evaluation_command(job: Ablate) -> Callable[[Variant], QuiverCommand]:
    """Of a variant's films."""
    weights = [
        word
        for name in NETWORK_SPECS
        if (path := getattr(job, name.replace("-", "_")))
        for word in (f"--{name}", path)
    ]
    real, options = (
        films_folder(job.out, REAL_NAME),
        (*weights, "--network-device", job.device, *job.more.get("evaluate", ())),
    )

    def of(variant: Variant) -> QuiverCommand:
        out = job.out / "evaluation" / variant.name
        return make_command(
            "evaluate",
            out / "evaluation.json",
            "--real",
            real,
            "--generated",
            films_folder(job.out, variant.name),
            *options,
            "--out",
            out,
        )

    return of


def _collect_results(
    job: Ablate, windows: dict[str, str], real: dict[str, dict[str, int]], log: "_CommandLog"
) -> dict[str, Any]:
    """What ablation.json says."""
    measured = {
        one.name: json.loads(_evaluation_command(job)(one).output.read_bytes())
        for one in job.variants
    }
    full, fps = measured.get(FULL_NAME), read_settings(open_dataset(job.dataset).dataset).plan.fps
    said = _training_efforts(job)
    variants = [
        asdict(one)
        | dict(
            metrics=measured[one.name]["metrics"],
            differences=_differences_from_full(measured[one.name], full),
            trained=said[one.name],
        )
        for one in job.variants
    ]
    films = (
        f"{len(windows)} films of {len(set(windows.values()))} held-out clips, {job.preset} preset"
    )
    return dict(
        variants=variants,
        compared_with=FULL_NAME if full else None,
        remarks=[
            *dict.fromkeys(remark for one in measured.values() for remark in one["remarks"]),
            *remark_repeated_frames(real, fps),
        ],
        stages=list(STAGE_NAMES),
        trainings=len(job.training_commands.list_commands(job.variants)),
        ours=f"Ours: {films}",
        caution=_CAUTIONS[job.preset].format(films=films),
        paper=dict(columns=list(PAPER_COLUMNS), words=_PAPER_CAPTION),
        commands=log.entries,
        protocol=dict(
            photographs=list(windows),
            seeds=f"{job.seed} for the first, and the next for each other",
            real=_REAL_FRAMES_NOTE,
            steps=job.steps,
        )
        | dict(
            repeated_frames={
                key: f"{one['repeated']} of {one['frames']}" for key, one in real.items()
            }
        )
        | next(iter(measured.values()))["protocol"],
    )


def _training_efforts(job: Ablate) -> dict[str, dict[str, dict[str, int]]]:
    """Of each variant and stage the steps, the samples of a step, and both multiplied, as the last
    checkpoints have them.
    """
    stages = {one.name: job.training_commands.checkpoint_folders(one) for one in job.variants}
    spent = {
        folder: checkpoint_effort(read_newest(folder)[0].config)
        for folder in {path for one in stages.values() for path in one.values()}
    }
    return {
        name: {stage: spent[folder] for stage, folder in one.items()}
        for name, one in stages.items()
    }


def checkpoint_effort(config: Mapping[str, Any]) -> dict[str, int]:
    """Of a checkpoint."""
    steps, batch = config["step"], config["training"]["batch"]
    return dict(steps=steps, batch=batch, samples=steps * batch)


def _differences_from_full(
    ours: Mapping[str, Any], full: Mapping[str, Any] | None
) -> dict[str, dict[str, Any]]:
    """Of each metric that is a mean over films, by how much a variant's films differ from those of
    full; of none where it is full, or full is not there.
    """
    if full is None or ours is full:
        return {}
    keys = [one["key"] for one in ours["metrics"]]
    return {
        key: found._asdict()
        for key, found in compare_evaluations(ours["pairs"], full["pairs"], keys).items()
    }


def _read_xt_slices(job: Ablate, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Of some photographs, the row in which the real film moves most over time: of that film, and
    of each variant's.
    """
    pool = shared_pool(DecodeConfig(), 1)
    pairs = json.loads(_evaluation_command(job)(job.variants[-1]).output.read_bytes())["pairs"]
    rows = {pair["name"]: pair["row"] for pair in pairs}
    shown = {REAL_NAME: "real frames"} | {one.name: one.title for one in job.variants}
    return {
        key: {
            title: decode_clip(open_clip(film_path(job.out, name, key), pool), CROP_SIZE, pool)
            .frames[:, rows[key]]
            .copy()
            for name, title in shown.items()
        }
        for key in keys[:_MAX_PAGE_PHOTOGRAPHS]
    }


class _CommandLog:
    """Which commands are finished, in a file: each is run once."""

    def __init__(self, path: Path):
        self.path = path
        self.entries: list[dict[str, Any]] = json.loads(path.read_bytes()) if path.exists() else []

    def run_pending(self, steps: Iterable[QuiverCommand]) -> None:
        """Runs those of the steps that are left. A command that fails ends the process with its own
        sentence.
        """
        for one in steps:
            if one.output.exists() and any(entry["command"] == str(one) for entry in self.entries):
                continue
            print_output(f"\n$ {one}")
            began = time.monotonic(), _cpu_seconds()
            importlib.import_module(f"jobs.{one.verb.replace('-', '_')}").main(list(one.args))
            took = dict(
                seconds=round(time.monotonic() - began[0], 2),
                cpu_seconds=round(_cpu_seconds() - began[1], 2),
            )
            self.entries.append(dict(command=str(one)) | took)
            replace_file(self.path, to_json(self.entries, indent=1))


def _cpu_seconds() -> float:
    """Of this process and of those that it waited for; Ray's workers are none of them."""
    return sum(
        sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
