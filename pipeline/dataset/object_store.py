"""Object storage: the one file that talks to it, by boto3.

Who we are and where the storage is come from boto3's own chain (AWS_ACCESS_KEY_ID, ~/.aws, a
machine's role; AWS_ENDPOINT_URL), never from a URL. A call that fails in passing is made again, a
few times; one that was carried out though its answer was lost does no harm when it is made again.
"""

import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pipeline.atomic_files import open_to_replace
from pipeline.dataset.shards import CHUNK
from pipeline.redact import redact_secrets

_STORAGE_URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]+)(?:/(.*))?", re.DOTALL)
ATTEMPTS = 10
"""With one call in five failing, one call in ten million fails so often."""
PAUSE_S, _MAX_RETRY_DELAY_S = 0.1, 5.0
"""Before the second attempt, and at most: it doubles with each."""
_TRANSIENT_ERROR_CODES = {
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestTimeout",
    "RequestTimeTooSkewed",
    "ConditionalRequestConflict",
    "BadDigest",
}
"""Errors of the storage that another attempt may not meet, beside all of its own (5xx)."""
Value = TypeVar("Value")


def is_storage_url(text: str) -> bool:
    """Whether it names something in object storage, with no password in it."""
    return _STORAGE_URL.fullmatch(text) is not None and redact_secrets(text) == text


@dataclass(frozen=True)
class Bucket:
    """What stands in object storage under a URL, s3://BUCKET/PREFIX; names are relative to it, as
    in a folder.

    Every method raises OSError, in one sentence that names the object, where the storage refuses or
    does not answer.
    """

    url: str

    @property
    def bucket_name(self) -> str:
        return _split_url(self.url)[0]

    def key(self, name: str) -> str:
        prefix = _split_url(self.url)[1]
        return f"{prefix}/{name}" if prefix else name

    def put(self, name: str, data: bytes | Path) -> None:
        """Writes an object, over an older one: there whole or not at all."""
        self._send(name, data)

    def create(self, name: str, data: bytes) -> None:
        """Writes an object that is not there yet. Raises FileExistsError where one of other bytes
        is: ours may be, of an attempt whose answer was lost.
        """
        from botocore.exceptions import ClientError

        try:
            self._send(name, data, IfNoneMatch="*")
        except StorageError as error:
            if (
                not isinstance(error.__cause__, ClientError)
                or _error_code(error.__cause__) != "PreconditionFailed"
            ):
                raise
            if self.get(name) != data:
                raise FileExistsError(
                    f"{self.url}: {name} is there already, with other bytes"
                ) from error

    def _send(self, name: str, data: bytes | Path, **condition: str) -> None:
        def send(client: Any) -> None:
            if isinstance(data, bytes):
                client.put_object(
                    Bucket=self.bucket_name, Key=self.key(name), Body=data, **condition
                )
                return
            with open(data, "rb") as file:
                client.put_object(
                    Bucket=self.bucket_name, Key=self.key(name), Body=file, **condition
                )

        self._call(name, send)

    def get(self, name: str) -> bytes | None:
        """An object's bytes; None where there is none."""
        return self._call_if_exists(
            name,
            lambda client: client.get_object(Bucket=self.bucket_name, Key=self.key(name))[
                "Body"
            ].read(),
        )

    def download(self, name: str, path: Path) -> bool:
        """Copies an object to a file, which is there whole or not at all; whether there is one."""

        def fetch(client: Any) -> bool:
            body = client.get_object(Bucket=self.bucket_name, Key=self.key(name))["Body"]
            with open_to_replace(path) as file:
                for part in body.iter_chunks(CHUNK):
                    file.write(part)
            return True

        return bool(self._call_if_exists(name, fetch))

    def copy(self, name: str, goal: str) -> bool:
        """Copies an object within the storage, over an older one; whether there is one."""
        source = dict(Bucket=self.bucket_name, Key=self.key(name))
        return bool(
            self._call_if_exists(
                name,
                lambda client: client.copy_object(
                    Bucket=self.bucket_name, Key=self.key(goal), CopySource=source
                ),
            )
        )

    def delete(self, name: str) -> None:
        """Removes an object, if it is there."""
        self._call(
            name, lambda client: client.delete_object(Bucket=self.bucket_name, Key=self.key(name))
        )

    def list_sizes(self, folder: str = "") -> dict[str, int]:
        """Bytes of every object under a folder (its name ends with /), by name, in order of names."""
        top = self.key("")
        found: dict[str, int] = {}
        for page in self._pages(folder, Prefix=top + folder):
            found |= {
                entry["Key"].removeprefix(top): entry["Size"] for entry in page.get("Contents", [])
            }
        return found

    def etag(self, name: str) -> str | None:
        """The storage's word for an object's content: equal for equal ones, unless it encrypts
        them, and for no others. None where there is none.
        """
        entries = (
            entry
            for page in self._pages(name, Prefix=self.key(name))
            for entry in page.get("Contents", [])
        )
        return next((entry["ETag"] for entry in entries if entry["Key"] == self.key(name)), None)

    def _pages(self, folder: str, **options: Any) -> Iterator[dict[str, Any]]:
        token: dict[str, str] | None = {}
        while token is not None:
            asked = options | token
            page = self._call(
                folder,
                lambda client, asked=asked: client.list_objects_v2(
                    Bucket=self.bucket_name, **asked
                ),
            )
            yield page
            token = (
                {"ContinuationToken": page["NextContinuationToken"]}
                if page.get("IsTruncated")
                else None
            )

    def _call_if_exists(self, name: str, call: Callable[[Any], Value]) -> Value | None:
        """What a call gives; None where there is no such object."""
        from botocore.exceptions import ClientError

        try:
            return self._call(name, call)
        except StorageError as error:
            if (
                isinstance(error.__cause__, ClientError)
                and _error_code(error.__cause__) == "NoSuchKey"
            ):
                return None
            raise

    def _call(self, name: str, call: Callable[[Any], Value]) -> Value:
        """A call that is made until it succeeds, or fails for good, or for the last time."""
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
                raise StorageError(
                    f"{self.url}: {error}, expected AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile of ~/.aws"
                ) from error
            except (BotoCoreError, ClientError) as error:
                if attempt == ATTEMPTS or not _is_transient(error):
                    times = f", {attempt} times" if attempt > 1 else ""
                    raise StorageError(
                        f"{self.url}: {name or 'its listing'}: the storage refused or did not answer{times}: {error}"
                    ) from error
                # jitter, so that many clients do not come back at once
                jitter = random.uniform(0.5, 1)  # noqa: S311
                time.sleep(min(_MAX_RETRY_DELAY_S, PAUSE_S * 2 ** (attempt - 1)) * jitter)
        raise AssertionError("the last attempt returns or raises")


def _split_url(url: str) -> tuple[str, str]:
    """Bucket and key."""
    if (found := _STORAGE_URL.fullmatch(url)) is None:
        raise ValueError(
            f"{redact_secrets(url)!r} is not in object storage, expected s3://BUCKET/KEY"
        )
    return found[1], found[2] or ""


def bucket_and_key(url: str) -> tuple[Bucket, str]:
    """The whole bucket in which an object is, and its name there."""
    name, key = _split_url(url)
    return Bucket(f"s3://{name}"), key


class StorageError(OSError):
    """A call to object storage that failed for good; its cause is boto3's error."""


def _error_code(error: Any) -> str:
    """The storage's own word for what is wrong."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _is_transient(error: Exception) -> bool:
    """Whether an error may be gone at the next attempt: the storage's own, or one of the
    connection.
    """
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
            or _error_code(error).isdigit()
        )  # a number: the answer that says more was broken off
    return isinstance(
        error, ConnectionError | FlexibleChecksumError | HTTPClientError | IncompleteReadError
    )


@cache
def client() -> Any:
    """One for each process. Raises ValueError where boto3 is not installed, or does not know where
    the storage is.
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
