"""JSON files that define something hold a digest of themselves, which finds a changed byte.

A digest finds what storage or an editor did. It keeps nobody from making a file of their own, so
that whoever reads one checks its fields too.
"""

import hashlib
import json
from typing import Any

DIGEST = "digest"


def to_json(value: Any, indent: int | None = None) -> bytes:
    """JSON of which equal values give equal bytes. Raises ValueError for numbers not finite."""
    return json.dumps(value, sort_keys=True, allow_nan=False, indent=indent).encode() + b"\n"


def seal(value: dict[str, Any], indent: int | None = None) -> bytes:
    """JSON of `value` with the sha256 of all else in it as its `digest`."""
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
    """None for what `seal` never writes: a number that is not finite, a text that is no Unicode."""
    try:
        return seal(value, indent)
    except (ValueError, RecursionError):
        return None
