"""What was injected, and what came of it: each test counts its own, and table.py adds them up by
promise.
"""

from dataclasses import dataclass
from pathlib import Path

from tests.faults.reference import Reference, count_windows, promised_digests


@dataclass
class FaultCounter:
    reference: Reference
    injections: int = 0
    losses: int | None = None
    """Windows; None where no data set came to its end."""
    duplicates: int | None = None
    different: int | None = None
    """Files that did not end at the bytes of the reference."""

    def record_ended(self, root: Path, injections: int = 1) -> None:
        """Counts injections, and compares the data set at which they ended: nothing lost, nothing
        twice, the same bytes.
        """
        found, losses_duplicates = promised_digests(root), count_windows(self.reference, root)
        different = {
            name
            for name in found.keys() | self.reference.digests.keys()
            if found.get(name) != self.reference.digests.get(name)
        }
        self.injections += injections
        self.losses = (self.losses or 0) + losses_duplicates.losses
        self.duplicates = (self.duplicates or 0) + losses_duplicates.duplicates
        self.different = (self.different or 0) + len(different)
        assert losses_duplicates == (0, 0) and not different, (losses_duplicates, sorted(different))

    def to_counts(self) -> dict[str, int]:
        return {
            name: value
            for name in ("injections", "losses", "duplicates", "different")
            if (value := getattr(self, name)) is not None
        }
