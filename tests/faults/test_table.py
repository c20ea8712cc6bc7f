"""The table says `training_lock` of what a run has shown, and of nothing else."""

from pathlib import Path

from tests.faults.table import PROMISES, format_page

REPORT = """<testsuites><testsuite tests="7" time="12.5" timestamp="2026-01-02T03:04:05">
<testcase classname="tests.faults.test_x" name="a"><properties><property name="promise" value="P4"/><property name="injections" value="10"/>
  <property name="losses" value="0"/><property name="duplicates" value="0"/><property name="different" value="0"/></properties></testcase>
<testcase classname="tests.faults.test_x" name="b"><properties><property name="promise" value="P9"/></properties></testcase>
<testcase classname="tests.faults.test_x" name="c"><properties><property name="promise" value="P16"/></properties><failure/></testcase>
<testcase classname="tests.faults.test_x" name="d"><properties><property name="promise" value="P16"/></properties><skipped/></testcase>
<testcase classname="tests.faults.test_x" name="e"><properties><property name="promise" value="P17"/><property name="counts" value="full"/></properties></testcase>
<testcase classname="tests.faults.test_x" name="f"><properties><property name="promise" value="P24"/><property name="injections" value="9"/>
  <property name="losses" value="1"/><property name="different" value="2"/></properties></testcase>
<testcase classname="tests.faults.test_x" name="g"><properties><property name="promise" value="P17"/><property name="injections" value="0"/></properties></testcase>
<testcase classname="tests.faults.test_x" name="h"><properties><property name="promise" value="P25"/><property name="counts" value="quick"/></properties></testcase>
<testcase classname="tests.faults.test_x" name="i"><properties><property name="promise" value="P18"/><property name="injections" value="20"/></properties></testcase>
</testsuite></testsuites>"""  # noqa: E501
WANTED = dict(P4="a", P9="b", P16="cd", P17="eg", P24="f", P25="h", P18="ij")


def written(reports: list[Path]) -> str:
    """The page of these reports, where the tests are those of WANTED."""
    return format_page(
        reports,
        {
            promise: {("tests.faults.test_x", name) for name in WANTED.get(promise, "")}
            for promise in PROMISES
        },
    )


def test_a_promise_is_held_if_all_its_tests_passed_and_injected_enough(tmp_path: Path):
    (tmp_path / "report.xml").write_text(REPORT)
    text = written([tmp_path / "report.xml"])
    rows = {
        line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| P")
    }
    assert list(rows) == list(PROMISES) == [f"P{i}" for i in range(1, 27)]
    assert [promise for promise, line in rows.items() if line.endswith("| held |")] == ["P4", "P17"]
    assert all(line.endswith(("| held |", "| not held |")) for line in rows.values())
    assert rows["P17"].split("|")[3] == " 1 "
    assert rows["P4"] == "| P4 | losing a node is harmless | 10 | 0 | 0 | yes | held |"
    assert (
        "- P1: not tested yet" in text
        and "- P9: 1 injections made, expected at least 5" in text
        and "- P16: 2 of 2 tests failed or were skipped, as c" in text
    )
    assert "- P24: 1 losses, 2 different" in text
    assert (
        "- P25: 1 of 1 tests ran with quick counts, as h" in text
        and "- P18: 1 of 2 tests are in no report, as j" in text
    )
    assert (
        "on 2026-01-02: 9 tests (7 of them in reports that do not say with which counts), 12 s"
        in text
    )


def test_a_report_that_is_given_twice_counts_once(tmp_path: Path):
    for name in ("one.xml", "two.xml"):
        (tmp_path / name).write_text(
            REPORT.replace('"injections" value="10"', '"injections" value="5"')
        )
    text = written([tmp_path / "one.xml", tmp_path / "two.xml"])
    assert (
        "| P4 | losing a node is harmless | 5 |" in text
        and "- P4: 5 injections made, expected at least 10" in text
    )
