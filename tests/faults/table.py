"""From the reports of `make test-faults` to docs/dev/promises.md: python -m tests.faults.table GOAL
REPORT.xml ...

Every number in the table was counted by a test of those runs. A promise is held only if each of its
tests, as pytest collects them now with full counts, is in a report; of a test that is in several
the last one counts.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

PROMISES = {
    "P1": ("a crash loses only work in flight", 48),
    "P2": ("killing workers is harmless", 100),
    "P3": ("killing the driver is harmless", 20),
    "P4": ("losing a node is harmless", 10),
    "P5": ("a late twin cannot duplicate", 100),
    "P6": ("torn storage is found", 500),
    "P7": ("a full disk costs nothing", 200),
    "P8": ("a bad clip costs one clip", 60),
    "P9": ("bombs are bounded", 5),
    "P10": ("a decoder that hangs, crashes or leaks is contained", 80),
    "P11": ("fuzzed video is contained", 200),
    "P12": ("same input, same bytes", 9),
    "P13": ("a changed configuration is refused", 40),
    "P14": ("one writer per folder", 40),
    "P15": ("derived files can be rebuilt", 200),
    "P16": ("statistics belong to their shards", 2),
    "P17": ("the percentile is right", 1),
    "P18": ("training resumes exactly", 20),
    "P19": ("checkpoints survive", 10),
    "P20": ("data cannot run code", 6),
    "P21": ("names cannot escape", 40),
    "P22": ("a report is inert", 3),
    "P23": ("Ray is not opened to the world", 2),
    "P24": ("others can read it", 4),
    "P25": ("memory is bounded", 1),
    "P26": ("object storage is the same", 36),
}
"""Each in words, and the fewest injections that prove it."""
COUNT_NAMES = ("injections", "losses", "duplicates", "different")


CaseName = tuple[str, str]
"""Of a test: its file as a module, and its own name."""


class CaseResult(NamedTuple):
    """A test in a report."""

    passed: bool
    numbers: Mapping[str, int]
    count_mode: str
    """full, quick, or nothing where the report does not say."""


@dataclass
class PromiseResult:
    """What the tests of one promise have counted."""

    expected: set[CaseName]
    """All that there are."""
    tests: dict[CaseName, CaseResult] = field(default_factory=dict)

    @property
    def numbers(self) -> dict[str, int]:
        ran = self.tests.values()
        return {
            name: sum(one.numbers.get(name, 0) for one in ran)
            for name in COUNT_NAMES
            if any(name in one.numbers for one in ran)
        }

    def why_not_held(self, least: int) -> str:
        """Why it is not held; nothing where it is."""
        if not self.tests:
            return "not tested yet"
        if unproven := [name for (_, name), one in self.tests.items() if not one.passed]:
            return (
                f"{len(unproven)} of {len(self.tests)} tests failed or were skipped, as "
                f"{unproven[0]}"
            )
        if absent := sorted(name for _, name in self.expected - self.tests.keys()):
            return f"{len(absent)} of {len(self.expected)} tests are in no report, as {absent[0]}"
        if quick := [name for (_, name), one in self.tests.items() if one.count_mode == "quick"]:
            return f"{len(quick)} of {len(self.tests)} tests ran with quick counts, as {quick[0]}"
        if harm := [
            f"{self.numbers[name]} {name}" for name in COUNT_NAMES[1:] if self.numbers.get(name)
        ]:
            return ", ".join(harm)
        made = self.numbers["injections"]
        return f"{made} injections made, expected at least {least}" if made < least else ""


class PromiseCollector:
    """Which tests prove which promise, as a plugin of pytest."""

    def __init__(self):
        self.tests: dict[str, set[CaseName]] = {promise: set() for promise in PROMISES}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            for mark in item.iter_markers("promise"):
                module, *names = item.nodeid.partition("[")[0].split("::")
                self.tests[mark.args[0]].add(
                    (
                        ".".join([module.removesuffix(".py").replace("/", "."), *names[:-1]]),
                        item.name,
                    )
                )


def collect_promise_tests() -> dict[str, set[CaseName]]:
    """Those of each promise, with full counts. Raises ValueError where they cannot be collected."""
    os.environ["QUIVER_FAULTS"] = "full"
    collector = PromiseCollector()
    if code := pytest.main(
        [
            "--collect-only",
            "-qq",
            "--no-header",
            "-p",
            "no:cacheprovider",
            "-m",
            "promise",
            "--full",
        ],
        plugins=[collector],
    ):
        raise ValueError(f"the tests cannot be collected ({code!s})")
    return collector.tests


def read_report(report: Path) -> Iterator[tuple[str, CaseName, CaseResult]]:
    """Promise, name and result of each test that proves one."""
    for case in ElementTree.parse(report).iter("testcase"):
        properties = [(one.get("name"), one.get("value")) for one in case.iter("property")]
        numbers = {name: int(value) for name, value in properties if name in COUNT_NAMES}
        skipped = case.find("skipped") is not None
        passed = not skipped and case.find("failure") is None and case.find("error") is None
        ran = CaseResult(
            passed, {"injections": int(not skipped)} | numbers, dict(properties).get("counts", "")
        )
        for name, value in properties:
            if name == "promise":
                yield value, (case.get("classname"), case.get("name")), ran


def collect_results(
    reports: Sequence[Path], wanted: Mapping[str, set[CaseName]]
) -> dict[str, PromiseResult]:
    found = {promise: PromiseResult(wanted[promise]) for promise in PROMISES}
    for report in reports:
        for promise, name, ran in read_report(report):
            if name in wanted[promise]:
                found[promise].tests[name] = ran
    return found


def format_row(promise: str, found: PromiseResult) -> str:
    words, least = PROMISES[promise]
    injections, losses, duplicates = (str(found.numbers.get(name, "–")) for name in COUNT_NAMES[:3])
    different = found.numbers.get("different")
    same = "–" if different is None else "yes" if not different else f"no, {different} files"
    return (
        f"| {promise} | {words} | {injections} | {losses} | {duplicates} | {same} | "
        f"{'not held' if found.why_not_held(least) else 'held'} |"
    )


def format_page(reports: Sequence[Path], wanted: Mapping[str, set[CaseName]]) -> str:
    """The whole of docs/dev/promises.md."""
    found = collect_results(reports, wanted)
    suites = [suite for report in reports for suite in ElementTree.parse(report).iter("testsuite")]
    seconds, dates = (
        sum(float(s.get("time")) for s in suites),
        sorted(s.get("timestamp")[:10] for s in suites),
    )
    tests = {name: ran for one in found.values() for name, ran in one.tests.items()}
    silent = sum(not one.count_mode for one in tests.values())
    unclear = f" ({silent} of them in reports that do not say with which counts)" if silent else ""
    ran = f"{len(tests)} tests{unclear}"
    date = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    open_ones = [
        f"- {promise}: {reason}"
        for promise, one in found.items()
        if (reason := one.why_not_held(PROMISES[promise][1]))
    ]
    return "\n".join(
        [
            "# What a dataset run promises, and what became of it when it was broken",
            "",
            f"From the reports of `make test-faults` on {date}: {ran}, {seconds:.0f} s.",
            "Every fault is injected into real files and processes; each test says in its name",
            "what is broken. Losses and duplicates are windows, counted in the datasets at which",
            "disturbed runs ended; byte-identical compares every file of those with an undisturbed",
            "run's. – : the fault leaves no dataset that could be counted.",
            "",
            "| | promise | injections | losses | duplicates | byte-identical | held |",
            "|---|---|---|---|---|---|---|",
            *(format_row(promise, one) for promise, one in found.items()),
            "",
            *(["## Not held, and why", "", *open_ones, ""] if open_ones else []),
        ]
    )


if __name__ == "__main__":
    goal, *reports = map(Path, sys.argv[1:])
    text = format_page(reports, collect_promise_tests())
    goal.write_text(text)
    print(text)
