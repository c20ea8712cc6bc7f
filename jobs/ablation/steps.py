"""The steps of an ablation: which commands make the dataset, the trainings, the films and their
evaluations, and which of them are left to run.
"""

import json
import resource
import time
from collections.abc import Iterable, Sequence
from importlib import import_module
from itertools import groupby, zip_longest
from math import ceil
from operator import itemgetter
from pathlib import Path
from typing import Any

from jobs.ablation.results import collect_results, read_xt_slices
from jobs.ablation.settings import Ablate
from jobs.ablation.table import format_tables
from jobs.ablation.variants import (
    DATASET_FREQUENCIES,
    REAL_NAME,
    QuiverCommand,
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
from model.evaluate.extractors import NETWORK_SPECS
from pipeline.atomic_files import replace_file
from pipeline.dataset.open import DatasetView, open_dataset
from pipeline.images.encode import encode_animation, write_animation
from pipeline.preview.reconstruct import count_repeats, read_manifest_table, reconstruct
from pipeline.synthetic.clips import WINDOW_S, clip_name_at
from schemas.outcome import Outcome, Quarantined
from schemas.seal import to_json

_SWAYING_CLIPS = ("lantern-50fps", "reeds-25fps", "plant-30fps", "cloth-24fps", "ripples-vfr")
"""The generated clips that are used, for training and as held-out clips."""
_GENERATED_FPS = 30.0
"""Their frame rate: films at the working rate are compared with them frame by frame."""
_CLIP_LIST_FILE = "clips.csv"
_COMMAND_LOG_FILE = "finished.json"
_REAL_COUNTS_FILE = "real.json"


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
    evaluations = {
        variant.name: json.loads(_evaluation_command(job, variant).output.read_bytes())
        for variant in job.variants
    }
    result = collect_results(job, evaluations, windows, real, log.entries)
    page = make_page(result, read_xt_slices(job, evaluations[job.variants[-1].name], keys))
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
