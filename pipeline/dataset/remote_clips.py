"""Clips in object storage: listed as those of a folder are, and copied to this machine for as long
as they are read.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

from pipeline.dataset.object_store import bucket_and_key, is_storage_url
from schemas.outcome import Quarantined, Reason, Stage
from schemas.records import PlanRow


def list_object_urls(url: str) -> list[str]:
    """URLs of the object of that name, or of all below it, as of a folder. Raises ValueError where
    there is none.
    """
    bucket, key = bucket_and_key(url.rstrip("/"))
    names = (
        [key]
        if key in bucket.list_sizes(key)
        else list(bucket.list_sizes(f"{key}/" if key else ""))
    )
    if not names:
        raise ValueError(
            f"--clips {url!r} does not exist, expected a folder or an object in storage"
        )
    return [f"{bucket.url}/{name}" for name in names]


@contextmanager
def local_clip_path(uri: str, folder: Path | None) -> Iterator[str]:
    """A clip's file: that of a path, or a copy in a folder (None: the system's for temporary files)
    that goes with the block.

    Raises Quarantined where there is no such object, OSError where the storage does not give it.
    """
    if not is_storage_url(uri):
        yield uri
        return
    with _local_copies([uri], folder) as copies:
        if not Path(copies[uri]).exists():
            raise Quarantined(Stage.PROBE, Reason.MISSING, "there is no such object")
        yield copies[uri]


@contextmanager
def local_clip_rows(rows: Sequence[PlanRow], folder: Path | None) -> Iterator[list[PlanRow]]:
    """Planned windows whose clips are on this machine; one that is in storage no more is a file
    that is not there.
    """
    urls = list(dict.fromkeys(row.uri for row in rows if is_storage_url(row.uri)))
    if not urls:
        yield list(rows)
        return
    with _local_copies(urls, folder) as copies:
        yield [replace(row, uri=copies.get(row.uri, row.uri)) for row in rows]


@contextmanager
def _local_copies(urls: Sequence[str], folder: Path | None) -> Iterator[dict[str, str]]:
    """The path of a copy of each object, in a folder that goes with the block; there is no file at
    it if there is no such object.
    """
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="quiver-clips-", dir=folder) as place:
        paths = {}
        for number, url in enumerate(urls):
            bucket, key = bucket_and_key(url)
            bucket.download(key, path := Path(place) / f"{number}{PurePosixPath(key).suffix}")
            paths[url] = str(path)
        yield paths
