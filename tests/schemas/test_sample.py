import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.sample import (
    FORMAT_VERSION,
    KEY_PATTERN,
    META_MEMBER,
    MOTION_ARRAYS,
    MOTION_MEMBER,
    Sample,
    channels_to_complex,
    complex_to_channels,
    decode_sample,
    encode_sample,
    sample_key,
)


def make_sample(
    key: str = "reeds-000010", size: tuple[int, int] = (32, 24), seed: int = 0
) -> Sample:
    rng, (width, height) = np.random.default_rng(seed), size
    return Sample(
        key=key,
        image=rng.integers(0, 256, (height, width, 3), np.uint8),
        spectrum=rng.normal(0, 30, (4, 4, height, width)).astype(np.float16),
        weight=rng.random((height, width)).astype(np.float16),
        confidence=rng.integers(0, 256, (height, width), np.uint8),
        pair_time=np.sort(rng.random(2)).astype(np.float32),
        pair_flow=rng.normal(size=(2, 2, height, width)).astype(np.float16),
        pair_image=rng.integers(0, 256, (2, height, width, 3), np.uint8),
        meta={"format": FORMAT_VERSION, "fps": 30.0},
    )


def test_a_sample_survives_its_members():
    sample = make_sample()
    found = decode_sample(sample.key, encode_sample(sample))
    for name in ("image", *MOTION_ARRAYS):
        np.testing.assert_array_equal(getattr(found, name), getattr(sample, name))
    assert found.meta == sample.meta and encode_sample(found) == encode_sample(sample)


def test_channels_stand_as_re_x_im_x_re_y_im_y():
    spectrum = np.array([[[[1 + 2j]], [[3 + 4j]]]], np.complex64)
    assert complex_to_channels(spectrum).ravel().tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(
        channels_to_complex(complex_to_channels(spectrum).astype(np.float16)), spectrum
    )


@pytest.mark.slow
@given(st.text(min_size=1, max_size=120), st.integers(0, 10**7))
def test_any_clip_id_gives_a_key_that_readers_take_whole(clip_id, frame):
    assert re.fullmatch(KEY_PATTERN, sample_key(clip_id, frame))


def test_ids_that_differ_in_punctuation_give_different_keys():
    assert len({sample_key(name, 0) for name in ("a.b", "a b", "a_b", "a/b")}) == 4


@pytest.mark.parametrize(
    "member, data, words",
    [
        (MOTION_MEMBER, b"\x80\x04.", "cannot be read"),
        (MOTION_MEMBER, None, "cannot be read"),
        (META_MEMBER, b"{", "cannot be read"),
        (META_MEMBER, b'{"format": 99}', "format is 99"),
        ("image.png", b"GIF89a", "cannot be read"),
    ],
)
def test_a_damaged_member_is_refused_by_name(member, data, words):
    members = encode_sample(make_sample())
    members = {
        name: value for name, value in (members | {member: data}).items() if value is not None
    }
    with pytest.raises(ValueError, match="reeds-000010.*" + words):
        decode_sample("reeds-000010", members)


def test_shapes_that_do_not_belong_together_are_refused():
    small, large = encode_sample(make_sample()), encode_sample(make_sample(size=(40, 24)))
    with pytest.raises(ValueError, match=r"expected .*24, 40"):
        decode_sample("reeds-000010", large | {MOTION_MEMBER: small[MOTION_MEMBER]})
