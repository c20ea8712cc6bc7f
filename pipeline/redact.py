"""Passwords and tokens in the names that a user gives: they are shown to nobody, and written into
no data set.

A URL carries them before its host (`https://me:password@host/`) or among its parameters, as signed
links to object storage do.
"""

import re

_USER_INFO = re.compile(r"(?<=:/)(/?)(?:[^/\s?#]+|[^/\s?#:]+:[^\s]+)@")
_SECRET_NAME_ENDINGS = (
    r"signature|token|secret|passwo?r?d|passphrase|credentials?|bearer|authorization"  # noqa: S105
    r"|(?:api|access|account|auth|private|subscription)[_-]?key|access[_-]?keyid"
)
_SECRET_NAMES = "sig|auth|key|pass|pw|pwd|jwt"  # noqa: S105
"""Of a parameter that is secret: what its name ends with, or is."""
_PARAMETER = re.compile(
    rf"(?<=[?&;#])([\w.-]*(?:{_SECRET_NAME_ENDINGS})|{_SECRET_NAMES})=[^&\s'\"#]+", re.IGNORECASE
)


def redact_secrets(text: str) -> str:
    """The text with what is secret in its URLs as `***`."""
    return _PARAMETER.sub(r"\1=***", _USER_INFO.sub(r"\1***@", text)) if ":/" in text else text


def check_no_secret(what: str, text: str) -> None:
    """Raises ValueError, which does not say it, where a text that would be written down has a
    secret in it.
    """
    if redact_secrets(text) != text:
        raise ValueError(
            f"{what} is {redact_secrets(text)!r}, with a password or a token, which would be "
            "written into the data set; expected it without"
        )


def check_not_url(
    what: str, text: str, expected: str = "a path, or s3://BUCKET/PREFIX without a password"
) -> None:
    """Raises ValueError for a URL, of which a path would make a folder."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
        raise ValueError(f"{what} is {redact_secrets(text)!r}, expected {expected}")
