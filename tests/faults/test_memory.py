"""P25: what a worker and its decoder hold does not grow with the clips they read."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.decode.client import PAGE_BYTES
from tests.faults.reference import CLIP_COUNT, CLIPS_PER_SHARD, choose_count
from tests.faults.runs import descendants, read_built_shards, start_without_ray, wait_for_exit

MOST = 200 << 20
"""Bytes more than after the first tenth."""
ALL = choose_count(2000, 40)


def listed(path: Path) -> Path:
    """A table of as many clips, the same few over and over."""
    path.write_text(
        "uri,clip_id,split\n"
        + "".join(f"{i % CLIP_COUNT:03d}.mp4,clip-{i:04d},train\n" for i in range(ALL))
    )
    return path


def resident(process: int) -> int:
    """Bytes that a process and those that it has started hold."""
    found = 0
    for one in (process, *descendants(process)):
        try:
            found += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * PAGE_BYTES
        except OSError:  # it has ended
            continue
    return found


def watched(clips: Path, out: Path) -> Iterator[tuple[int, int]]:
    """A run in one process, to its end: clips that are done, and what it holds, again and again."""
    log = out.with_suffix(".log")
    process = start_without_ray(clips, out, log)
    while process.is_alive():
        yield len(read_built_shards(log)) * CLIPS_PER_SHARD, resident(process.pid)
        time.sleep(0.05)
    assert wait_for_exit(process) == 0, log.read_text()
    assert len(read_built_shards(log)) * CLIPS_PER_SHARD == ALL


@pytest.mark.thorough
@pytest.mark.promise("P25")
@pytest.mark.timeout(3600)
def test_memory_does_not_grow_with_the_clips(reference, tmp_path, record_property):
    """Not even in the making of what follows from the records."""
    seen = list(watched(listed(reference.clips.with_name("many.csv")), tmp_path / "dataset"))
    after = [held for done, held in seen if done >= ALL // 10]
    for name, value in {
        "clips": ALL,
        "MB after a tenth": after[0] >> 20,
        "MB at most": max(after) >> 20,
    }.items():
        record_property(name, value)
    assert max(after) <= after[0] + MOST
