"""What a check of `quiver doctor` returns."""

from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


class Finding(NamedTuple):
    """The result of one check."""

    state: State
    says: str
    remedy: str = ""
    """What to do, unless all is well."""
