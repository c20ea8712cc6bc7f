"""Read and write objects in S3-compatible storage; this is the only file that calls boto3.

Credentials and the endpoint come from boto3's own chain (AWS_ACCESS_KEY_ID, ~/.aws, a machine's
role; AWS_ENDPOINT_URL), never from a URL. A call that fails with a transient error is retried up to
ATTEMPTS times. Every call is safe to repeat, even if the storage carried it out and only the answer
was lost.

botocore's own retries are switched off: they end when a response begins, so that they do not cover
a body that breaks off while it is read, and they do not know all of _TRANSIENT_ERROR_CODES.
"""

import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pipeline.atomic_files import open_to_replace
from pipeline.dataset.shards import CHUNK
from pipeline.redact import redact_secrets

_STORAGE_URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]+)(?:/(.*))?", re.DOTALL)
ATTEMPTS = 10
"""If one call in five fails, one in ten million fails this often in a row."""
PAUSE_S, _MAX_RETRY_DELAY_S = 0.1, 5.0
"""The delay before the second attempt, which doubles with each attempt, and its upper limit."""
_TRANSIENT_ERROR_CODES = {
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestTimeout",
    "RequestTimeTooSkewed",
    "ConditionalRequestConflict",
    "BadDigest",
}
"""Error codes below 500 that a retry may overcome; every 5xx error is transient too."""
Value = TypeVar("Value")


def is_storage_url(text: str) -> bool:
    """Returns whether the text is an s3:// URL that contains no credentials."""
    return _STORAGE_URL.fullmatch(text) is not None and redact_secrets(text) == text


@dataclass(frozen=True)
class Bucket:
    """The objects under a URL, s3://BUCKET/PREFIX; names are relative to it, as in a folder.

    Every method raises StorageError, an OSError whose one sentence names the object, if the storage
    refuses or does not answer.
    """

    url: str

    @property
    def bucket_name(self) -> str:
        return _split_url(self.url)[0]

    def key(self, name: str) -> str:
        prefix = _split_url(self.url)[1]
        return f"{prefix}/{name}" if prefix else name

    def put(self, name: str, data: bytes | Path) -> None:
        """Writes an object, replacing an older one. Readers see either the whole object or none."""
        self._send(name, data)

    def create(self, name: str, data: bytes) -> None:
        """Writes an object that does not exist yet. Raises FileExistsError if one with other bytes
        exists; one with the same bytes may be ours, from an attempt whose answer was lost.
        """
        try:
            self._send(name, data, IfNoneMatch="*")
        except StorageError as error:
            if _error_code(error.__cause__) != "PreconditionFailed":
                raise
            if self.get(name) != data:
                raise FileExistsError(
                    f"{self.url}: {name} is there already, with other bytes"
                ) from error

    def _send(self, name: str, data: bytes | Path, **condition: str) -> None:
        def send(client: Any) -> None:
            with open(data, "rb") if isinstance(data, Path) else nullcontext(data) as body:
                client.put_object(
                    Bucket=self.bucket_name, Key=self.key(name), Body=body, **condition
                )

        self._call(name, send)

    def get(self, name: str) -> bytes | None:
        """Returns the bytes of an object; None if it does not exist."""

        def read(client: Any) -> bytes:
            return client.get_object(Bucket=self.bucket_name, Key=self.key(name))["Body"].read()

        return self._call_if_exists(name, read)

    def download(self, name: str, path: Path) -> bool:
        """Downloads an object to a file that appears complete or not at all; returns whether the
        object exists.
        """

        def fetch(client: Any) -> bool:
            body = client.get_object(Bucket=self.bucket_name, Key=self.key(name))["Body"]
            with open_to_replace(path) as file:
                for chunk in body.iter_chunks(CHUNK):
                    file.write(chunk)
            return True

        return bool(self._call_if_exists(name, fetch))

    def copy(self, name: str, goal: str) -> bool:
        """Copies an object within the storage, replacing an older one; returns whether the source
        exists.
        """
        source = dict(Bucket=self.bucket_name, Key=self.key(name))

        def copy(client: Any) -> Any:
            return client.copy_object(
                Bucket=self.bucket_name, Key=self.key(goal), CopySource=source
            )

        return bool(self._call_if_exists(name, copy))

    def delete(self, name: str) -> None:
        """Deletes an object; does nothing if it does not exist."""
        self._call(
            name, lambda client: client.delete_object(Bucket=self.bucket_name, Key=self.key(name))
        )

    def list_sizes(self, folder: str = "") -> dict[str, int]:
        """Returns the size in bytes of every object whose name begins with `folder`, sorted by
        name; a folder's name ends with `/`.
        """
        root = self.key("")
        return {
            entry["Key"].removeprefix(root): entry["Size"]
            for page in self._pages(folder, Prefix=root + folder)
            for entry in page.get("Contents", [])
        }

    def etag(self, name: str) -> str | None:
        """Returns the storage's identifier of an object's content, None if it does not exist.
        Different contents have different tags; equal ones have equal tags, unless the storage
        encrypts them.
        """
        entries = (
            entry
            for page in self._pages(name, Prefix=self.key(name))
            for entry in page.get("Contents", [])
        )
        return next((entry["ETag"] for entry in entries if entry["Key"] == self.key(name)), None)

    def _pages(self, folder: str, **options: Any) -> Iterator[dict[str, Any]]:
        options["Bucket"] = self.bucket_name
        while True:
            page = self._call(folder, lambda client: client.list_objects_v2(**options))
            yield page
            if not page.get("IsTruncated"):
                return
            options["ContinuationToken"] = page["NextContinuationToken"]

    def _call_if_exists(self, name: str, call: Callable[[Any], Value]) -> Value | None:
        """Returns the result of a call, or None if the object does not exist."""
        try:
            return self._call(name, call)
        except StorageError as error:
            if _error_code(error.__cause__) == "NoSuchKey":
                return None
            raise

    def _call(self, name: str, call: Callable[[Any], Value]) -> Value:
        """Makes a call until it succeeds, fails for a reason that a retry cannot overcome, or has
        failed ATTEMPTS times. Raises StorageError.
        """
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            NoCredentialsError,
            PartialCredentialsError,
        )

        for attempt in range(1, ATTEMPTS + 1):
            try:
                return call(client())
            except (NoCredentialsError, PartialCredentialsError) as error:
                expected = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile of ~/.aws"
                raise StorageError(f"{self.url}: {error}, expected {expected}") from error
            except (BotoCoreError, ClientError) as error:
                if attempt == ATTEMPTS or not _is_transient(error):
                    times = f", {attempt} times" if attempt > 1 else ""
                    problem = f"the storage refused or did not answer{times}: {error}"
                    raise StorageError(f"{self.url}: {name or 'its listing'}: {problem}") from error
                # jitter, so that many clients do not retry at the same moment
                jitter = random.uniform(0.5, 1)  # noqa: S311
                time.sleep(min(_MAX_RETRY_DELAY_S, PAUSE_S * 2 ** (attempt - 1)) * jitter)
        raise AssertionError("the last attempt returns or raises")


def _split_url(url: str) -> tuple[str, str]:
    """Splits s3://BUCKET/KEY into the bucket and the key. Raises ValueError for any other text."""
    if (match := _STORAGE_URL.fullmatch(url)) is None:
        raise ValueError(
            f"{redact_secrets(url)!r} is not in object storage, expected s3://BUCKET/KEY"
        )
    return match[1], match[2] or ""


def bucket_and_key(url: str) -> tuple[Bucket, str]:
    """Returns the bucket of an object's URL, without a prefix, and the object's name in it."""
    name, key = _split_url(url)
    return Bucket(f"s3://{name}"), key


class StorageError(OSError):
    """A call to object storage failed for good; the cause is boto3's error."""


def _error_code(error: Any) -> str:
    """Returns the error code in the storage's answer; empty for an error without an answer."""
    from botocore.exceptions import ClientError

    if not isinstance(error, ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code", ""))


def _is_transient(error: Exception) -> bool:
    """Returns whether a retry may succeed: the error is of the storage itself or the connection."""
    from botocore.exceptions import (
        ClientError,
        ConnectionError,
        FlexibleChecksumError,
        HTTPClientError,
        IncompleteReadError,
    )

    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return (
            status >= 500
            or status == 429
            or _error_code(error) in _TRANSIENT_ERROR_CODES
            or _error_code(error).isdigit()  # the answer broke off before its error code
        )
    return isinstance(
        error, ConnectionError | FlexibleChecksumError | HTTPClientError | IncompleteReadError
    )


@cache
def client() -> Any:
    """Returns the boto3 client of this process. Raises ValueError if boto3 is not installed, or is
    not configured for any storage.
    """
    try:
        from boto3.session import Session
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise ValueError(
            f"s3:// needs boto3 ({error}), expected pip install 'quiver-motion[s3]'"
        ) from error
    config = Config(retries={"total_max_attempts": 1}, connect_timeout=20, read_timeout=60)
    try:
        return Session().client("s3", config=config)
    except (BotoCoreError, ValueError) as error:
        raise ValueError(f"boto3 cannot be used as it is set up: {error}") from error
