"""Hostile and damaged shards: a ValueError that names the sample and its shard, and never another
sample.
"""

import io
import json
import re
import shutil
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image

from model.data.shard_reader import MAX_HEADER_BYTES, decode_png
from model.data.spectra import SpectrumConfig, SpectrumDataset
from pipeline.dataset.folder import Dataset
from pipeline.dataset.open import DatasetView
from pipeline.dataset.scales import compute_statistics
from schemas.statistics import decode_statistics
from tests.support.datasets import PASSING_MEASURES, write_dataset

PLACES = [
    "key",
    "image_offset",
    "image_size",
    "motion_offset",
    "motion_size",
    "image_crc32",
    "motion_header_crc32",
]


class Shard:
    """A data set of two samples of which one is tampered with after it was opened."""

    def __init__(self, pristine, root):
        shutil.copytree(pristine.root, root)
        selection = DatasetView(Dataset(root))
        statistics, self.path = (
            decode_statistics(selection.derived_path("statistics.json").read_bytes()),
            selection.dataset.tar_path("train-000000"),
        )
        self.examples = {
            drawn: SpectrumDataset([selection], statistics, SpectrumConfig(drawn=drawn))
            for drawn in (None, 1)
        }
        self.row = selection.kept_windows(PLACES).to_pylist()[0]
        assert self.row["key"] == self.examples[None].shard_index[0].key

    def write(self, offset, data):
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def length(self):
        """Of the header of the arrays."""
        return int.from_bytes(self.path.read_bytes()[self.row["motion_offset"] :][:8], "little")

    def arrays(self):
        return json.loads(self.path.read_bytes()[self.row["motion_offset"] + 8 :][: self.length()])

    def header(self, arrays):
        """Another header of the same length."""
        text = (
            arrays
            if isinstance(arrays, bytes)
            else json.dumps(arrays, separators=(",", ":")).encode()
        )
        assert len(text) <= self.length()
        self.write(self.row["motion_offset"] + 8, text.ljust(self.length()))

    def checksums(self, change):
        arrays = self.arrays()
        said = change(json.loads(arrays["__metadata__"]["crc32"]))
        self.header(arrays | {"__metadata__": {"crc32": json.dumps(said, separators=(",", ":"))}})

    def spectrum(self, **changes):
        arrays = self.arrays()
        arrays["spectrum"] |= changes
        self.header(arrays)

    def coefficient(self, value):
        arrays = self.arrays()
        begin, end = (
            self.row["motion_offset"] + 8 + self.length() + offset
            for offset in arrays["spectrum"]["data_offsets"]
        )
        self.write(begin, np.full((end - begin) // 2, value, np.float16).tobytes())
        said = json.loads(arrays["__metadata__"]["crc32"])
        one = zlib.crc32(np.full((4, 32, 40), value, np.float16))
        said["spectrum"] = 4 * f"{one:08x}"
        arrays["__metadata__"]["crc32"] = json.dumps(said, separators=(",", ":"))
        self.header(arrays)

    def tar_header(self, member, **changes):
        info = tarfile.TarInfo(
            f"{self.row['key']}.{'image.png' if member == 'image' else 'motion.safetensors'}"
        )
        info.size, info.mode = self.row[f"{member}_size"], 0o644
        for name, value in changes.items():
            setattr(info, name, value)
        self.write(self.row[f"{member}_offset"] - 512, info.tobuf(tarfile.USTAR_FORMAT))

    def picture(self, image):
        data = io.BytesIO()
        image.save(data, "png")
        assert data.tell() <= self.row["image_size"]
        self.write(self.row["image_offset"], data.getvalue().ljust(self.row["image_size"], b"\0"))

    def place(self, column, value):
        for found in self.examples.values():
            found.shard_index.locations[0, PLACES.index(column) - 1] = value

    def agree(self):
        """The rows of the table agree with what is there, as somebody else's may."""
        try:
            data = self.path.read_bytes()
        except OSError:
            return
        for found in self.examples.values():
            place = dict(zip(PLACES[1:], found.shard_index.locations[0].tolist(), strict=True))
            image = data[max(place["image_offset"], 0) :][: max(place["image_size"], 0)]
            motion = data[max(place["motion_offset"], 0) :]
            self.place("image_crc32", zlib.crc32(image))
            self.place(
                "motion_header_crc32",
                zlib.crc32(motion[: 8 + int.from_bytes(motion[:8], "little")]),
            )

    def truncate(self):
        with self.path.open("r+b") as file:
            file.truncate(self.row["motion_offset"] + 2000)


HOSTILE = {
    "header longer than the member": (
        lambda s: s.write(s.row["motion_offset"], (1 << 40).to_bytes(8, "little")),
        "its header says",
    ),
    "huge header": (
        lambda s: s.write(s.row["motion_offset"], b"\xff" * 8),
        "its header says that it has 18446744073709551615 bytes",
    ),
    "long header": (
        lambda s: s.write(s.row["motion_offset"], (MAX_HEADER_BYTES + 1).to_bytes(8, "little")),
        "its header says",
    ),
    "no header": (
        lambda s: s.write(s.row["motion_offset"], bytes(8)),
        "its header says that it has 0 bytes",
    ),
    "not JSON": (lambda s: s.header(b"\xff{"), "decode"),
    "deeply nested": (
        lambda s: (
            s.write(s.row["motion_offset"], (4000).to_bytes(8, "little")),
            s.write(s.row["motion_offset"] + 8, b"[" * 4000),
        ),
        "recursion",
    ),
    "a list": (lambda s: s.header(b"[1,2]"), "arrays are"),
    "array missing": (
        lambda s: s.header({n: a for n, a in s.arrays().items() if n != "weight"}),
        "arrays are",
    ),
    "no checksums": (
        lambda s: s.header({n: a for n, a in s.arrays().items() if n != "__metadata__"}),
        "arrays are",
    ),
    "other checksums": (
        lambda s: s.checksums(lambda said: said | {"spectrum": 4 * "0" * 8}),
        "entry . of spectrum has other bytes",
    ),
    "too few checksums": (
        lambda s: s.checksums(lambda said: said | {"spectrum": 3 * "0" * 8}),
        "spectrum has 3 checksums, expected 4",
    ),
    "checksums that are none": (
        lambda s: s.checksums(lambda said: said | {"weight": "xyz"}),
        "invalid literal",
    ),
    "array without offsets": (lambda s: s.header(s.arrays() | {"weight": {}}), "data_offsets"),
    "array that is none": (lambda s: s.header(s.arrays() | {"weight": 3}), "subscriptable"),
    "strange type": (lambda s: s.spectrum(dtype="I7"), "I7"),
    "other type": (lambda s: s.spectrum(dtype="F32"), "expected it to begin at"),
    "other width": (
        lambda s: s.spectrum(shape=[4, 4, 40, 32]),
        re.escape("spectrum is F16[4, 4, 40, 32], expected F16[4, 4, 32, 40]"),
    ),
    "fewer frequencies": (lambda s: s.spectrum(shape=[3, 4, 32, 40]), "expected it to begin at"),
    "offsets beyond the end": (
        lambda s: s.spectrum(data_offsets=[90000, 90000 + 40960]),
        "expected it to begin at",
    ),
    "offsets shifted": (
        lambda s: s.spectrum(data_offsets=[o - 2 for o in s.arrays()["spectrum"]["data_offsets"]]),
        "expected it to begin at",
    ),
    "negative offsets": (lambda s: s.spectrum(data_offsets=[-40960, 0]), "expected whole numbers"),
    "broken offsets": (lambda s: s.spectrum(data_offsets=[0.5, 1.5]), "expected whole numbers"),
    "true for a number": (lambda s: s.spectrum(shape=[4, 4, 8, True]), "expected whole numbers"),
    "NaN": (lambda s: s.coefficient(np.nan), "spectrum has values that are not finite"),
    "infinite": (lambda s: s.coefficient(-np.inf), "spectrum has values that are not finite"),
    "motion renamed": (
        lambda s: s.tar_header("motion", name="clip-x.motion.safetensors"),
        "member 'clip-x.motion.safetensors'",
    ),
    "picture renamed": (
        lambda s: s.tar_header("image", name="../../x.image.png"),
        "member '../../x.image.png'",
    ),
    "other size": (lambda s: s.tar_header("motion", size=1 << 30), "of 1073741824 bytes"),
    "no tar header": (lambda s: s.write(s.row["image_offset"] - 512, b"\x5a" * 512), "no member"),
    "zeroed": (lambda s: s.write(0, bytes(s.path.stat().st_size)), "no member"),
    "truncated": (lambda s: s.truncate(), "are not in the file"),
    "empty": (lambda s: s.path.write_bytes(b""), "are not in the file"),
    "a folder": (lambda s: (s.path.unlink(), s.path.mkdir()), "(directory|are not in the file)"),
    "offset out of the file": (lambda s: s.place("motion_offset", 1 << 40), "are not in the file"),
    "offset before the file": (lambda s: s.place("image_offset", 100), "are not in the file"),
    "negative offset": (lambda s: s.place("motion_offset", -(1 << 40)), "are not in the file"),
    "negative size": (lambda s: s.place("image_size", -1000), "are not in the file"),
    "huge size": (lambda s: s.place("image_size", 1 << 60), "are not in the file"),
    "another sample's place": (
        lambda s: s.place("motion_offset", int(s.examples[None].rows.places[1, 2])),
        "member 'clip-",
    ),
    "other picture size": (
        lambda s: s.picture(Image.new("RGB", (32, 40))),
        "is not an RGB picture of 40x32 pixels",
    ),
    "a bomb": (
        lambda s: s.write(s.row["image_offset"] + 16, b"\0\0\xff\xff" * 2),
        "is not an RGB picture",
    ),
    "grey": (lambda s: s.picture(Image.new("L", (40, 32))), "is not an RGB picture"),
    "with alpha": (lambda s: s.picture(Image.new("RGBA", (40, 32))), "is not an RGB picture"),
    "no picture": (lambda s: s.write(s.row["image_offset"], b"GIF89a"), "is not an RGB picture"),
    "picture cut": (
        lambda s: s.write(s.row["image_offset"] + 60, bytes(s.row["image_size"] - 60)),
        "is damaged",
    ),
}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return write_dataset(
        tmp_path_factory.mktemp("members") / "a", {"train-000000": [PASSING_MEASURES] * 2}
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_sample_is_named_and_never_read(name, pristine, tmp_path):
    tamper, words = HOSTILE[name]
    shard = Shard(pristine, tmp_path / "a")
    tamper(shard)
    for found in shard.examples.values():
        with pytest.raises(
            ValueError,
            match=rf"^sample '{shard.row['key']}' of {shard.path} cannot be read: [^\n]*",
        ):
            found[0]
    shard.agree()
    for found in shard.examples.values():
        with pytest.raises(
            ValueError,
            match=rf"^sample '{shard.row['key']}' of {shard.path} cannot be read: [^\n]*{words}",
        ):
            found[0]


def test_a_frequency_that_the_data_set_lacks_is_named(pristine, tmp_path):
    shard = Shard(pristine, tmp_path / "a")
    found = shard.examples[None]
    found.shard_index.shards[0] = found.shard_index.shards[0]._replace(frequencies=3)
    with pytest.raises(ValueError, match="it has 3 frequencies, expected 4"):
        found[0]


def test_a_table_of_other_shards_is_refused(tmp_path):
    a, b = (
        write_dataset(tmp_path / name, {"train-000000": [PASSING_MEASURES] * count}, seed=count)
        for name, count in (("a", 2), ("b", 3))
    )
    statistics = compute_statistics([DatasetView(a)])
    a.manifest.write_bytes(b.manifest.read_bytes())
    with pytest.raises(
        ValueError,
        match=r"manifest.parquet cannot be read .it is not the table that index.json names.: quiver finalize",
    ):
        SpectrumDataset([DatasetView(a)], statistics)


def test_a_flipped_bit_of_a_picture_is_noticed_or_does_no_harm():
    rng = np.random.default_rng(0)
    picture = np.cumsum(rng.integers(-9, 10, (32, 40, 3)), axis=1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png", compress_type=3)
    data, refused = np.frombuffer(file.getvalue(), np.uint8), 0
    np.testing.assert_array_equal(decode_png(data, (40, 32)), picture)
    for place in rng.permutation(len(data) * 8)[:600]:
        flipped = data.copy()
        flipped[place // 8] ^= 1 << place % 8
        try:
            np.testing.assert_array_equal(decode_png(flipped, (40, 32)), picture)
        except ValueError:
            refused += 1
    assert refused > 500
    for length in range(0, len(data) - 12, 37):
        with pytest.raises(ValueError, match=r"image.png is (damaged|not)"):
            decode_png(data[:length], (40, 32))
