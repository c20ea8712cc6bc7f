"""Clips in object storage: listed as those of a folder are, and copied to this machine for as long
as they are read.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from pipeline.dataset.object_store import bucket_and_key, is_storage_url
from schemas.outcome import Quarantined, Reason, Stage


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
    with local_clip_rows([{"uri": uri}], folder) as (row,):
        if not Path(row["uri"]).exists():
            raise Quarantined(Stage.PROBE, Reason.MISSING, "there is no such object")
        yield row["uri"]


@contextmanager
def local_clip_rows(rows: Sequence[dict], folder: Path | None) -> Iterator[list[dict]]:
    """Planned windows whose clips are on this machine; one that is in storage no more is a file
    that is not there.
    """
    urls = dict.fromkeys(row["uri"] for row in rows if is_storage_url(row["uri"]))
    if not urls:
        yield list(rows)
        return
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="quiver-clips-", dir=folder) as place:
        paths = {}
        for number, url in enumerate(urls):
            bucket, key = bucket_and_key(url)
            bucket.download(key, path := Path(place) / f"{number}{PurePosixPath(key).suffix}")
            paths[url] = str(path)
        yield [row | {"uri": paths.get(row["uri"], row["uri"])} for row in rows]
