"""List clips in object storage, and download them for as long as they are read."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

from pipeline.dataset.object_store import bucket_and_key, is_storage_url
from schemas.outcome import Quarantined, Reason, Stage
from schemas.records import PlanRow


def list_object_urls(url: str) -> list[str]:
    """Returns the URL of the object of that name, or of all objects below it as below a folder.
    Raises ValueError if there is none.
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
    """Yields the path of a clip: `uri` itself, or for a URL a copy that is removed after the block.

    folder: the folder for copies; None for the system's temporary folder. Raises Quarantined if the
    object does not exist, OSError if the storage does not deliver it.
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
    """Yields the rows with the paths of local copies instead of URLs (see `local_clip_path`). The
    path of an object that does not exist is that of a missing file.
    """
    urls = list(dict.fromkeys(row.uri for row in rows if is_storage_url(row.uri)))
    if not urls:
        yield list(rows)
        return
    with _local_copies(urls, folder) as copies:
        yield [replace(row, uri=copies.get(row.uri, row.uri)) for row in rows]


@contextmanager
def _local_copies(urls: Sequence[str], folder: Path | None) -> Iterator[dict[str, str]]:
    """Downloads objects into a folder that is removed after the block; yields the path for each
    URL, which has no file if the object does not exist.
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
