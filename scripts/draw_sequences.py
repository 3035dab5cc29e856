#!/usr/bin/env python3
"""Draws the sequence diagrams of docs/explanation/how-it-works.md, as SVG files in docs/images/.

    python scripts/draw_sequences.py [DIRECTORY]

Their colours follow the reader's choice of light or dark, on a ground of their own, so that they
are legible on any page. They are narrow, so that they are on a phone. The numbers are those of the
lists on that page.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

IMAGES = Path(__file__).parent.parent / "docs" / "images"

#: All sizes are in the units of the drawing, which is as wide as a phone.
WIDTH = 440
TOP = 62
ROW = 36
#: From the middle of a life line to the next one, and of the first one to the edge.
COLUMN = 88
EDGE = 44
#: How wide a character of a label is, on average.
CHARACTER = 6.3

STYLE = """
    .ground { fill: #ffffff; stroke: #d0d7de; }
    .head { fill: #eaf1fb; stroke: #4c78a8; }
    .gone { fill: #fbeaea; stroke: #c0392b; }
    text { fill: #1f2328; font: 12.5px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
    .title { font-weight: 600; }
    .life { stroke: #8c959f; stroke-dasharray: 3 4; }
    .way { stroke: #1f2328; fill: none; stroke-width: 1.3; }
    .now { stroke-dasharray: 5 4; }
    .point { fill: #1f2328; }
    .label { fill: #ffffff; }
    .number { fill: #4c78a8; }
    .digits { fill: #ffffff; font-weight: 600; font-size: 11px; }
    .cross { stroke: #c0392b; stroke-width: 3; }
    @media (prefers-color-scheme: dark) {
      .ground { fill: #161b22; stroke: #3d444d; }
      .head { fill: #1d2f45; stroke: #6cb0f5; }
      .gone { fill: #3b1d1d; stroke: #ff7b72; }
      text { fill: #e6edf3; }
      .life { stroke: #6e7681; }
      .way { stroke: #e6edf3; }
      .point { fill: #e6edf3; }
      .label { fill: #161b22; }
      .number { fill: #2f6fb3; }
      .cross { stroke: #ff7b72; }
    }
"""


@dataclass(frozen=True)
class Way:
    """What goes from one part to another, by the places of the two."""

    start: int
    end: int
    label: str
    #: It happens again and again, or may not happen.
    is_dashed: bool = False


@dataclass(frozen=True)
class Death:
    """A part, or several, end here."""

    places: Sequence[int]
    label: str


@dataclass(frozen=True)
class Drawing:
    """A sequence diagram."""

    title: str
    heads: Sequence[Sequence[str]]
    rows: Sequence[Way | Death]


LIFE = Drawing(
    "The life of a step",
    (("run", "loop"), ("event", "log"), ("broker,", "backend"), ("worker", ""), ("child", "")),
    (
        Way(0, 2, "send: WAITING"),
        Way(0, 1, "Sent step"),
        Way(2, 3, "claim"),
        Way(3, 2, "start: STARTED"),
        Way(3, 2, "acknowledge"),
        Way(3, 4, "execute"),
        Way(4, 1, "events, as they happen"),
        Way(3, 2, "heartbeat, each 5 s", is_dashed=True),
        Way(4, 1, "STEP_SUCCESS"),
        Way(4, 3, "wake the run"),
        Way(3, 0, "wake-up"),
        Way(0, 1, "read what is new"),
        Way(0, 2, "send the next steps"),
        Way(4, 3, "done"),
        Way(3, 2, "end: SUCCESS"),
    ),
)
LOST = Drawing(
    "A worker is lost",
    (("run", "loop"), ("event", "log"), ("broker,", "backend"), ("worker", "A"), ("worker", "B")),
    (
        Way(3, 2, "start: STARTED"),
        Way(3, 2, "heartbeat, each 5 s", is_dashed=True),
        Death((3,), "power cut, or frozen: 30 s"),
        Way(0, 2, "look, each 5 s", is_dashed=True),
        Way(0, 2, "lost: LOST"),
        Way(0, 1, "read again: no end?"),
        Way(0, 1, "failure, or retry"),
        Way(0, 2, "send attempt 2", is_dashed=True),
        Way(2, 4, "claim and start", is_dashed=True),
        Way(3, 2, "A wakes: not counted", is_dashed=True),
    ),
)
DRAWINGS = {"step-life": LIFE, "lost-worker": LOST}


def draw(drawing: Drawing) -> str:
    """Return a drawing as the text of an SVG file."""
    height = TOP + ROW * (len(drawing.rows) + 1)
    return "\n".join(_lines(drawing, height)) + "\n"


def _lines(drawing: Drawing, height: int) -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" aria-label="{escape(drawing.title)}">'
    )
    yield f"  <title>{escape(drawing.title)}</title>"
    yield f"  <style>{STYLE}  </style>"
    size = f'width="{WIDTH - 1}" height="{height - 1}"'
    yield f'  <rect class="ground" x="0.5" y="0.5" {size} rx="8"/>'
    for place, words in enumerate(drawing.heads):
        x = _x(place)
        yield f'  <line class="life" x1="{x}" y1="50" x2="{x}" y2="{height - 12}"/>'
        yield f'  <rect class="head" x="{x - 36}" y="12" width="72" height="38" rx="6"/>'
        shown = [word for word in words if word]
        for row, word in enumerate(shown):
            y = 35 if len(shown) == 1 else 28 + 15 * row
            yield f'  <text class="title" x="{x}" y="{y}" text-anchor="middle">{word}</text>'
    for number, each in enumerate(drawing.rows, start=1):
        y = TOP + ROW * number
        yield from _death(each, y, number) if isinstance(each, Death) else _way(each, y, number)
    yield "</svg>"


def _x(place: int) -> int:
    return EDGE + COLUMN * place


def _way(way: Way, y: int, number: int) -> Iterator[str]:
    start, end = _x(way.start), _x(way.end)
    ahead = 1 if end > start else -1
    dashes = " now" if way.is_dashed else ""
    yield f'  <line class="way{dashes}" x1="{start}" y1="{y}" x2="{end - 7 * ahead}" y2="{y}"/>'
    back = end - 9 * ahead
    yield f'  <path class="point" d="M{end} {y} L{back} {y - 4.5} L{back} {y + 4.5} Z"/>'
    yield from _label((start + end) / 2, y - 13, number, way.label)


def _death(death: Death, y: int, number: int) -> Iterator[str]:
    for place in death.places:
        x = _x(place)
        strokes = f"M{x - 8} {y - 8} l16 16 M{x + 8} {y - 8} l-16 16"
        yield f'  <path class="cross" d="{strokes}"/>'
    middle = _x(death.places[0]) - 110
    yield from _label(middle, y, number, death.label)


def _label(middle: float, y: float, number: int, text: str) -> Iterator[str]:
    """Draw a number and a label around a middle, within the drawing."""
    width = 22 + CHARACTER * len(text)
    left = min(max(middle - width / 2, 6), WIDTH - 6 - width)
    size = f'width="{width:g}" height="19"'
    yield f'  <rect class="label" x="{left:g}" y="{y - 10:g}" {size} rx="3"/>'
    yield f'  <circle class="number" cx="{left + 9:g}" cy="{y - 0.5:g}" r="8.5"/>'
    place = f'x="{left + 9:g}" y="{y + 3.5:g}"'
    yield f'  <text class="digits" {place} text-anchor="middle">{number}</text>'
    yield f'  <text x="{left + 22:g}" y="{y + 4:g}">{escape(text)}</text>'


def main(directory: Path) -> None:
    """Write the drawings into a directory."""
    for name, drawing in DRAWINGS.items():
        (directory / f"{name}.svg").write_text(draw(drawing))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else IMAGES)
