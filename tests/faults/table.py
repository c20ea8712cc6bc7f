"""From the report of `make test-faults` to docs/promises.md: python -m tests.faults.table GOAL REPORT.xml ...

Every number in the table was counted by a test of that run.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

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
COUNTED = ("injections", "losses", "duplicates", "different")


@dataclass
class Found:
    """What the tests of one promise have counted."""

    tests: int = 0
    numbers: dict[str, int] = field(default_factory=dict)
    unproven: list[str] = field(default_factory=list)
    """Tests that failed or were skipped."""

    def reason(self, least: int) -> str:
        """Why it is not held; nothing where it is."""
        if not self.tests:
            return "not tested yet"
        if self.unproven:
            return f"{len(self.unproven)} of {self.tests} tests failed or were skipped, as {self.unproven[0]}"
        if harm := [f"{self.numbers[name]} {name}" for name in COUNTED[1:] if self.numbers.get(name)]:
            return ", ".join(harm)
        made = self.numbers["injections"]
        return f"{made} injections made, expected at least {least}" if made < least else ""


def tests_of(report: Path) -> Iterator[tuple[str, str, dict[str, int], bool]]:
    """Promise, name, numbers and success of each test that proves one."""
    for case in ElementTree.parse(report).iter("testcase"):
        properties = [(one.get("name"), one.get("value")) for one in case.iter("property")]
        numbers = {name: int(value) for name, value in properties if name in COUNTED}
        skipped = case.find("skipped") is not None
        passed = not skipped and case.find("failure") is None and case.find("error") is None
        for name, value in properties:
            if name == "promise":
                yield value, case.get("name"), {"injections": int(not skipped)} | numbers, passed


def collected(reports: Sequence[Path]) -> dict[str, Found]:
    found = {promise: Found() for promise in PROMISES}
    for report in reports:
        for promise, name, numbers, passed in tests_of(report):
            one = found[promise]
            one.tests += 1
            one.unproven += [] if passed else [name]
            for counted, number in numbers.items():
                one.numbers[counted] = one.numbers.get(counted, 0) + number
    return found


def row(promise: str, found: Found) -> str:
    words, least = PROMISES[promise]
    injections, losses, duplicates = (str(found.numbers.get(name, "–")) for name in COUNTED[:3])
    different = found.numbers.get("different")
    same = "–" if different is None else "yes" if not different else f"no, {different} files"
    return f"| {promise} | {words} | {injections} | {losses} | {duplicates} | {same} | {'not held' if found.reason(least) else 'held'} |"


def page(reports: Sequence[Path]) -> str:
    """The whole of docs/promises.md."""
    found = collected(reports)
    suites = [suite for report in reports for suite in ElementTree.parse(report).iter("testsuite")]
    ran, seconds, date = (sum(int(s.get("tests")) for s in suites), sum(float(s.get("time")) for s in suites), max(s.get("timestamp")[:10] for s in suites))
    open_ones = [f"- {promise}: {reason}" for promise, one in found.items() if (reason := one.reason(PROMISES[promise][1]))]
    return "\n".join([
        "# What a dataset run promises, and what became of it when it was broken", "",
        f"From the reports of `QUIVER_FAULTS=full python -m pytest -m promise` (`make test-faults` makes one of all) on {date}: {ran} tests, {seconds:.0f} s.",
        "Every fault is injected into real files and processes; each test says in its name what is broken. Losses and duplicates are windows, counted in the data sets at which disturbed runs ended; byte-identical",
        "compares every file of those with an undisturbed run's. – : the fault leaves no data set that could be counted.", "",
        "| | promise | injections | losses | duplicates | byte-identical | held |", "|---|---|---|---|---|---|---|",
        *(row(promise, one) for promise, one in found.items()), "",
        *(["## Not held, and why", "", *open_ones, ""] if open_ones else []),
    ])  # fmt: skip


if __name__ == "__main__":
    goal, *reports = map(Path, sys.argv[1:])
    text = page(reports)
    goal.write_text(text)
    print(text)
