"""The steps of an ablation: which commands make the dataset, the trainings, the films and their
evaluations, what is left to run, and the result in ablation.json.
"""

import hashlib
import json
import resource
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib import import_module
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
from jobs.cli.main import VERBS
from jobs.cli.results import load_page_maker, write_results
from model.checkpoints import load_checkpoint
from model.evaluate.extractors import NETWORK_SPECS
from model.evaluate.paired import compare_evaluations
from model.evaluate.pairs import CROP_SIZE
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
"""The generated clips that are used, for training and as held-out clips."""
_GENERATED_FPS = 30.0
"""Their frame rate: films at the working rate are compared with them frame by frame."""
_CLIP_LIST_FILE = "clips.csv"
_CONTRACT_FILE = "ablation-run.json"
_COMMAND_LOG_FILE = "finished.json"
_REAL_COUNTS_FILE = "real.json"
_VARIANT_NAMES = [variant.name for variant in VARIANTS]
_MAX_PAGE_PHOTOGRAPHS = 2
"""Photographs whose X-t slices are shown on the page."""
_PAPER_CAPTION = "The paper's table 2: its data, its networks, its training"
_CAUTIONS = {
    "smoke": (
        "Ours, {films}: networks that have hardly learnt, so this says whether the way works, not "
        "which variant is better, and is not to be compared with the paper in absolute numbers"
    ),
    "small": (
        "Ours, {films}: other clips and smaller networks than the paper's, so its order can be "
        "compared, and not its absolute numbers"
    ),
}
_REAL_FRAMES_NOTE = (
    "those nearest in time to the working rate, at the working size, compressed as the films are"
)


@dataclass(frozen=True, kw_only=True)
class Ablate:
    out: Path
    """Folder for all results; created if missing, resumed otherwise."""
    clips: tuple[str, ...] = ()
    """Videos for training and evaluation, as in quiver extract-flow. Without --clips and --data
    clips are generated.
    """
    data: str | None = None
    """A dataset extracted with --frequencies 24 or more, instead of --clips."""
    filters: Literal["paper", "subtle", "none"] = "subtle"
    """For --clips: the filters that windows must pass."""
    test_fraction: float = 0.1
    """For --clips: share of the videos that are held out, unless a table says which."""
    photographs: int
    """Most held-out windows of which films are made, each of another clip as long as there are
    others.
    """
    steps: int
    """DDIM steps for each film."""
    seed: int = 0
    """Seed of the first film; each further one has the next seed."""
    imagenet: Path | None = None
    """File with torchvision's weights of ResNet-34, from which the renderers start."""
    inception: Path | None = None
    """Weights for FID and KID, as in quiver evaluate."""
    i3d: Path | None = None
    """Weights for FVD, as in quiver evaluate."""
    dt_i3d: Path | None = None
    """Weights for DT-FVD, as in quiver evaluate."""
    dt_i3d_32: Path | None = None
    """Weights for DT-FVD32, as in quiver evaluate."""
    device: Literal["cuda", "cpu"]
    """Device on which the networks run when films are made and measured."""
    only: tuple[str, ...] = ()
    """Names of some variants; by default all of the table."""
    preset: tyro.conf.Suppress[str]
    """Preset of the trainings."""
    more: tyro.conf.Suppress[dict[str, tuple[str, ...]]] = field(default_factory=dict)
    """Further options for each verb."""
    generated: tyro.conf.Suppress[tuple[int, float]] = (1, 7.0)
    """Sets of generated clips for training, and their length in seconds."""

    def __post_init__(self):
        if self.clips and self.data:
            raise ValueError(
                f"--clips is {' '.join(self.clips)} and --data is {self.data}, expected one of them"
            )
        for name, maximum in (("photographs", 100_000), ("steps", 1000)):
            if not 1 <= getattr(self, name) <= maximum:
                raise ValueError(f"--{name} is {getattr(self, name)}, expected 1 to {maximum}")
        if unknown := [name for name in self.only if name not in _VARIANT_NAMES]:
            raise ValueError(
                f"--only names {', '.join(map(repr, unknown))}, expected some of "
                f"{', '.join(_VARIANT_NAMES)}"
            )
        if self.seed < 0:
            raise ValueError(f"--seed is {self.seed}, expected at least 0")

    @property
    def dataset(self) -> str:
        return self.data or str(self.out / "data")

    @property
    def variants(self) -> list[Variant]:
        return [variant for variant in VARIANTS if not self.only or variant.name in self.only]

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
    """Writes the settings of a new ablation, or compares them with those in the folder. Raises
    ContractMismatch for an ablation with other settings, ValueError for a folder with other files.
    """
    path, contract = job.out / _CONTRACT_FILE, _make_contract(job)
    if not path.exists():
        names = sorted(file.name for file in job.out.iterdir() if not file.name.startswith("."))
        if names:
            raise ValueError(
                f"{job.out} holds other files ({', '.join(names[:3])}), expected a new or an empty "
                "folder, or an ablation"
            )
        replace_file(path, seal(contract, indent=2))
        return
    try:
        recorded = flatten(open_seal(path.read_bytes(), indent=2))
    except ValueError as error:
        raise ValueError(f"{path} {error}; use another --out") from error
    current = flatten(contract)
    different = [
        f"{name}: {recorded.get(name)} -> {current.get(name)}"
        for name in sorted(recorded.keys() | current.keys())
        if recorded.get(name) != current.get(name)
    ]
    if different:
        raise ContractMismatch(different, "an ablation")


def _make_contract(job: Ablate) -> dict[str, Any]:
    """The settings that decide the films. Which variants are made, and which networks measure the
    films, may change.
    """
    variable = {"out", "only", *(name.replace("-", "_") for name in NETWORK_SPECS)}
    settings = {
        field.name: getattr(job, field.name) for field in fields(job) if field.name not in variable
    }
    content = (
        hashlib.sha256(open_dataset(job.data).derived_path("index.json").read_bytes()).hexdigest()
        if job.data
        else None
    )
    return to_json_value(
        settings | dict(imagenet=job.imagenet and _sha256_of_file(job.imagenet), content=content)
    )


def _sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run_ablation(job: Ablate) -> None:
    """Runs all steps that are not finished, and writes ablation.json and ablation.html."""
    make_page = load_page_maker("jobs.ablation.report", "render_ablation_page")
    log = _CommandLog(job.out / _COMMAND_LOG_FILE)
    if not (job.clips or job.data):
        _write_generated_list(job)
    log.run_pending(_dataset_commands(job))
    view = open_dataset(job.dataset)
    windows = select_held_out(view, job.photographs)
    keys = list(windows)
    log.run_pending(job.training_commands.list_commands(job.variants))
    real = write_real_films(view, keys, job.out)
    options = ("--steps", job.steps, "--device", job.device)
    for variant in job.variants:
        films_folder(job.out, variant.name).mkdir(parents=True, exist_ok=True)
        log.run_pending(film_commands(job.training_commands, variant, keys, options, job.seed))
    log.run_pending(_evaluation_command(job, variant) for variant in job.variants)
    result = _collect_results(job, windows, real, log)
    page = make_page(result, _read_xt_slices(job, keys))
    files = write_results(job.out, "ablation", result, page)
    print_output("\n".join(["", *format_tables(result), "", *result["remarks"], *map(str, files)]))


def _generated_sets(job: Ablate) -> dict[int, tuple[str, float]]:
    """The split and the seconds of each set of generated clips, by its seed. Held-out clips last
    for one window.
    """
    train_sets, seconds = job.generated
    return {
        seed: ("train", seconds) if seed < train_sets else ("test", WINDOW_S)
        for seed in range(train_sets + ceil(job.photographs / len(_SWAYING_CLIPS)))
    }


def _write_generated_list(job: Ablate) -> None:
    """Writes the table of all generated clips, with their splits: no seed is in two splits."""
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
    """The commands that make the dataset, and the generated clips for it."""
    if job.data:
        return []
    commands, folder = [], job.out / "clips"
    for seed, (_, seconds) in {} if job.clips else _generated_sets(job).items():
        path = folder / str(seed)
        options = ("--seed", seed, "--seconds", seconds, "--fps", _GENERATED_FPS)
        commands.append(
            make_command("make-clips", path, "--out", path, *options, "--only", *_SWAYING_CLIPS)
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
    extract = make_command("extract-flow", out, "--clips", *clips, "--out", out, *options)
    return [*commands, extract]


def select_held_out(view: DatasetView, count: int) -> dict[str, str]:
    """At most `count` held-out windows, clip by key: the first window of each clip, then the second
    of each, and so on. Raises ValueError if there is none.
    """
    filters: Any = [("outcome", "=", Outcome.KEPT.value), ("split", "=", "test")]
    columns = ["key", "clip_id", "start_time_s"]
    rows = read_manifest_table(view, columns=columns, filters=filters).to_pylist()
    if not rows:
        raise ValueError(
            f"{view} keeps no held-out window to be measured by, expected at least 1: more clips, "
            "or a greater --test-fraction"
        )
    rows = sorted(rows, key=itemgetter("clip_id", "start_time_s"))
    clips = [list(windows) for _, windows in groupby(rows, key=itemgetter("clip_id"))]
    ordered = [row for turn in zip_longest(*clips) for row in turn if row]
    return {row["key"]: row["clip_id"] for row in ordered[:count]}


def write_real_films(
    view: DatasetView, keys: Sequence[str], out: Path
) -> dict[str, dict[str, int]]:
    """Writes the held-out windows as films at the working size and rate, and their first frames as
    photographs. Returns the number of frames and of repeated frames of each film. Raises ValueError
    if a video is gone.
    """
    for folder in (photograph_path(out, "").parent, films_folder(out, REAL_NAME)):
        folder.mkdir(parents=True, exist_ok=True)
    path = films_folder(out, _REAL_COUNTS_FILE)
    counts: dict[str, dict[str, int]] = json.loads(path.read_bytes()) if path.exists() else {}
    for key in keys:
        if key in counts and film_path(out, REAL_NAME, key).exists():
            continue
        window = reconstruct(view, key)
        photograph = encode_animation([window.sample.image], 1.0, ".png")
        replace_file(photograph_path(out, key), photograph)
        try:
            frames = list(window.real_frames())
        except Quarantined as error:
            raise ValueError(f"the video of {key} cannot be read again: {error.detail}") from error
        write_animation(film_path(out, REAL_NAME, key), frames, window.settings.plan.fps)
        counts[key] = dict(frames=len(frames), repeated=count_repeats(frames))
        replace_file(path, to_json(counts, indent=1))
    return {key: counts[key] for key in keys}


def remark_repeated_frames(real: Mapping[str, Mapping[str, int]], fps: float) -> list[str]:
    """A remark about real films that repeat frames, since their videos have fewer than `fps` a
    second; empty if there are none.
    """
    films = [film for film in real.values() if film["repeated"]]
    if not films:
        return []
    frames, repeated = (sum(film[name] for film in films) for name in ("frames", "repeated"))
    return [
        f"{repeated} of {frames} frames of {len(films)} of {len(real)} real films are the one "
        f"before again, as their clips have fewer than {fps:g} a second there: that favours "
        "variants that stand still in flicker, warping error, changes and FVD; clips of "
        f"{fps:g} frames a second or a multiple avoid it"
    ]


def _evaluation_command(job: Ablate, variant: Variant) -> QuiverCommand:
    """The command that evaluates a variant's films."""
    out = job.out / "evaluation" / variant.name
    films = ("--real", films_folder(job.out, REAL_NAME))
    films += ("--generated", films_folder(job.out, variant.name))
    weights = [
        word
        for name in NETWORK_SPECS
        if (path := getattr(job, name.replace("-", "_")))
        for word in (f"--{name}", path)
    ]
    options = ("--network-device", job.device, *job.more.get("evaluate", ()))
    return make_command(
        "evaluate", out / "evaluation.json", *films, *weights, *options, "--out", out
    )


def _collect_results(
    job: Ablate, windows: dict[str, str], real: dict[str, dict[str, int]], log: "_CommandLog"
) -> dict[str, Any]:
    """The content of ablation.json. `windows` are clips by the keys of their windows; `real` counts
    the frames of the real films.
    """
    evaluations = {
        variant.name: json.loads(_evaluation_command(job, variant).output.read_bytes())
        for variant in job.variants
    }
    full = evaluations.get(FULL_NAME)
    fps = read_settings(open_dataset(job.dataset).dataset).plan.fps
    efforts = _training_efforts(job)
    variants = [
        asdict(variant)
        | dict(
            metrics=evaluations[variant.name]["metrics"],
            differences=_differences_from_full(evaluations[variant.name], full),
            trained=efforts[variant.name],
        )
        for variant in job.variants
    ]
    films = (
        f"{len(windows)} films of {len(set(windows.values()))} held-out clips, {job.preset} preset"
    )
    return dict(
        variants=variants,
        compared_with=FULL_NAME if full else None,
        remarks=[
            *dict.fromkeys(
                remark for evaluation in evaluations.values() for remark in evaluation["remarks"]
            ),
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
            repeated_frames={
                key: f"{film['repeated']} of {film['frames']}" for key, film in real.items()
            },
        )
        | next(iter(evaluations.values()))["protocol"],
    )


def _training_efforts(job: Ablate) -> dict[str, dict[str, dict[str, int]]]:
    """The effort of each stage of each variant, from the newest checkpoints. Variants share
    checkpoints, and each is read once.
    """
    stages = {
        variant.name: job.training_commands.checkpoint_folders(variant) for variant in job.variants
    }
    efforts = {
        folder: checkpoint_effort(load_checkpoint(folder, warn=lambda _: None).config)
        for folder in {path for folders in stages.values() for path in folders.values()}
    }
    return {
        name: {stage: efforts[folder] for stage, folder in folders.items()}
        for name, folders in stages.items()
    }


def checkpoint_effort(config: Mapping[str, Any]) -> dict[str, int]:
    """The steps, the samples per step, and the samples of a training, by a checkpoint's config."""
    steps, batch = config["step"], config["training"]["batch"]
    return dict(steps=steps, batch=batch, samples=steps * batch)


def _differences_from_full(
    variant: Mapping[str, Any], full: Mapping[str, Any] | None
) -> dict[str, dict[str, Any]]:
    """The difference of a variant's films from those of the full method in each metric that is a
    mean over films; empty for the full method, and if it was not made.
    """
    if full is None or variant is full:
        return {}
    keys = [metric["key"] for metric in variant["metrics"]]
    differences = compare_evaluations(variant["pairs"], full["pairs"], keys)
    return {key: difference._asdict() for key, difference in differences.items()}


def _read_xt_slices(job: Ablate, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """X-t slices of some photographs, by the title of the film: the real film's and each variant's,
    at the row in which the real film moves most.
    """
    pool = shared_pool(DecodeConfig(), 1)
    evaluation = json.loads(_evaluation_command(job, job.variants[-1]).output.read_bytes())
    rows = {pair["name"]: pair["row"] for pair in evaluation["pairs"]}
    titles = {REAL_NAME: "real frames"}
    titles |= {variant.name: variant.title for variant in job.variants}

    def read_slice(name: str, key: str) -> Any:
        film = decode_clip(open_clip(film_path(job.out, name, key), pool), CROP_SIZE, pool)
        return film.frames[:, rows[key]].copy()

    return {
        key: {title: read_slice(name, key) for name, title in titles.items()}
        for key in keys[:_MAX_PAGE_PHOTOGRAPHS]
    }


class _CommandLog:
    """The finished commands, in a file, so that each is run only once."""

    def __init__(self, path: Path):
        self.path = path
        self.entries: list[dict[str, Any]] = json.loads(path.read_bytes()) if path.exists() else []

    def run_pending(self, commands: Iterable[QuiverCommand]) -> None:
        """Runs the commands that are not finished. One that fails ends the process with its own
        error message.
        """
        for command in commands:
            finished = any(entry["command"] == str(command) for entry in self.entries)
            if finished and command.output.exists():
                continue
            print_output(f"\n$ {command}")
            start, cpu_start = time.monotonic(), _cpu_seconds()
            import_module(VERBS[command.verb][0]).main(list(command.args))
            seconds, cpu_seconds = time.monotonic() - start, _cpu_seconds() - cpu_start
            self.entries.append(
                dict(
                    command=str(command),
                    seconds=round(seconds, 2),
                    cpu_seconds=round(cpu_seconds, 2),
                )
            )
            replace_file(self.path, to_json(self.entries, indent=1))


def _cpu_seconds() -> float:
    """CPU time of this process and of the children that it waited for, without Ray's workers."""
    processes = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(sum(resource.getrusage(process)[:2]) for process in processes)
