"""A small data set, and everything that storage or a person may do to it."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.atomic_files import TEMPORARY_NAME
from pipeline.dataset.finalize import DERIVED_FILES, finalize
from pipeline.dataset.folder import Dataset
from pipeline.dataset.run_lock import LOCK_FOLDER
from pipeline.dataset.shards import ShardWriter, read_sample
from pipeline.extract.build_shard import build_shard
from pipeline.extract.config import BuildConfig, PlanConfig, to_contract
from pipeline.extract.plan import plan_rows
from pipeline.extract.plan_clip import plan_clip
from pipeline.extract.versions import library_versions
from pipeline.filters import PRESETS
from pipeline.flow.config import FlowConfig
from schemas.clip import Clip
from schemas.sample import Sample, motion_layout
from schemas.seal import open_seal, seal
from tests.support import videos
from tests.support.building import probe_video

CONFIG = BuildConfig(
    size=(64, 40),
    frequencies=6,
    pairs=1,
    checks=2,
    flow=FlowConfig(dis_preset="fast"),
    thresholds=PRESETS["subtle"],
    plan=PlanConfig(frames=24, stride=12, windows_per_shard=4),
)
FULL_COUNTS = os.environ.get("QUIVER_FAULTS") == "full"
MUTATION_COUNT = int(os.environ.get("QUIVER_MUTATIONS", "500" if FULL_COUNTS else "26"))
"""How many mutations of all kinds every reader is given."""
RANDOM_FLIP_COUNT = int(os.environ.get("QUIVER_MUTATIONS", "300" if FULL_COUNTS else "40"))
"""How many mutations are drawn by chance, beside those that are listed."""
CUTS_PER_TAR = 64 if FULL_COUNTS else 3
"""At how many places each tar is cut."""


def make_dataset(folder: Path, licences: Sequence[str | None] = (None,) * 5) -> Path:
    """A finished data set of a few windows, kept and rejected, train and test, with its videos
    beside it; of each of its five clips the licence, which is its source too.
    """
    for name in ("clips", "dataset"):
        (folder / name).mkdir()
    clips = [
        Clip(
            uri=str(folder / "clips" / f"{i}.mp4"),
            clip_id=f"clip-{i}",
            split="test" if i == 4 else "train",
            licence=said,
            source=said,
        )
        for i, said in enumerate(licences)
    ]
    for i, clip in enumerate(clips):
        videos.write_swaying(
            Path(clip.uri),
            seconds=1.3,
            amplitude=0.0 if i == 2 else 1.5,
            hertz=1.0 + 0.3 * i,
            seed=i,
        )
    dataset = Dataset(folder / "dataset")
    rows = plan_rows([plan_clip(clip, CONFIG.plan, probe_video) for clip in clips], CONFIG.plan)
    dataset.create_or_resume(rows, to_contract(CONFIG), library_versions(CONFIG))
    build_directly(dataset, group_by_shard(rows))
    finalize(dataset)
    return dataset.root


def group_by_shard(rows: list[dict]) -> dict[str, list[dict]]:
    return {
        shard: [row for row in rows if row.shard == shard]
        for shard in dict.fromkeys(row.shard for row in rows if row.key)
    }


def build_directly(dataset: Dataset, shards: dict[str, list[dict]]) -> list[str]:
    """Builds shards in this process; none fails."""
    for shard, rows in shards.items():
        list(build_shard(dataset, shard, rows, CONFIG))
    return []


@contextmanager
def in_process_builder(dataset: Dataset) -> Iterator[Callable[[dict[str, list[dict]]], list[str]]]:
    yield partial(build_directly, dataset)


def read_promised_files(root: Path) -> dict[str, bytes]:
    """Every file of a data set that is promised."""
    paths = [
        path
        for path in root.rglob("*")
        if path.is_file()
        and path.name != "progress.jsonl"
        and not {LOCK_FOLDER, ".removed"} & {*path.parts}
    ]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


class Mutation(NamedTuple):
    """Something that happens to a data set; returns the files that verify has to name, and words it
    has to say.
    """

    name: str
    apply: Callable[[Path], tuple[set[str], str]]


def flip_bit(path: str, place: float, bit: int, root: Path) -> tuple[set[str], str]:
    """One bit, at this share of the file's length; in a tar, its sample is named."""
    data = bytearray((root / path).read_bytes())
    at = int(place * len(data))
    data[at] ^= 1 << bit
    (root / path).write_bytes(data)
    return {path}, sample_at(root, path, at)


def flip_bit_at(
    path: str, where: Callable[[Path], int], words: str, root: Path
) -> tuple[set[str], str]:
    """One bit of the byte there, and the words for it."""
    data = bytearray((root / path).read_bytes())
    data[where(root / path)] ^= 1
    (root / path).write_bytes(data)
    return {path}, words


def sample_at(root: Path, path: str, at: int) -> str:
    """The key of the sample that has this byte of a tar; none for the blocks that end it, and for
    other files.
    """
    if not path.endswith(".tar"):
        return ""
    rows = Dataset(root).read_record(Path(path).stem).kept_members()
    inside = [key for key, row in rows.items() if row["image_offset"] - 512 <= at]
    return inside[-1] if at < (root / path).stat().st_size - 1024 else ""


def length_share(share: float, file: Path) -> int:
    return int(share * file.stat().st_size)


def truncate_file(path: str, length: Callable[[Path], int], root: Path) -> tuple[set[str], str]:
    file = root / path
    file.write_bytes(file.read_bytes()[: length(file)])
    return {path}, ""


def zero_tail(path: str, share: float, root: Path) -> tuple[set[str], str]:
    data = (root / path).read_bytes()
    kept = int(share * len(data))
    (root / path).write_bytes(data[:kept] + bytes(len(data) - kept))
    return {path}, sample_at(root, path, kept)


def swap_files(one: str, other: str, root: Path) -> tuple[set[str], str]:
    first, second = (root / one).read_bytes(), (root / other).read_bytes()
    (root / one).write_bytes(second)
    (root / other).write_bytes(first)
    return {one, other}, ""


def delete_file(path: str, root: Path) -> tuple[set[str], str]:
    (root / path).unlink()
    return {path}, "is not there" if path in DERIVED_FILES else "is gone"


def add_file(path: str, root: Path) -> tuple[set[str], str]:
    (root / path).write_bytes(b"someone's")
    return {path}, "left behind" if TEMPORARY_NAME.fullmatch(
        Path(path).name
    ) else "no shard of the plan"


def rewrite_tar(
    shard: str, change: Callable[[Sample], Sample], with_record: bool, words: str, root: Path
) -> tuple[set[str], str]:
    """Writes a tar with its first sample changed, and `with_record` a record that agrees."""
    dataset = Dataset(root)
    kept, record = dataset.read_record(shard).kept_members(), read_record_json(dataset, shard)
    samples = [read_sample(dataset.tar_path(shard), key, row) for key, row in kept.items()]
    writer = ShardWriter(dataset.tar_path(shard))
    for sample in [change(samples[0]), *samples[1:]]:
        columns = writer.add(sample)
        next(row for row in record["rows"] if row["key"] == sample.key).update(columns)
    writer._write(bytes(1024))
    writer.file.close()
    writer.temporary_path.replace(writer.path)
    if with_record:
        record["tar"] = {"sha256": writer.sha256.hexdigest(), "bytes": writer.path.stat().st_size}
        write_record_json(dataset, shard, record)
    return {f"shards/{shard}.tar"}, words


def spectrum_bytes(root: Path, shard: str, number: int, frequency: int | None) -> slice:
    """Bytes of a tar that hold the spectrum of its `number`-th sample, or one frequency of it."""
    rows = list(Dataset(root).read_record(shard).kept_members().values())
    row = rows[number % len(rows)]
    with Dataset(root).tar_path(shard).open("rb") as tar:
        tar.seek(row["motion_offset"])
        layout = motion_layout(tar.read(row["motion_size"]), row["motion_size"])
    first, after = (
        row["motion_offset"] + layout.data_offset + at
        for at in layout.arrays["spectrum"]["data_offsets"]
    )
    if frequency is None:
        return slice(first, after)
    length = (after - first) // CONFIG.frequencies
    return slice(first + frequency * length, first + (frequency + 1) * length)


def change_spectrum(
    shard: str, number: int, frequency: int | None, change: Callable[[np.ndarray], Any], root: Path
) -> tuple[set[str], str]:
    """Changes the bits of a sample's coefficients, uint16, in place."""
    path, part = f"shards/{shard}.tar", spectrum_bytes(root, shard, number, frequency)
    data = bytearray((root / path).read_bytes())
    change(np.frombuffer(data, np.uint16, (part.stop - part.start) // 2, part.start))
    (root / path).write_bytes(data)
    return {path}, sample_at(root, path, part.start)


def zero_bits(bits: np.ndarray) -> None:
    bits[:] = 0


def flip_signs(bits: np.ndarray) -> None:
    bits ^= 0x8000


def reverse_order(bits: np.ndarray) -> None:
    bits[:] = bits[::-1].copy()


def write_elsewhere(
    path: str, source: float, goal: float, length: int, root: Path
) -> tuple[set[str], str]:
    """A part of a file stands over another part, as after a misdirected write."""
    data = bytearray((root / path).read_bytes())
    begin, at = (int(place * (len(data) - length)) for place in (source, goal))
    data[at : at + length] = data[begin : begin + length]
    (root / path).write_bytes(data)
    return {path}, ""


def zero_page(path: str, place: float, root: Path) -> tuple[set[str], str]:
    data = bytearray((root / path).read_bytes())
    begin = int(place * len(data)) // 4096 * 4096
    data[begin : begin + 4096] = bytes(len(data[begin : begin + 4096]))
    (root / path).write_bytes(data)
    return {path}, ""


def with_nan(sample: Sample) -> Sample:
    spectrum = sample.spectrum.copy()
    spectrum[2, 1, 5, 7] = np.nan
    return replace(sample, spectrum=spectrum)


def without_last_frequency(sample: Sample) -> Sample:
    return replace(sample, spectrum=sample.spectrum[:-1])


def with_other_split(sample: Sample) -> Sample:
    return replace(sample, meta=sample.meta | {"split": "holdout"})


def with_doubled_spectrum(sample: Sample) -> Sample:
    return replace(sample, spectrum=sample.spectrum * np.float16(2))


def read_record_json(dataset: Dataset, shard: str) -> dict[str, Any]:
    """The record of a shard as the JSON that it is, without its digest."""
    return open_seal(dataset.record_path(shard).read_bytes())


def write_record_json(dataset: Dataset, shard: str, record: dict[str, Any]) -> None:
    """Writes a record of whatever content with a digest that agrees."""
    dataset.record_path(shard).write_bytes(seal(record))


def rewrite_record(shard: str, change: dict, root: Path) -> tuple[set[str], str]:
    """A record with something else in it, and a digest that agrees."""
    write_record_json(Dataset(root), shard, read_record_json(Dataset(root), shard) | change)
    return {f"records/{shard}.json"}, ""


def rewrite_json(path: str, root: Path) -> tuple[set[str], str]:
    """Another JSON text of the same value."""
    (root / path).write_bytes(json.dumps(json.loads((root / path).read_bytes())).encode())
    return {path}, ""


def rewrite_sealed_file(path: Path, **changes: Any) -> None:
    """A sealed file that says something else, with a digest that agrees."""
    value = json.loads(path.read_bytes()) | changes
    value.pop("digest", None)
    path.write_bytes(seal(value, 2 if path.name in ("run.json", "statistics.json") else 1))


SHARDS = ("train-000000", "train-000001", "test-000000")
TARS = tuple(f"shards/{shard}.tar" for shard in SHARDS)
DAMAGED_FILES = (
    *(
        f"{folder}/{shard}.{suffix}"
        for shard in SHARDS
        for folder, suffix in (("records", "json"), ("histograms", "safetensors"))
    ),
    *TARS,
    *DERIVED_FILES,
)
CONTRACT_FILES = ("run.json", "plan.parquet")
SHARD_FILE_KINDS = (("shards", "tar"), ("records", "json"), ("histograms", "safetensors"))
CUT_LENGTHS: dict[str, Callable[[Path], int]] = {
    "to nothing": lambda file: 0,
    "in a header": lambda file: 100,
    "after a header": lambda file: 512,
    "between samples": lambda file: second_sample_offset(file),
    "before the end": lambda file: file.stat().st_size - 1024,
    "in the end": lambda file: file.stat().st_size - 512,
    "by a byte": lambda file: file.stat().st_size - 1,
}


def second_sample_offset(file: Path) -> int:
    """Where it begins in a tar."""
    rows = Dataset(file.parents[1]).read_record(file.stem).kept_members()
    return list(rows.values())[1]["image_offset"] - 512


def first_row(file: Path) -> Mapping[str, int]:
    """Of the first sample of a tar."""
    return next(iter(Dataset(file.parents[1]).read_record(file.stem).kept_members().values()))


FLIP_PLACES: dict[str, tuple[Callable[[Path], int], str]] = {
    "a header": (
        lambda file: first_row(file)["json_offset"] - 100,
        "clip-0-000000.json has another header",
    ),
    "padding": (
        lambda file: first_row(file)["json_offset"] + first_row(file)["json_size"],
        "clip-0-000000.json is not followed by zeros",
    ),
    "its end": (lambda file: file.stat().st_size - 1, "the blocks that end it are not zeros"),
}


def listed_mutations() -> list[Mutation]:
    """Each kind at least once."""
    tar, shard = TARS[0], SHARDS[0]
    strangers = [
        "shards/train-000009.tar",
        "shards/notes.txt",
        "records/old.json",
        "histograms/x.safetensors",
        "shards/.notes.tmp",
        f"shards/.a.tar.{'0' * 32}.tmp",
        f".run.json.{'1' * 32}.tmp",
    ]
    found = [
        Mutation(f"cut {tar} {name}", partial(truncate_file, tar, length))
        for name, length in CUT_LENGTHS.items()
    ]
    found += [
        Mutation(f"flip a bit of {name} of {tar}", partial(flip_bit_at, tar, where, words))
        for name, (where, words) in FLIP_PLACES.items()
    ]
    found += [
        Mutation(f"zero {tar} from {share}", partial(zero_tail, tar, share))
        for share in (0.3, 0.95)
    ]
    found += [
        Mutation(
            f"swap {folder}",
            partial(swap_files, f"{folder}/{SHARDS[0]}{end}", f"{folder}/{SHARDS[1]}{end}"),
        )
        for folder, end in (
            ("shards", ".tar"),
            ("records", ".json"),
            ("histograms", ".safetensors"),
        )
    ]
    found += [Mutation(f"delete {path}", partial(delete_file, path)) for path in DAMAGED_FILES]
    found += [Mutation(f"add {path}", partial(add_file, path)) for path in strangers]
    found += [
        Mutation(
            "write NaN",
            partial(rewrite_tar, shard, with_nan, False, "motion.safetensors has other bytes"),
        ),
        Mutation(
            "write a wrong shape",
            partial(rewrite_tar, shard, without_last_frequency, False, "motion.safetensors"),
        ),
        Mutation(
            "write NaN, and a record that agrees",
            partial(rewrite_tar, shard, with_nan, True, "spectrum has values that are not finite"),
        ),
        Mutation(
            "write a wrong shape, and a record that agrees",
            partial(
                rewrite_tar, shard, without_last_frequency, True, "has a spectrum of [5, 4, 40, 64]"
            ),
        ),
        Mutation(
            "write another split, and a record that agrees",
            partial(
                rewrite_tar, shard, with_other_split, True, "has split 'holdout', expected 'train'"
            ),
        ),
        Mutation("zero a spectrum", partial(change_spectrum, shard, 0, None, zero_bits)),
        Mutation("zero a frequency", partial(change_spectrum, shard, 1, 3, zero_bits)),
        Mutation(
            "flip the signs of a frequency", partial(change_spectrum, shard, 1, 2, flip_signs)
        ),
        Mutation("turn a frequency round", partial(change_spectrum, shard, 0, 1, reverse_order)),
        Mutation("another run, sealed", partial(rewrite_record, shard, {"run": "0" * 64})),
        Mutation("no rows, sealed", partial(rewrite_record, shard, {"rows": []})),
        Mutation("other values, sealed", partial(rewrite_record, shard, {"values": 1})),
        Mutation("a record without meaning, sealed", partial(rewrite_record, shard, {"rows": 7})),
        Mutation("a record in another order", partial(rewrite_json, f"records/{shard}.json")),
        Mutation("an index in another order", partial(rewrite_json, "index.json")),
    ]
    return found


def make_cuts(count: int) -> list[Mutation]:
    """Each tar, cut at so many places."""
    return [
        Mutation(
            f"cut {path} at {i} of {count}",
            partial(truncate_file, path, lambda file, i=i: i * file.stat().st_size // count),
        )
        for path in TARS
        for i in range(count)
    ]


def make_flips(count: int, seed: int = 0) -> list[Mutation]:
    """Single bits that flip by chance, half of them in shards."""
    rng = np.random.default_rng(seed)
    paths = [
        DAMAGED_FILES[i % len(DAMAGED_FILES)] if i % 2 else TARS[i // 2 % len(TARS)]
        for i in range(count)
    ]
    drawn = [(path, float(rng.uniform()), int(rng.integers(8))) for path in paths]
    return [
        Mutation(
            f"{i}: flip bit {bit} of {path} at {place:.4f}", partial(flip_bit, path, place, bit)
        )
        for i, (path, place, bit) in enumerate(drawn)
    ]


def make_random_mutations(count: int, seed: int = 0) -> list[Mutation]:
    """So many mutations of all kinds, most of them in shards, the rest in what leads to them."""
    rng = np.random.default_rng(seed)

    def some(values: Sequence[Any]) -> Any:
        return values[int(rng.integers(len(values)))]

    kinds: dict[str, Callable[[], Callable[[Path], tuple[set[str], str]]]] = {
        "flip": lambda: partial(flip_bit, some(TARS), rng.uniform(), int(rng.integers(8))),
        "flip elsewhere": lambda: partial(
            flip_bit, some((*DAMAGED_FILES, *CONTRACT_FILES)), rng.uniform(), int(rng.integers(8))
        ),
        "zero the tail": lambda: partial(zero_tail, some(TARS), rng.uniform()),
        "zero the tail elsewhere": lambda: partial(
            zero_tail, some((*DAMAGED_FILES, *CONTRACT_FILES)), rng.uniform()
        ),
        "zero a page": lambda: partial(zero_page, some(TARS), rng.uniform()),
        "cut": lambda: partial(
            truncate_file, some((*TARS, *DERIVED_FILES)), partial(length_share, rng.uniform())
        ),
        "write elsewhere": lambda: partial(
            write_elsewhere,
            some(TARS),
            rng.uniform(),
            rng.uniform(),
            512 * int(rng.integers(1, 40)),
        ),
        "zero a spectrum": lambda: partial(
            change_spectrum, some(SHARDS), int(rng.integers(9)), None, zero_bits
        ),
        "zero a frequency": lambda: partial(
            change_spectrum,
            some(SHARDS),
            int(rng.integers(9)),
            int(rng.integers(CONFIG.frequencies)),
            zero_bits,
        ),
        "flip signs": lambda: partial(
            change_spectrum,
            some(SHARDS),
            int(rng.integers(9)),
            int(rng.integers(CONFIG.frequencies)),
            flip_signs,
        ),
        "turn round": lambda: partial(
            change_spectrum,
            some(SHARDS),
            int(rng.integers(9)),
            int(rng.integers(CONFIG.frequencies)),
            reverse_order,
        ),
        "swap": lambda: partial(
            swap_files,
            *(
                f"{kind[0]}/{shard}.{kind[1]}"
                for kind in [some(SHARD_FILE_KINDS)]
                for shard in rng.permutation(SHARDS)[:2]
            ),
        ),
        "delete": lambda: partial(delete_file, some((*DAMAGED_FILES, *CONTRACT_FILES))),
    }
    names = list(kinds)
    return [
        Mutation(f"{i}: {names[i % len(names)]}", kinds[names[i % len(names)]]())
        for i in range(count)
    ]


def copy_dataset(root: Path, folder: Path) -> Path:
    return Path(shutil.copytree(root, folder / "copy"))
