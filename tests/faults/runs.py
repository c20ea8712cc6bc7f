"""Runs that a test may kill: the real command, and the same run without Ray, which begins in an instant.

The second is forked from a process that has everything loaded and runs no thread.
"""

import os
import signal
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from jobs.exits import sentences
from jobs.extract_flow import parse, plan_one, refuse_relative_paths, versions
from pipeline.build import build_shard
from pipeline.crashpoint import VARIABLE
from pipeline.dataset import Dataset
from pipeline.derived import finalize
from pipeline.plan import list_clips, plan_rows
from pipeline.window import recorded
from tests.faults.reference import ALONE, command, promised

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["pytest", "tests.faults.runs"])


def build_here(arguments: list[str]) -> None:
    """What jobs.extract_flow does, in this process: the same plan, shards and commits, one after the other."""
    with sentences():
        job = parse(arguments)
        refuse_relative_paths(job)
        clips, dataset = list_clips(job.clips), Dataset(job.out)
        with dataset.held():
            rows = plan_rows((plan_one(job.build, clip) for clip in clips), job.build.plan)
            dataset.open(rows, recorded(job.build), versions(job.build))
            for shard in dict.fromkeys(row["shard"] for row in rows if row["key"]):
                if not dataset.is_committed(shard):
                    list(build_shard(dataset, shard, [row for row in rows if row["shard"] == shard], job.build))
            finalize(dataset)
