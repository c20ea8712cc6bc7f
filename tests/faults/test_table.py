"""The table says `held` of what a run has shown, and of nothing else."""

from pathlib import Path

from tests.faults.table import PROMISES, page

REPORT = """<testsuites><testsuite tests="7" time="12.5" timestamp="2026-01-02T03:04:05">
<testcase name="a"><properties><property name="promise" value="P4"/><property name="injections" value="10"/>
  <property name="losses" value="0"/><property name="duplicates" value="0"/><property name="different" value="0"/></properties></testcase>
<testcase name="b"><properties><property name="promise" value="P9"/></properties></testcase>
<testcase name="c"><properties><property name="promise" value="P16"/></properties><failure/></testcase>
<testcase name="d"><properties><property name="promise" value="P16"/></properties><skipped/></testcase>
<testcase name="e"><properties><property name="promise" value="P17"/></properties></testcase>
<testcase name="f"><properties><property name="promise" value="P24"/><property name="injections" value="9"/>
  <property name="losses" value="1"/><property name="different" value="2"/></properties></testcase>
<testcase name="g"><properties><property name="promise" value="P17"/><property name="injections" value="0"/></properties></testcase>
</testsuite></testsuites>"""


def test_a_promise_is_held_if_all_its_tests_passed_and_injected_enough(tmp_path: Path):
    (tmp_path / "report.xml").write_text(REPORT)
    text = page([tmp_path / "report.xml"])
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| P")}
    assert list(rows) == list(PROMISES) == [f"P{i}" for i in range(1, 27)]
    assert [promise for promise, line in rows.items() if line.endswith("| held |")] == ["P4", "P17"]
    assert all(line.endswith(("| held |", "| not held |")) for line in rows.values())
    assert rows["P17"].split("|")[3] == " 1 "
    assert rows["P4"] == "| P4 | losing a node is harmless | 10 | 0 | 0 | yes | held |"
    assert (
        "- P1: not tested yet" in text and "- P9: 1 injections made, expected at least 5" in text and "- P16: 2 of 2 tests failed or were skipped, as c" in text
    )
    assert "- P24: 1 losses, 2 different" in text
    assert "on 2026-01-02: 7 tests, 12 s" in text
