"""Bars in an SVG, drawn with nothing but strings."""

from collections.abc import Mapping
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH = 860
MARGIN = 24
#: Where bars begin: what is left of it is for their names.
LEFT = 170
#: What is right of the longest bar, for its total.
RIGHT = 110
BAR = 22
STEP = 34
HEAD = 44
#: Dark enough for text of the background's colour, and told apart without colours, by lightness.
COLOURS = ("#9ecae1", "#4292c6", "#08519c", "#f28e2b")
INK = "#24292f"
FAINT = "#6e7781"
STYLE = "font-family: system-ui, -apple-system, 'Segoe UI', sans-serif; font-size: 13px"


@dataclass(frozen=True)
class Panel:
    """Bars that share a scale."""

    title: str
    #: The parts of each bar, by the bar's name; all bars have the same parts.
    bars: Mapping[str, Mapping[str, float]]


def stacked_bars(title: str, unit: str, panels: list[Panel]) -> str:
    """Return a picture of bars that are made of parts, in panels that each have their own scale."""
    parts = list(
        dict.fromkeys(part for panel in panels for bar in panel.bars.values() for part in bar)
    )
    colours = dict(zip(parts, COLOURS, strict=False))
    drawn = [_text(MARGIN, 32, title, size=17, weight=600), *_legend(colours, 58)]
    top = 84
    for panel in panels:
        drawn += _panel(panel, unit, colours, top)
        top += HEAD + STEP * len(panel.bars) + 10
    inside = "\n".join(drawn)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" '
        f'height="{top}" role="img" style="{STYLE}">\n<title>{escape(title)}</title>\n'
        f'<rect width="{WIDTH}" height="{top}" fill="#ffffff"/>\n{inside}\n</svg>\n'
    )


def _legend(colours: Mapping[str, str], y: float) -> list[str]:
    drawn, x = [], float(MARGIN)
    for part, colour in colours.items():
        drawn += [_rect(x, y - 10, 12, 12, colour, part), _text(x + 18, y, part)]
        x += 18 + 7.2 * len(part) + 24
    return drawn


def _panel(panel: Panel, unit: str, colours: Mapping[str, str], top: float) -> list[str]:
    drawn = [_text(MARGIN, top + 24, panel.title, weight=600)]
    longest = max((sum(bar.values()) for bar in panel.bars.values()), default=0.0)
    scale = (WIDTH - LEFT - RIGHT) / longest if longest else 0.0
    for index, (name, bar) in enumerate(panel.bars.items()):
        y, x = top + HEAD + index * STEP, float(LEFT)
        drawn.append(_text(LEFT - 12, y + 16, name, anchor="end"))
        for part, value in bar.items():
            drawn.append(
                _rect(x, y, value * scale, BAR, colours[part], f"{part}: {value:.1f} {unit}")
            )
            x += value * scale
        drawn.append(_text(x + 8, y + 16, f"{sum(bar.values()):.0f} {unit}", colour=FAINT))
    return drawn


def _rect(x: float, y: float, width: float, height: float, colour: str, title: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'fill="{colour}"><title>{escape(title)}</title></rect>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 13,
    weight: int = 400,
    anchor: str = "start",
    colour: str = INK,
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'
    )
