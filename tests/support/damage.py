"""A small data set, and everything that storage or a person may do to it."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jobs.extract_flow import versions
from pipeline.dataset.finalize import FILES, finalize
from pipeline.dataset.folder import Dataset
from pipeline.dataset.record import opened_seal, sealed
from pipeline.dataset.run_lock import FOLDER
from pipeline.dataset.shards import TEMPORARY, ShardWriter, read_sample
from pipeline.dataset.verify import kept_rows
from pipeline.extract.build_shard import build_shard
from pipeline.extract.plan import PlanConfig, plan_clip, plan_rows
from pipeline.extract.window import BuildConfig, recorded
from pipeline.filters import PRESETS
from pipeline.flow import FlowConfig
from schemas.clip import Clip
from schemas.sample import Sample, motion_layout
from schemas.seal import seal
from tests.support import videos
from tests.support.building import probe

CONFIG = BuildConfig(
    size=(64, 40), frequencies=6, pairs=1, checks=2, flow=FlowConfig(dis_preset="fast"), thresholds=PRESETS["subtle"],
    plan=PlanConfig(frames=24, stride=12, windows_per_shard=4),
)  # fmt: skip
FULL = os.environ.get("QUIVER_FAULTS") == "full"
READ = int(os.environ.get("QUIVER_MUTATIONS", "500" if FULL else "26"))
"""How many mutations of all kinds every reader is given."""
RANDOM = int(os.environ.get("QUIVER_MUTATIONS", "300" if FULL else "40"))
"""How many mutations are drawn by chance, beside those that are listed."""
CUTS = 64 if FULL else 3
"""At how many places each tar is cut."""


def make_dataset(folder: Path, licences: Sequence[str | None] = (None,) * 5) -> Path:
    """A finished data set of a few windows, kept and rejected, train and test, with its videos beside it; of each of its
    five clips the licence, which is its source too.
    """
    for name in ("clips", "dataset"):
        (folder / name).mkdir()
    clips = [Clip(uri=str(folder / "clips" / f"{i}.mp4"), clip_id=f"clip-{i}", split="test" if i == 4 else "train", licence=said, source=said)
             for i, said in enumerate(licences)]  # fmt: skip
    for i, clip in enumerate(clips):
        videos.swaying(Path(clip.uri), seconds=1.3, amplitude=0.0 if i == 2 else 1.5, hertz=1.0 + 0.3 * i, seed=i)
    dataset = Dataset(folder / "dataset")
    rows = plan_rows([plan_clip(clip, CONFIG.plan, probe) for clip in clips], CONFIG.plan)
    dataset.open(rows, recorded(CONFIG), versions(CONFIG))
    build(dataset, shards_of(rows))
    finalize(dataset)
    return dataset.root


def shards_of(rows: list[dict]) -> dict[str, list[dict]]:
    return {shard: [row for row in rows if row["shard"] == shard] for shard in dict.fromkeys(row["shard"] for row in rows if row["key"])}


def build(dataset: Dataset, shards: dict[str, list[dict]]) -> list[str]:
    """Builds shards in this process; none fails."""
    for shard, rows in shards.items():
        list(build_shard(dataset, shard, rows, CONFIG))
    return []


@contextmanager
def building(dataset: Dataset) -> Iterator[Callable[[dict[str, list[dict]]], list[str]]]:
    yield partial(build, dataset)


def contents(root: Path) -> dict[str, bytes]:
    """Every file of a data set that is promised."""
    paths = [path for path in root.rglob("*") if path.is_file() and path.name != "progress.jsonl" and not {FOLDER, ".removed"} & {*path.parts}]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


class Mutation(NamedTuple):
    """Something that happens to a data set; returns the files that verify has to name, and words it has to say."""

    name: str
    apply: Callable[[Path], tuple[set[str], str]]


def flip(path: str, place: float, bit: int, root: Path) -> tuple[set[str], str]:
    """One bit, at this share of the file's length; in a tar, the sample in which it lies is named."""
    data = bytearray((root / path).read_bytes())
    at = int(place * len(data))
    data[at] ^= 1 << bit
    (root / path).write_bytes(data)
    return {path}, sample_at(root, path, at)


def flip_at(path: str, where: Callable[[Path], int], words: str, root: Path) -> tuple[set[str], str]:
    """One bit of the byte there, and the words for it."""
    data = bytearray((root / path).read_bytes())
    data[where(root / path)] ^= 1
    (root / path).write_bytes(data)
    return {path}, words


def sample_at(root: Path, path: str, at: int) -> str:
    """The key of the sample that has this byte of a tar; none for the blocks that end it, and for other files."""
    if not path.endswith(".tar"):
        return ""
    rows = kept_rows(Dataset(root).read_record(Path(path).stem))
    inside = [key for key, row in rows.items() if row["image_offset"] - 512 <= at]
    return inside[-1] if at < (root / path).stat().st_size - 1024 else ""


def share_of(share: float, file: Path) -> int:
    return int(share * file.stat().st_size)


def cut(path: str, length: Callable[[Path], int], root: Path) -> tuple[set[str], str]:
    file = root / path
    file.write_bytes(file.read_bytes()[: length(file)])
    return {path}, ""


def zero_tail(path: str, share: float, root: Path) -> tuple[set[str], str]:
    data = (root / path).read_bytes()
    kept = int(share * len(data))
    (root / path).write_bytes(data[:kept] + bytes(len(data) - kept))
    return {path}, sample_at(root, path, kept)


def swap(one: str, other: str, root: Path) -> tuple[set[str], str]:
    first, second = (root / one).read_bytes(), (root / other).read_bytes()
    (root / one).write_bytes(second)
    (root / other).write_bytes(first)
    return {one, other}, ""


def delete(path: str, root: Path) -> tuple[set[str], str]:
    (root / path).unlink()
    return {path}, "is not there" if path in FILES else "is gone"


def add(path: str, root: Path) -> tuple[set[str], str]:
    (root / path).write_bytes(b"someone's")
    return {path}, "left behind" if TEMPORARY.fullmatch(Path(path).name) else "no shard of the plan"


def rewrite(shard: str, change: Callable[[Sample], Sample], seal: bool, words: str, root: Path) -> tuple[set[str], str]:
    """Writes a tar with its first sample changed, and with `seal` a record that agrees with it."""
    dataset = Dataset(root)
    record = dataset.read_record(shard)
    samples = [read_sample(dataset.tar(shard), key, row) for key, row in kept_rows(record).items()]
    writer = ShardWriter(dataset.tar(shard))
    for sample in [change(samples[0]), *samples[1:]]:
        columns = writer.add(sample)
        next(row for row in record["rows"] if row["key"] == sample.key).update(columns)
    writer._write(bytes(1024))
    writer.file.close()
    writer.temporary.replace(writer.path)
    if seal:
        record["tar"] = {"sha256": writer.sha256.hexdigest(), "bytes": writer.path.stat().st_size}
        dataset.record(shard).write_bytes(sealed(record))
    return {f"shards/{shard}.tar"}, words


def motion_part(root: Path, shard: str, number: int, frequency: int | None) -> slice:
    """Bytes of a tar that hold the spectrum of its `number`-th sample, or one frequency of it."""
    rows = list(kept_rows(Dataset(root).read_record(shard)).values())
    row = rows[number % len(rows)]
    with Dataset(root).tar(shard).open("rb") as tar:
        tar.seek(row["motion_offset"])
        layout = motion_layout(tar.read(row["motion_size"]), row["motion_size"])
    first, after = (row["motion_offset"] + layout.begin + at for at in layout.arrays["spectrum"]["data_offsets"])
    if frequency is None:
        return slice(first, after)
    length = (after - first) // CONFIG.frequencies
    return slice(first + frequency * length, first + (frequency + 1) * length)


def spoil(shard: str, number: int, frequency: int | None, change: Callable[[np.ndarray], Any], root: Path) -> tuple[set[str], str]:
    """Changes the bits of a sample's coefficients, uint16, in place."""
    path, part = f"shards/{shard}.tar", motion_part(root, shard, number, frequency)
    data = bytearray((root / path).read_bytes())
    change(np.frombuffer(data, np.uint16, (part.stop - part.start) // 2, part.start))
    (root / path).write_bytes(data)
    return {path}, sample_at(root, path, part.start)


def to_zero(bits: np.ndarray) -> None:
    bits[:] = 0


def to_other_sign(bits: np.ndarray) -> None:
    bits ^= 0x8000


def to_order_reversed(bits: np.ndarray) -> None:
    bits[:] = bits[::-1].copy()


def write_elsewhere(path: str, source: float, goal: float, length: int, root: Path) -> tuple[set[str], str]:
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


def not_finite(sample: Sample) -> Sample:
    spectrum = sample.spectrum.copy()
    spectrum[2, 1, 5, 7] = np.nan
    return replace(sample, spectrum=spectrum)


def smaller(sample: Sample) -> Sample:
    return replace(sample, spectrum=sample.spectrum[:-1])


def of_another_split(sample: Sample) -> Sample:
    return replace(sample, meta=sample.meta | {"split": "holdout"})


def louder(sample: Sample) -> Sample:
    return replace(sample, spectrum=sample.spectrum * np.float16(2))


def reseal(shard: str, change: dict, root: Path) -> tuple[set[str], str]:
    """A record with something else in it, and a digest that agrees."""
    path = Dataset(root).record(shard)
    path.write_bytes(sealed(opened_seal(path.read_bytes()) | change))
    return {f"records/{shard}.json"}, ""


def in_other_order(path: str, root: Path) -> tuple[set[str], str]:
    """Another JSON text of the same value."""
    (root / path).write_bytes(json.dumps(json.loads((root / path).read_bytes())).encode())
    return {path}, ""


def edited(path: Path, **changes: Any) -> None:
    """A sealed file that says something else, with a digest that agrees, as somebody may write one."""
    value = json.loads(path.read_bytes()) | changes
    value.pop("digest", None)
    path.write_bytes(seal(value, 2 if path.name in ("run.json", "statistics.json") else 1))


SHARDS = ("train-000000", "train-000001", "test-000000")
TARS = tuple(f"shards/{shard}.tar" for shard in SHARDS)
EACH = (*(f"{folder}/{shard}.{suffix}" for shard in SHARDS for folder, suffix in (("records", "json"), ("histograms", "safetensors"))), *TARS, *FILES)
CONTRACT = ("run.json", "plan.parquet")
KINDS = (("shards", "tar"), ("records", "json"), ("histograms", "safetensors"))
LENGTHS: dict[str, Callable[[Path], int]] = {
    "to nothing": lambda file: 0,
    "in a header": lambda file: 100,
    "after a header": lambda file: 512,
    "between samples": lambda file: second_sample(file),
    "before the end": lambda file: file.stat().st_size - 1024,
    "in the end": lambda file: file.stat().st_size - 512,
    "by a byte": lambda file: file.stat().st_size - 1,
}


def second_sample(file: Path) -> int:
    """Where it begins in a tar."""
    rows = kept_rows(Dataset(file.parents[1]).read_record(file.stem))
    return list(rows.values())[1]["image_offset"] - 512


def first_row(file: Path) -> dict:
    """Of the first sample of a tar."""
    return next(iter(kept_rows(Dataset(file.parents[1]).read_record(file.stem)).values()))


PLACES: dict[str, tuple[Callable[[Path], int], str]] = {
    "a header": (lambda file: first_row(file)["json_offset"] - 100, "clip-0-000000.json has another header"),
    "padding": (lambda file: first_row(file)["json_offset"] + first_row(file)["json_size"], "clip-0-000000.json is not followed by zeros"),
    "its end": (lambda file: file.stat().st_size - 1, "the blocks that end it are not zeros"),
}


def listed() -> list[Mutation]:
    """Each kind at least once."""
    tar, shard = TARS[0], SHARDS[0]
    strangers = [
        "shards/train-000009.tar", "shards/notes.txt", "records/old.json", "histograms/x.safetensors", "shards/.notes.tmp",
        f"shards/.a.tar.{'0' * 32}.tmp", f".run.json.{'1' * 32}.tmp",
    ]  # fmt: skip
    found = [Mutation(f"cut {tar} {name}", partial(cut, tar, length)) for name, length in LENGTHS.items()]
    found += [Mutation(f"flip a bit of {name} of {tar}", partial(flip_at, tar, where, words)) for name, (where, words) in PLACES.items()]
    found += [Mutation(f"zero {tar} from {share}", partial(zero_tail, tar, share)) for share in (0.3, 0.95)]
    found += [Mutation(f"swap {folder}", partial(swap, f"{folder}/{SHARDS[0]}{end}", f"{folder}/{SHARDS[1]}{end}"))
              for folder, end in (("shards", ".tar"), ("records", ".json"), ("histograms", ".safetensors"))]  # fmt: skip
    found += [Mutation(f"delete {path}", partial(delete, path)) for path in EACH]
    found += [Mutation(f"add {path}", partial(add, path)) for path in strangers]
    found += [
        Mutation("write NaN", partial(rewrite, shard, not_finite, False, "motion.safetensors has other bytes")),
        Mutation("write a wrong shape", partial(rewrite, shard, smaller, False, "motion.safetensors")),
        Mutation("write NaN, and a record that agrees", partial(rewrite, shard, not_finite, True, "spectrum has values that are not finite")),
        Mutation("write a wrong shape, and a record that agrees", partial(rewrite, shard, smaller, True, "has a spectrum of [5, 4, 40, 64]")),
        Mutation("write another split, and a record that agrees", partial(rewrite, shard, of_another_split, True, "has split 'holdout', expected 'train'")),
        Mutation("zero a spectrum", partial(spoil, shard, 0, None, to_zero)),
        Mutation("zero a frequency", partial(spoil, shard, 1, 3, to_zero)),
        Mutation("flip the signs of a frequency", partial(spoil, shard, 1, 2, to_other_sign)),
        Mutation("turn a frequency round", partial(spoil, shard, 0, 1, to_order_reversed)),
        Mutation("another run, sealed", partial(reseal, shard, {"run": "0" * 64})),
        Mutation("no rows, sealed", partial(reseal, shard, {"rows": []})),
        Mutation("other values, sealed", partial(reseal, shard, {"values": 1})),
        Mutation("a record without meaning, sealed", partial(reseal, shard, {"rows": 7})),
        Mutation("a record in another order", partial(in_other_order, f"records/{shard}.json")),
        Mutation("an index in another order", partial(in_other_order, "index.json")),
    ]
    return found


def cuts(count: int) -> list[Mutation]:
    """Each tar, cut at so many places."""
    return [Mutation(f"cut {path} at {i} of {count}", partial(cut, path, lambda file, i=i: i * file.stat().st_size // count))
            for path in TARS for i in range(count)]  # fmt: skip


def flips(count: int, seed: int = 0) -> list[Mutation]:
    """Single bits that flip by chance, half of them in shards."""
    rng = np.random.default_rng(seed)
    paths = [EACH[i % len(EACH)] if i % 2 else TARS[i // 2 % len(TARS)] for i in range(count)]
    drawn = [(path, float(rng.uniform()), int(rng.integers(8))) for path in paths]
    return [Mutation(f"{i}: flip bit {bit} of {path} at {place:.4f}", partial(flip, path, place, bit)) for i, (path, place, bit) in enumerate(drawn)]


def by_chance(count: int, seed: int = 0) -> list[Mutation]:
    """So many mutations of all kinds, most of them in shards, the rest in what leads to them."""
    rng = np.random.default_rng(seed)

    def some(values: Sequence[Any]) -> Any:
        return values[int(rng.integers(len(values)))]

    kinds: dict[str, Callable[[], Callable[[Path], tuple[set[str], str]]]] = {
        "flip": lambda: partial(flip, some(TARS), rng.uniform(), int(rng.integers(8))),
        "flip elsewhere": lambda: partial(flip, some((*EACH, *CONTRACT)), rng.uniform(), int(rng.integers(8))),
        "zero the tail": lambda: partial(zero_tail, some(TARS), rng.uniform()),
        "zero the tail elsewhere": lambda: partial(zero_tail, some((*EACH, *CONTRACT)), rng.uniform()),
        "zero a page": lambda: partial(zero_page, some(TARS), rng.uniform()),
        "cut": lambda: partial(cut, some((*TARS, *FILES)), partial(share_of, rng.uniform())),
        "write elsewhere": lambda: partial(write_elsewhere, some(TARS), rng.uniform(), rng.uniform(), 512 * int(rng.integers(1, 40))),
        "zero a spectrum": lambda: partial(spoil, some(SHARDS), int(rng.integers(9)), None, to_zero),
        "zero a frequency": lambda: partial(spoil, some(SHARDS), int(rng.integers(9)), int(rng.integers(CONFIG.frequencies)), to_zero),
        "flip signs": lambda: partial(spoil, some(SHARDS), int(rng.integers(9)), int(rng.integers(CONFIG.frequencies)), to_other_sign),
        "turn round": lambda: partial(spoil, some(SHARDS), int(rng.integers(9)), int(rng.integers(CONFIG.frequencies)), to_order_reversed),
        "swap": lambda: partial(swap, *(f"{kind[0]}/{shard}.{kind[1]}" for kind in [some(KINDS)] for shard in rng.permutation(SHARDS)[:2])),
        "delete": lambda: partial(delete, some((*EACH, *CONTRACT))),
    }
    names = list(kinds)
    return [Mutation(f"{i}: {names[i % len(names)]}", kinds[names[i % len(names)]]()) for i in range(count)]


def copied(root: Path, folder: Path) -> Path:
    return Path(shutil.copytree(root, folder / "copy"))
