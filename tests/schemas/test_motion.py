import json

import numpy as np
import pytest
from safetensors.numpy import save

from schemas.motion import SpectralVolume, decode, encode

VOLUME = SpectralVolume(spectrum=np.random.default_rng(0).normal(size=(3, 4, 5, 6)).astype(np.float32), fps=30.0, frames=150, made={"seed": 1})


def test_it_survives_its_file_and_equal_ones_have_equal_bytes():
    found = decode(encode(VOLUME))
    np.testing.assert_array_equal(found.spectrum, VOLUME.spectrum)
    assert (found.fps, found.frames, found.made) == (30.0, 150, {"seed": 1}) and encode(found) == encode(VOLUME)


def test_what_is_no_volume_is_refused():
    about = {"quiver": json.dumps(dict(format=1, fps=30.0, frames=150, made={}))}
    bad = VOLUME.spectrum.copy()
    bad[0, 0, 0, 0] = np.nan
    files = [b"", b"\xff" * 8 + b"{}", save({"spectrum": VOLUME.spectrum}), save({"other": VOLUME.spectrum}, about), save({"spectrum": bad}, about),
             save({"spectrum": VOLUME.spectrum[:, :3]}, about), save({"spectrum": VOLUME.spectrum.astype(np.float64)}, about),
             save({"spectrum": np.zeros((80, 4, 2, 2), np.float32)}, about), save({"spectrum": VOLUME.spectrum}, {"quiver": "[" * 50_000}),
             encode(VOLUME)[:-1]]  # fmt: skip
    for data in files:
        with pytest.raises(ValueError, match="not a file of a spectral volume"):
            decode(data)
