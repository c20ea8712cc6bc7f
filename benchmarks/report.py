"""Writes docs/dev/benchmarks.md from what the benchmarks left in benchmarks/results; other tables,
and the notes between its markers, stay.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.rounds import RESULTS

PAGE = Path(__file__).parents[1] / "docs" / "dev" / "benchmarks.md"
ORDER = (
    "extract",
    "memory",
    "spectrum",
    "shards",
    "mechanisms",
    "statistics",
    "page",
    "loader",
    "flow",
    "splatting",
    "animate",
    "page_frames",
)
BEGIN, END = "<!-- notes: written by hand, kept -->", "<!-- end of the notes -->"
HEAD = """# Benchmarks

`make bench` writes this page. Each contender has one CPU and one thread, and contenders take turns
within a round. A ratio is that of the medians, and its range is that of the ratios within the
rounds. Goals that were missed stay in the tables. If the load was over 1, other work shared the
machine, and the ratio of processor times is the one to trust."""


def main() -> None:
    results = {path.stem: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}
    if not results:
        sys.exit("there are no results yet: run make bench")
    before, _, tables = (PAGE.read_text() if PAGE.exists() else "").partition(END)
    sections = standing(tables) | {name: section(name, result) for name, result in results.items()}
    names = sorted(
        sections, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name)
    )
    notes = before.partition(BEGIN)[2].strip() or "## Notes"
    PAGE.write_text(
        "\n\n".join([HEAD, f"{BEGIN}\n{notes}\n{END}", *(sections[name] for name in names)]) + "\n"
    )
    print(f"{PAGE.name} has new results of {', '.join(sorted(results))}")


def standing(tables: str) -> dict[str, str]:
    """Returns the sections of the page, by the benchmark whose command each names."""
    parts = (part.strip() for part in re.split(r"^(?=## )", tables, flags=re.MULTILINE))
    return {
        made[1]: part
        for part in parts
        if (made := re.search(r"`python -m benchmarks\.(\w+)", part))
    }


def section(name: str, result: dict[str, Any]) -> str:
    """Renders the tables of one benchmark, and where they come from."""
    parts = [f"## {result.get('title', name)}", result.get("text", "")]
    if "machine" in result:
        parts.append(f"`{result.get('command', name)}`, {provenance(result['machine'])}.")
    return "\n\n".join(parts)


def provenance(machine: dict[str, Any]) -> str:
    """Returns machine, versions and date as one line."""
    libraries = ", ".join(f"{name} {number}" for name, number in machine["libraries"].items())
    return (
        f"{machine['date']}, {machine['cpu']}, {machine['cores']} cores, load {machine['load']}, "
        f"Python {machine['python']}, {libraries}, commit {machine['commit']}"
    )


if __name__ == "__main__":
    main()
