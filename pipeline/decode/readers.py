"""Reads frames at the working resolution, with the decoder that the probe chose and with PyAV
whenever decord fails.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain

import numpy as np

from pipeline.decode.container import check_pixel_count
from pipeline.decode.decord_reader import DecordFailed, read_decord_images, read_excerpt_images
from pipeline.decode.media_file import PictureResult, Source
from pipeline.decode.picture import Scaling, center_crop, cover_size
from pipeline.decode.pyav_reader import MISSING_FRAME, find_frames, to_image
from pipeline.decode.select_decoder import PYAV_NAME, are_same_frames

MAX_BUFFER_BYTES = 128 << 20
"""Size of the frames that are read together and held back until they are known to be right."""


def read_pictures(
    source: Source, indices: Sequence[int], size: tuple[int, int]
) -> Iterator[PictureResult]:
    """The frames at `indices` (ascending) as RGB, oriented as they are shown, scaled to cover
    `size` = (width, height) and cropped about the center. The pixels of a frame do not depend on
    the frames that were read before.

    Raises Quarantined (too_many_pixels) for frames over the limit, and (truncated, not_media) if
    the file cannot be opened any more.
    """
    cover = cover_size(source.video.aspect, size)
    if not source.video.decoder.startswith("decord"):
        pictures = _read_by_pyav(source, indices, cover, "exact")
    else:
        step = max(1, MAX_BUFFER_BYTES // (3 * cover[0] * cover[1]))
        pictures = chain.from_iterable(
            _read_by_decord(source, indices[i : i + step], cover)
            for i in range(0, len(indices), step)
        )
    for picture in pictures:
        if picture.image is not None:
            picture = picture._replace(image=center_crop(picture.image, size))
        yield picture


def _read_by_pyav(
    source: Source, indices: Sequence[int], cover: tuple[int, int], scaling: Scaling
) -> Iterator[PictureResult]:
    for located in find_frames(source, indices):
        if located.frame is None or located.damage:
            yield PictureResult(None, PYAV_NAME, located.damage or MISSING_FRAME)
            continue
        check_pixel_count(located.frame, source.max_pixels)
        yield PictureResult(to_image(located.frame, source, cover, scaling), PYAV_NAME)


def _read_by_decord(
    source: Source, indices: Sequence[int], cover: tuple[int, int]
) -> Iterator[PictureResult]:
    """These frames by decord if it reads them without an error, otherwise group by group."""
    images = None
    with suppress(DecordFailed):
        images = read_decord_images(source, indices, cover)
    if images is not None:
        yield from (PictureResult(image, source.video.decoder) for image in images)
        return
    starts = np.unique(np.searchsorted(indices, source.video.keyframes[1:]))
    for group in np.split(np.asarray(indices), starts):
        if len(group):
            yield from _resolve_group(source, group.tolist(), cover)


def _resolve_group(
    source: Source, indices: Sequence[int], cover: tuple[int, int]
) -> list[PictureResult]:
    """These frames of one group of pictures, after decord reported an error.

    The error may be about a frame that decord decoded far ahead, and how far it gets depends on
    chance, which must not change the outcome. So PyAV says which of these frames are damaged. The
    others are decord's, from a copy of only the packets that they need, if decord reports no error
    about these and returns what PyAV returns.
    """
    # PyAV scales as decord does, since a window may have frames of both
    pictures = list(_read_by_pyav(source, indices, cover, "decord"))
    intact = {i: picture.image for i, picture in enumerate(pictures) if picture.image is not None}
    if not intact:
        return pictures
    with suppress(DecordFailed):
        images = read_excerpt_images(source, [indices[i] for i in intact], cover)
        if are_same_frames(list(intact.values()), images):
            for i, image in zip(intact, images, strict=True):
                pictures[i] = PictureResult(image, source.video.decoder)
    return pictures
