"""What was measured: kept, printed as a table, written as JSON and as a picture.

    python -m benchmarks.report FIGURES.json... GUIDE.md

writes the table of a guide anew, between its lines <!-- table: figures --> and <!-- end -->, and
the picture in docs/images. Figures may come from several runs, of different measures.
"""

import json
import os
import platform
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.chart import Panel, stacked_bars
from benchmarks.sides import PLACES, REDIS, SLOTS, Contender, place_name

#: What is written in place of a figure, where something does not happen at all, or goes wrong.
NEVER = "never"
FAILS = "fails"

#: What the file of the picture is called.
PICTURE = "step.svg"

#: Columns, as (title, whose figure, divided by whose).
COLUMNS = (
    ("original", "original", None),
    ("ours", "ours", None),
    ("original / ours", "original", "ours"),
    ("in process", "in process", None),
    ("ours / in process", "ours", "in process"),
    ("multiprocess", "multiprocess", None),
)

_TABLE = re.compile(r"(?P<start><!-- table: figures -->)\n.*?<!-- end -->", re.DOTALL)


@dataclass
class Figures:
    """Every figure of every round."""

    #: How often each thing was measured.
    rounds: int
    #: Where Dagster's storage was.
    storage: str
    cores: int = field(default_factory=lambda: os.cpu_count() or 1)
    system: str = field(default_factory=lambda: f"{platform.system()} {platform.machine()}")
    #: On which days.
    days: list[str] = field(default_factory=lambda: [date.today().isoformat()])
    #: By name, who, and place.
    values: dict[tuple[str, str, str], list[float | str]] = field(default_factory=dict)
    #: The unit of each figure, by its name.
    units: dict[str, str] = field(default_factory=dict)
    #: Milliseconds of each phase of a chain's step, by who, place and phase.
    phases: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)
    #: Versions of each side's packages.
    versions: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, name: str, unit: str, contender: Contender, value: float | str) -> None:
        """Write down a figure, or a word in its place, and say so."""
        self.units[name] = unit
        self.values.setdefault((name, contender.who, contender.place), []).append(value)
        shown = value if isinstance(value, str) else f"{value:.3g} {unit}"
        print(f"{contender}: {name}: {shown}", file=sys.stderr, flush=True)

    def add_phase(self, phase: str, contender: Contender, milliseconds: float) -> None:
        key = (contender.who, contender.place, phase)
        self.phases.setdefault(key, []).append(milliseconds)

    def median(self, name: str, who: str, place: str) -> float | str | None:
        """Return the middle of a figure's rounds; a word, where one of them has it; or nothing."""
        values = self.values.get((name, who, place), [])
        words = [each for each in values if isinstance(each, str)]
        numbers = [each for each in values if not isinstance(each, str)]
        if words:
            return words[0]
        return statistics.median(numbers) if numbers else None

    def number(self, name: str, contender: Contender) -> float:
        """Return the middle of a figure's rounds.

        Raises:
            KeyError: there is none.
        """
        found = self.median(name, contender.who, contender.place)
        if not isinstance(found, float | int):
            raise KeyError(name)
        return found

    def is_measured(self, who: str, place: str) -> bool:
        return any(key[1:] == (who, place) for key in self.values)

    def as_json(self) -> dict[str, Any]:
        return {
            "machine": {"cores": self.cores, "system": self.system},
            "days": self.days,
            "rounds": self.rounds,
            "storage": self.storage,
            "versions": self.versions,
            "figures": [
                {"name": name, "unit": self.units[name], "who": who, "place": place, "rounds": each}
                for (name, who, place), each in self.values.items()
            ],
            "phases": [
                {"phase": phase, "unit": "ms", "who": who, "place": place, "rounds": each}
                for (who, place, phase), each in self.phases.items()
            ],
        }

    @classmethod
    def from_json(cls, documents: Sequence[dict[str, Any]]) -> "Figures":
        """Return what was measured in several runs on one machine, each of other things."""
        first = documents[0]
        storage = first["storage"]
        cores, system = first["machine"]["cores"], first["machine"]["system"]
        days = sorted({day for document in documents for day in document["days"]})
        figures = cls(first["rounds"], storage, cores, system, days, versions=first["versions"])
        for document in documents:
            if document["storage"] != storage:
                raise ValueError("Dagster's storage is another one there: that is not one table.")
            for who, versions in document["versions"].items():
                if figures.versions.setdefault(who, versions) != versions:
                    raise ValueError(f"{who} has other versions there: that is not one table.")
            figures.rounds = min(figures.rounds, document["rounds"])
            for row in document["figures"]:
                figures.units[row["name"]] = row["unit"]
                figures.values[row["name"], row["who"], row["place"]] = row["rounds"]
            for row in document["phases"]:
                figures.phases[row["who"], row["place"], row["phase"]] = row["rounds"]
        return figures


def table(figures: Figures) -> str:
    """Return all medians and ratios, as Markdown that can be read as it stands."""
    rows = [["", "work waits in", *(title for title, _, _ in COLUMNS)]]
    for name, unit in figures.units.items():
        mine = [key for key in figures.values if key[0] == name]
        for place in PLACES:
            if any(key[2] == place for key in mine):
                cells = [_cell(figures, name, place, *column[1:]) for column in COLUMNS]
                label = f"{name}, {unit}" if unit else name
                rows.append([label, place_name(place, figures.storage), *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |"
        for row in rows
    )


def _cell(figures: Figures, name: str, place: str, who: str, base: str | None) -> str:
    value = _figure(figures, name, who, place)
    if base is None:
        borrowed = who == "original" and not figures.is_measured(who, place)
        return "" if value is None or borrowed else _short(value)
    divisor = _figure(figures, name, base, place)
    if not isinstance(value, float | int) or not isinstance(divisor, float | int) or not divisor:
        return ""
    return f"{_short(value / divisor)} x"


def _figure(figures: Figures, name: str, who: str, place: str) -> float | str | None:
    """Return a figure of a place; Dagster's own executors have none, and the original no embedded.

    This project's embedded broker is compared with the original on Redis.
    """
    if who in {"original", "ours"}:
        found = figures.median(name, who, place)
        return figures.median(name, who, REDIS) if found is None and who == "original" else found
    return figures.median(name, who, "")


def _short(value: float | str) -> str:
    """Return a number with three digits that count, or a count as it is."""
    if isinstance(value, str | int):
        return str(value)
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f}"


def heading(figures: Figures) -> str:
    """Return what was compared, in a few lines."""
    # What takes others minutes is measured once.
    lengths = [len(each) for (_, who, _), each in figures.values.items() if who == "ours"]
    counts = sorted({min(lengths, default=figures.rounds), max(lengths, default=figures.rounds)})
    rounds = " to ".join(map(str, counts))
    slots = f"with {SLOTS} slots, and Dagster's storage on {figures.storage}"
    days = " and ".join(figures.days)
    lines = [
        f"Medians of {rounds} round(s) on {figures.cores} cores ({figures.system}), {slots}. "
        f"Measured on {days} by `make bench`.",
        "",
    ]
    for who, versions in figures.versions.items():
        if who in {"original", "ours"}:
            known = ", ".join(f"{name} {each}" for name, each in versions.items())
            lines.append(f"- {who}: {known}")
    return "\n".join(lines)


def picture(figures: Figures) -> str | None:
    """Return a chart of where the time of a step in a chain goes, if that was measured."""
    bars: dict[tuple[str, str], dict[str, float]] = {}
    for (who, place, phase), values in figures.phases.items():
        bars.setdefault((who, place), {})[phase] = statistics.median(values)
    if not bars:
        return None
    shown = {(f"{who}, {place}" if place else who): bar for (who, place), bar in bars.items()}
    near = {name: bar for name, bar in shown.items() if not name.startswith("original")}
    panels = [Panel("All", shown)]
    if len(near) < len(shown):
        panels.append(Panel("The same without the original, enlarged", near))
    return stacked_bars("Where the time of a step goes, in a chain of 20", "ms", panels)


def write(figures: Figures, directory: Path) -> None:
    """Write the figures, their table, and the picture into a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "figures.json").write_text(json.dumps(figures.as_json(), indent=1) + "\n")
    (directory / "table.md").write_text(table(figures) + "\n")
    drawn = picture(figures)
    if drawn is not None:
        (directory / PICTURE).write_text(drawn)


def with_table(text: str, figures: Figures) -> str:
    """Return a guide with its table as the figures have it."""

    def fill(place: "re.Match[str]") -> str:
        return f"{place['start']}\n{heading(figures)}\n\n{table(figures)}\n<!-- end -->"

    return _TABLE.sub(fill, text)


def main(arguments: Iterable[str]) -> None:
    *sources, guide = map(Path, arguments)
    figures = Figures.from_json([json.loads(source.read_text()) for source in sources])
    guide.write_text(with_table(guide.read_text(), figures))
    drawn = picture(figures)
    if drawn is not None:
        (guide.parent.parent / "images" / PICTURE).write_text(drawn)


if __name__ == "__main__":
    main(sys.argv[1:])
