import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save

from schemas.spectral_volume import (
    MAX_FRAMES,
    MAX_FREQUENCIES,
    MOTION_VERSION,
    SpectralVolume,
    decode_volume,
    encode_volume,
    spectrum_sha256,
)

VOLUME = SpectralVolume(
    spectrum=np.random.default_rng(0).normal(size=(3, 4, 5, 6)).astype(np.float32),
    fps=30.0,
    frames=150,
    provenance={"seed": 1},
)


def test_it_survives_its_file_and_equal_ones_have_equal_bytes():
    found = decode_volume(encode_volume(VOLUME))
    np.testing.assert_array_equal(found.spectrum, VOLUME.spectrum)
    assert (found.fps, found.frames, found.provenance) == (
        30.0,
        150,
        {"seed": 1},
    ) and encode_volume(found) == encode_volume(VOLUME)


def test_what_is_no_volume_is_refused():
    about = {"quiver": json.dumps(dict(format=MOTION_VERSION, fps=30.0, frames=150, made={}))}
    bad = VOLUME.spectrum.copy()
    bad[0, 0, 0, 0] = np.nan
    files = [
        b"",
        b"\xff" * 8 + b"{}",
        save({"spectrum": VOLUME.spectrum}),
        save({"other": VOLUME.spectrum}, about),
        save({"spectrum": bad}, about),
        save({"spectrum": VOLUME.spectrum[:, :3]}, about),
        save({"spectrum": VOLUME.spectrum.astype(np.float64)}, about),
        save({"spectrum": np.zeros((80, 4, 2, 2), np.float32)}, about),
        save({"spectrum": VOLUME.spectrum}, {"quiver": "[" * 50_000}),
        encode_volume(VOLUME)[:-1],
    ]
    for data in files:
        with pytest.raises(ValueError, match="not a file of a spectral volume"):
            decode_volume(data)


def said(**changes) -> bytes:
    """A file with other words about it, as JSON has them, with a digest that agrees or is given."""
    about = dict(format=MOTION_VERSION, fps=30.0, frames=150, made={}) | changes
    about = dict(spectrum=spectrum_sha256(VOLUME.spectrum)) | about
    found = hashlib.sha256(json.dumps(about, sort_keys=True).encode() + b"\n").hexdigest()
    text = json.dumps(dict(digest=found) | about, sort_keys=True)
    return save({"spectrum": VOLUME.spectrum}, {"quiver": text + "\n"})


def test_another_program_may_write_one():
    assert decode_volume(said(frames=99)).frames == 99


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(frames=float("inf")), "frames is inf and fps 30.0, expected a whole number"),
        (dict(frames=float("nan")), "frames is nan"),
        (dict(frames=150.5), "frames is 150.5"),
        (dict(frames="150"), "frames is '150'"),
        (dict(frames=True), "frames is True"),
        (dict(frames=None), "frames is None"),
        (dict(frames=10**9), "frames is 1000000000 and fps 30, expected 2 to 100000"),
        (dict(frames=10**400), "frames is 1000"),
        (dict(frames=-1), "frames is -1"),
        (dict(frames=2), "it has 3 frequencies of 2 frames, expected 1 to 2"),
        (dict(fps=float("inf")), "fps inf"),
        (dict(fps=10**400), "too large"),
        (dict(fps="30"), "fps '30'"),
        (dict(format=1), "format is 1, expected 2: quiver sample writes it again"),
        (dict(spectrum="0" * 64), "its spectrum has changed since it was written"),
        (dict(digest="0" * 64), "has changed since it was written"),
    ],
)
def test_numbers_that_no_window_has_are_named(changes, words):
    with pytest.raises(ValueError, match=f"not a file of a spectral volume: .*{re.escape(words)}"):
        decode_volume(said(**changes))


def test_more_frequencies_than_are_animated_are_refused():
    spectrum = np.ones((MAX_FREQUENCIES + 1, 4, 2, 2), np.float32)
    many = replace(VOLUME, spectrum=spectrum, frames=MAX_FRAMES)
    with pytest.raises(ValueError, match="257 frequencies of 100000 frames, expected 1 to 256"):
        decode_volume(encode_volume(many))


def test_every_flipped_bit_is_noticed():
    data = encode_volume(replace(VOLUME, spectrum=VOLUME.spectrum[:, :, :2, :2]))
    for place in range(0, 8 * len(data), 7):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises(ValueError, match="not a file of a spectral volume"):
            decode_volume(bytes(flipped))
