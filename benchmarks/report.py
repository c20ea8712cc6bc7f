"""Writes docs/benchmarks.md from what the benchmarks left in benchmarks/results; the notes between its markers stay."""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.rounds import RESULTS

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
ORDER = ("extract", "memory", "spectrum", "shards", "statistics", "page", "loader", "flow", "splatting", "animate", "page_frames")
BEGIN, END = "<!-- notes: written by hand, kept -->", "<!-- end of the notes -->"
HEAD = """# Benchmarks

Written by `make bench`. One CPU and one thread; contenders take turns within a round; a ratio is that of the medians, and
its range is that of the ratios within the rounds. Goals that were missed stay in the tables. Where the load was over 1,
other work shared the machine, and the ratio of processor times is the one to trust."""


def main() -> None:
    found = {path.stem: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}
    if not found:
        sys.exit("there are no results yet: run make bench")
    names = sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    parts = [HEAD, f"{BEGIN}\n{notes()}\n{END}", *(section(name, found[name]) for name in names)]
    PAGE.write_text("\n\n".join(parts) + "\n")
    print(f"{PAGE.name} has the results of {', '.join(names)}")


def notes() -> str:
    """What was written between the markers."""
    text = PAGE.read_text() if PAGE.exists() else ""
    return text.split(BEGIN)[1].split(END)[0].strip() if BEGIN in text and END in text else "## Notes"


def section(name: str, result: dict[str, Any]) -> str:
    """One benchmark: its tables, and where they come from."""
    parts = [f"## {result.get('title', name)}", result.get("text", "")]
    if "machine" in result:
        parts.append(f"`{result.get('command', name)}`, {provenance(result['machine'])}.")
    return "\n\n".join(parts)


def provenance(machine: dict[str, Any]) -> str:
    """Machine, versions and date as one line."""
    libraries = ", ".join(f"{name} {number}" for name, number in machine["libraries"].items())
    return f"{machine['date']}, {machine['cpu']}, {machine['cores']} cores, load {machine['load']}, Python {machine['python']}, {libraries}, commit {machine['commit']}"


if __name__ == "__main__":
    main()
