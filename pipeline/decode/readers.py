"""The frames of a source at the working resolution: by the decoder that its probe chose, and by
PyAV wherever decord fails.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np

from pipeline.decode.container import check_pixel_count
from pipeline.decode.decord_reader import DecordFailed, read_decord_images, read_excerpt_images
from pipeline.decode.media_file import PictureResult, Source, quarantine_error
from pipeline.decode.picture import Image, Scaling, center_crop, cover_size
from pipeline.decode.pyav_reader import MISSING_FRAME, find_frames, to_image
from pipeline.decode.select_decoder import PYAV_NAME, are_same_frames
from schemas.outcome import Reason, Stage

MAX_BUFFER_BYTES = 128 << 20
"""Memory of the frames that are read together, and held back until they are known to be right."""


def read_pictures(
    source: Source, indices: Sequence[int], size: tuple[int, int]
) -> Iterator[PictureResult]:
    """The frames at `indices` (ascending), scaled to cover `size` = (width, height) and
    cropped about the centre, RGB, as shown. The same pixels whichever indices were read before.

    Raises Quarantined (too_many_pixels) for pictures over the limit, and (truncated, not_media) if
    the file cannot be opened any more.
    """
    cover = cover_size(source.video.aspect, size)
    if not source.video.decoder.startswith("decord"):
        pictures = _read_by_pyav(source, indices, cover, "exact")
    else:
        step = max(1, MAX_BUFFER_BYTES // (3 * cover[0] * cover[1]))
        parts = (indices[i : i + step] for i in range(0, len(indices), step))
        pictures = (one for part in parts for one in _read_by_decord(source, part, cover))
    for picture in pictures:
        yield picture._replace(
            image=None if picture.image is None else center_crop(picture.image, size)
        )


def read_frames(source: Source, indices: Sequence[int], size: tuple[int, int]) -> Iterator[Image]:
    """The same, as images. Raises Quarantined (decode_error) at the first that cannot be trusted."""
    for index, picture in zip(indices, read_pictures(source, indices, size), strict=True):
        if picture.image is None:
            raise quarantine_error(
                Reason.DECODE_ERROR,
                f"frame {index}, at {source.video.times[index]:.3f} s: {picture.damage}",
                Stage.DECODE,
            )
        yield picture.image


def _read_by_pyav(
    source: Source, indices: Sequence[int], cover: tuple[int, int], scaling: Scaling
) -> Iterator[PictureResult]:
    for found in find_frames(source, indices):
        if found.frame is None or found.damage:
            yield PictureResult(None, PYAV_NAME, found.damage or MISSING_FRAME)
            continue
        check_pixel_count(found.frame, source.max_pixels)
        yield PictureResult(to_image(found.frame, source, cover, scaling), PYAV_NAME)


def _read_by_decord(
    source: Source, indices: Sequence[int], cover: tuple[int, int]
) -> Iterator[PictureResult]:
    """These frames by decord if it reads them without a complaint, otherwise group by group."""
    images = None
    with suppress(DecordFailed):
        images = read_decord_images(source, indices, cover)
    if images is not None:
        yield from (PictureResult(image, source.video.decoder) for image in images)
        return
    begins = np.unique(np.searchsorted(indices, source.video.keyframes[1:]))
    for group in np.split(np.asarray(indices), begins):
        if len(group):
            yield from _resolve_group(source, group.tolist(), cover)


def _resolve_group(
    source: Source, indices: Sequence[int], cover: tuple[int, int]
) -> list[PictureResult]:
    """These frames of one group of pictures, after decord complained of something: perhaps of what
    it had decoded far ahead, and how far it comes is chance, on which no outcome must depend.

    PyAV says which of them are damaged. The others are decord's, from a copy of the packets that
    they need, if it does not complain of these and gives what PyAV gives.
    """
    pictures = list(
        _read_by_pyav(source, indices, cover, "decord")
    )  # as decord scales: a window may have both
    sound = [place for place, picture in enumerate(pictures) if picture.image is not None]
    with suppress(DecordFailed):
        images = (
            read_excerpt_images(source, [indices[place] for place in sound], cover) if sound else []
        )
        # pyright: ignore[reportArgumentType]
        if are_same_frames([pictures[place].image for place in sound], images):
            for place, image in zip(sound, images, strict=True):
                pictures[place] = PictureResult(image, source.video.decoder)
    return pictures
