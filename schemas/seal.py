"""Canonical JSON, and JSON files with a digest of themselves, which shows if a byte has changed.

The digest finds what storage or an editor did. It keeps nobody from making a file of their own, so
the reader of a file checks its fields too.
"""

import hashlib
import json
from typing import Any

DIGEST = "digest"


def to_json(value: Any, indent: int | None = None) -> bytes:
    """Returns JSON; equal values give equal bytes. Raises ValueError for NaN and infinities."""
    return json.dumps(value, sort_keys=True, allow_nan=False, indent=indent).encode() + b"\n"


def seal(value: dict[str, Any], indent: int | None = None) -> bytes:
    """Returns JSON of `value` with the sha256 of everything else in it as its `digest`."""
    return to_json(value | {DIGEST: hashlib.sha256(to_json(value)).hexdigest()}, indent)


def open_seal(data: bytes, indent: int | None = None) -> dict[str, Any]:
    """Inverse of `seal`. Raises ValueError, to stand after a file's name, if a byte has changed."""
    try:
        value = json.loads(data)
        value.pop(DIGEST)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError("is no sealed file of Quiver: JSON with a digest is expected") from error
    if _reseal(value, indent) != data:
        raise ValueError("has changed since it was written")
    return value


def _reseal(value: dict[str, Any], indent: int | None) -> bytes | None:
    """Seals a value again; None if `seal` cannot have written it (NaN, invalid Unicode)."""
    try:
        return seal(value, indent)
    except (ValueError, RecursionError):
        return None
