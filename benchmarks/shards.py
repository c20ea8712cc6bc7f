"""A shard of 64 samples at 256 x 160 with 16 frequencies and 4 pairs, against webdataset's
ShardWriter: 400 MB.

Both write the same members to the same folder: once from arrays, each encoding the picture and the
metadata by itself (webdataset has no encoder for safetensors and is given safetensors' own), and
once from bytes that are encoded already. Quiver's time includes its sha256, the sync, the read-back
of every sample and the rename. webdataset does none of these: its bare writer is one row, and the
writer with a sync, a digest and a read-back of every sample after it is another.
"""

import functools
import hashlib
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import webdataset as wds
from safetensors.numpy import save

from benchmarks.rounds import (
    Target,
    arguments,
    interleaved,
    one_cpu,
    report,
    speedup,
    timings_table,
)
from pipeline.dataset.shards import ShardWriter
from pipeline.synthetic.render import WORKING_SIZE, render_frame
from pipeline.synthetic.scenes import SCENES
from schemas.sample import (
    FORMAT_VERSION,
    IMAGE_MEMBER,
    META_MEMBER,
    MOTION_ARRAYS,
    MOTION_MEMBER,
    Sample,
    decode_sample,
    encode_sample,
)

SAMPLES, FREQUENCIES, PAIRS = 64, 16, 4


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help="where the shards are written",
    )
    options = parser.parse_args()
    one_cpu()
    samples = make_samples(4 if options.quick else SAMPLES)
    encoded = {sample.key: encode_sample(sample) for sample in samples}
    targets, bodies = [], []
    for name, peer, ours in (
        ("arrays", from_arrays, quiver),
        ("bytes", functools.partial(from_bytes, encoded), functools.partial(quiver_bytes, encoded)),
    ):
        new_targets, body = compare(
            name, samples, ours, peer, options.folder, 1 if options.quick else options.rounds
        )
        targets, bodies = targets + new_targets, [*bodies, body]
    report("shards", "Shards", __doc__, "\n\n".join(bodies), targets, keep=not options.quick)


def compare(
    name: str, samples: Sequence[Sample], ours: Callable, peer: Callable, folder: Path, rounds: int
) -> tuple[list[Target], str]:
    """Compares Quiver with the bare writer, and with the writer that also checks."""
    contenders = {
        "Quiver": functools.partial(in_new_folder, folder, ours, samples),
        "webdataset": functools.partial(in_new_folder, folder, webdataset, peer, samples),
        "webdataset, synced and read back": functools.partial(
            in_new_folder, folder, checked_webdataset, peer, samples
        ),
    }
    timings = interleaved(contenders, rounds)
    quiver_times, bare_times, checked_times = timings.values()
    targets = [
        speedup(f"from {name}: webdataset, bare / Quiver", 2, quiver_times, bare_times),
        speedup(
            f"from {name}: webdataset, synced and read back / Quiver",
            2,
            quiver_times,
            checked_times,
        ),
    ]
    return targets, f"From {name}:\n\n{timings_table(timings)}"


def in_new_folder(folder: Path, write: Callable, *arguments: object) -> None:
    """Calls `write` with a path in a folder of its own, which is removed again."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        write(Path(place) / "train-000000.tar", *arguments)


def quiver(path: Path, samples: Sequence[Sample]) -> None:
    writer = ShardWriter(path)
    for sample in samples:
        writer.add(sample)
    writer.finish()
    writer.publish()


def quiver_bytes(
    encoded: dict[str, dict[str, bytes]], path: Path, samples: Sequence[Sample]
) -> None:
    """Writes without the encoder."""
    with mock.patch("pipeline.dataset.shards.encode_sample", lambda sample: encoded[sample.key]):
        quiver(path, samples)


def webdataset(path: Path, members: Callable[[Sample], dict], samples: Sequence[Sample]) -> None:
    with wds.ShardWriter(f"{path.parent}/train-%06d.tar", verbose=0) as writer:
        for sample in samples:
            writer.write({"__key__": sample.key, **members(sample)})


def checked_webdataset(
    path: Path, members: Callable[[Sample], dict], samples: Sequence[Sample]
) -> None:
    """Writes with the same promise as Quiver: on the disk, with a digest, every sample complete."""
    webdataset(path, members, samples)
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        hashlib.file_digest(file, "sha256")
    keys = [decode_sample(key, parts).key for key, parts in read_tar(path)]
    assert keys == [sample.key for sample in samples]


def read_tar(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yields each sample's key and members, in the order of the tar."""
    with tarfile.open(path, "r:") as tar:
        names = [name.split(".", 1) for name in tar.getnames()]
        for key in dict.fromkeys(key for key, _ in names):
            yield (
                key,
                {
                    member: tar.extractfile(f"{key}.{member}").read()
                    for k, member in names
                    if k == key
                },
            )


def from_arrays(sample: Sample) -> dict:
    return {
        IMAGE_MEMBER: sample.image,
        META_MEMBER: sample.meta,
        MOTION_MEMBER: save({name: getattr(sample, name) for name in MOTION_ARRAYS}),
    }


def from_bytes(encoded: dict[str, dict[str, bytes]], sample: Sample) -> dict:
    return encoded[sample.key]


def make_samples(count: int) -> list[Sample]:
    """Renders frames with camera grain, and smooth spectra that fall with the frequency."""
    scene, rng = (
        replace(SCENES["plant"](np.random.default_rng(0)), grain=2.0),
        np.random.default_rng(1),
    )
    pictures = [render_frame(scene, i / 30, WORKING_SIZE) for i in range(count + PAIRS)]
    return [make_sample(i, pictures[i : i + 1 + PAIRS], rng) for i in range(count)]


def make_sample(index: int, pictures: Sequence[np.ndarray], rng: np.random.Generator) -> Sample:
    fall = 100 / (1 + np.arange(FREQUENCIES))[:, None, None, None]
    return Sample(
        key=f"plant-{index:06d}",
        image=pictures[0],
        spectrum=(fall * smooth(rng, FREQUENCIES, 4)).astype(np.float16),
        weight=np.abs(smooth(rng, 1, 1)[0, 0]).astype(np.float16),
        confidence=np.full(WORKING_SIZE[::-1], 200, np.uint8),
        pair_time=np.linspace(1, 4, PAIRS, dtype=np.float32),
        pair_flow=smooth(rng, PAIRS, 2).astype(np.float16),
        pair_image=np.stack(pictures[1:]),
        meta=dict(
            format=FORMAT_VERSION,
            key=f"plant-{index:06d}",
            flow={"flow": "dis", "dis_preset": "medium"},
            size=list(WORKING_SIZE),
        ),
    )


def smooth(rng: np.random.Generator, count: int, channels: int) -> np.ndarray:
    """Draws fields [count, channels, height, width] that vary over tens of pixels."""
    return np.stack(
        [
            [
                cv2.resize(
                    rng.standard_normal((10, 16), np.float32),
                    WORKING_SIZE,
                    interpolation=cv2.INTER_CUBIC,
                )
                for _ in range(channels)
            ]
            for _ in range(count)
        ]
    )


if __name__ == "__main__":
    main()
