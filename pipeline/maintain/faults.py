"""A fault of a dataset, with the remedy that repairs it."""

from enum import StrEnum
from typing import NamedTuple

from pipeline.dataset.folder import REMOVED_FOLDER


class Remedy(StrEnum):
    """What repairs a fault."""

    NEW_FOLDER = "extract again into a new folder"
    PUT_BACK = "put the file back from a copy"
    REBUILD = "repair builds the shard again"
    RECOUNT = "repair counts it again"
    MOVE = f"repair moves it to {REMOVED_FOLDER}"
    MOVE_VIEW = f"repair moves all of the view to {REMOVED_FOLDER}, refilter makes it again"
    REMOVE = "repair removes it"
    FINALIZE = "finalize writes it again"


class Fault(NamedTuple):
    """Something that is wrong with a file."""

    path: str
    """The path of the file within the dataset's folder."""
    what: str
    """What is wrong, to be read after the path."""
    remedy: Remedy
    shard: str | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"
