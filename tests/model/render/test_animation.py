"""Frames of a photograph by a spectral volume, as Python code asks for them."""

import numpy as np
import pytest

from model.render import animate
from schemas.spectral_volume import SpectralVolume
from tests.support.videos import make_texture

PHOTO = make_texture(96, 64)


def sway(frames: int = 60, fps: float = 30.0) -> SpectralVolume:
    """The right half sways by a pixel of the working size, once a window."""
    spectrum = np.zeros((2, 4, 32, 48), np.float32)
    spectrum[1, 0, :, 24:] = frames / 2
    return SpectralVolume(spectrum=spectrum, fps=fps, frames=frames, provenance={})


@pytest.mark.parametrize("loop", ["none", "snap", "crossfade"])
def test_the_first_frame_is_the_photograph_and_the_others_are_not(loop):
    frames = list(animate(PHOTO, sway(), seconds=1.0, fps=4.0, loop=loop))
    assert len(frames) == 4 and all(frame.shape == PHOTO.shape for frame in frames)
    assert (frames[0] == PHOTO).all() and (frames[2] != PHOTO).any()


def test_the_length_is_that_of_the_motion_unless_another_is_asked_for():
    assert len(list(animate(PHOTO, sway(frames=6)))) == 6
    assert len(list(animate(PHOTO, sway(frames=6), seconds=0.3, fps=30.0))) == 9


def test_nothing_moves_when_the_motion_is_multiplied_by_zero():
    for frame in animate(PHOTO, sway(), seconds=0.2, magnify=0.0):
        assert (frame == PHOTO).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(seconds=0.0), "seconds is 0 and fps 30"),
        (dict(fps=float("nan")), "fps nan"),
        (dict(loop="round"), "loop is 'round'"),
        (dict(magnify=float("inf")), "magnify inf"),
    ],
)
def test_a_mistake_is_refused_before_the_first_frame(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        animate(PHOTO, sway(), **options)


def test_pictures_that_cannot_move_are_refused():
    with pytest.raises(ValueError, match="expected at least 48x32, the working size"):
        animate(PHOTO[:16], sway())
    with pytest.raises(ValueError, match="expected uint8"):
        animate(PHOTO / 255, sway())
