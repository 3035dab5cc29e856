"""A whole screen of ``top``: what is said of the fleet, the sections, and the keys."""

import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dagster_taskiq.monitor.snapshot import FleetView
from dagster_taskiq.monitor.top.sections import Section, duration, sections
from dagster_taskiq.monitor.top.state import Chosen, SectionName, TopState
from dagster_taskiq.wire.safe_text import printable

#: How many lines are for what is wrong with the servers at most.
TROUBLE_LINES = 3
#: The fewest lines of a section: its title, the names of its columns, and one row.
LEAST_LINES = 3
#: How narrow a column becomes that shares what is left of the width, in characters.
LEAST_WIDTH = 8

KEYS = " q quit  p pause  / filter  s sort  r reverse  Tab section  z zoom  ? help"
HELP = """\
q           quit (Ctrl-C does so too)
p, space    pause: the screen stands, and goes on with the next press
/           show only rows with a text: type it, then Enter; Escape clears it
Tab, 1-4    choose a section: queues, workers, what runs, what has ended
s, S        order the rows of that section by its next, or previous, column
r           the other way round
arrows, Page Up, Page Down, Home    scroll its rows
z, Enter    show only that section, and all of them again
?           this help; any key leaves it

Slots: green are steps and your own tasks, blue are runs. Red queues have messages that no
worker serves. What has ended is listed for 15 minutes."""


@dataclass(frozen=True)
class Size:
    """The size of the screen, in characters, and whether it shows nothing but ASCII."""

    width: int
    height: int
    is_ascii: bool = False


def draw(view: FleetView, state: TopState, size: Size, now: float) -> RenderableType:
    """Return the screen. The offsets of the sections are set to where there are rows.

    Args:
        view: the fleet.
        state: what is chosen.
        size: that of the screen.
        now: the present time, in seconds since the epoch; that of the pause while it lasts.
    """
    top = [_header(view, state, now), _summary(view), *_trouble(view, size.width, now)]
    lines = size.height - len(top) - 1
    if state.shows_help:
        body: list[RenderableType] = [Text(f" {line}") for line in HELP.splitlines()[:lines]]
    else:
        body = _sections(view, state, size, lines, now)
    return Group(*top, *body, *_fill(body, lines), _footer(state))


def share_lines(
    needed: Mapping[SectionName, int], focus: SectionName, lines: int
) -> dict[SectionName, int]:
    """Return how many lines each section gets, of those that it needs.

    The one with the focus gets twice as many of those that are left as the others; if there is not
    room for a row of each, it gets all.
    """
    given = {name: min(count, LEAST_LINES) for name, count in needed.items()}
    if sum(given.values()) > lines:
        return {focus: max(0, min(lines, needed[focus]))}
    left = lines - sum(given.values())
    turns = [focus, *needed]
    while left and any(given[name] < needed[name] for name in needed):
        for name in turns:
            if left and given[name] < needed[name]:
                given[name] += 1
                left -= 1
    return given


def _header(view: FleetView, state: TopState, now: float) -> Text:
    text = Text(" dagster-taskiq top ", "bold")
    text.append(time.strftime(" %H:%M:%S ", time.localtime(now)), "not bold")
    if state.is_paused:
        text.append(" PAUSED ", "reverse")
    text.append(f" {view.broker}", "not bold dim")
    if view.backend != view.broker:
        text.append(f"  {view.backend}", "not bold dim")
    return _line(text)


def _summary(view: FleetView) -> Text:
    alive = [each for each in view.workers if each.state != "lost"]
    lost = len(view.workers) - len(alive)
    unserved = sum(each.is_unserved for each in view.queues)
    slots = f"{sum(each.busy_slots for each in alive)}/{sum(each.slots for each in alive)}"
    text = Text(f" {_count(len(alive), 'worker')}")
    text.append(f"  {slots} slots busy")
    text.append(f"  {sum(each.waiting for each in view.queues)} waiting")
    text.append(f"  {sum(each.running for each in view.queues)} running")
    if lost:
        text.append(f"  {lost} lost", "bold red")
    if unserved:
        text.append(f"  {_count(unserved, 'queue')} unserved", "bold red")
    if view.rejected:
        text.append(f"  {view.rejected} set aside (dagster-taskiq rejected list)", "yellow")
    return _line(text)


def _trouble(view: FleetView, width: int, now: float) -> list[Text]:
    if not view.trouble:
        return [] if view.at else [Text(" Connecting ...")]
    since = f" (what is shown is {duration(now - view.at)} old)" if view.at else ""
    wrapped = textwrap.wrap(printable(view.trouble) + since, max(20, width - 2))
    return [Text(f" {line}", "bold red") for line in wrapped[:TROUBLE_LINES]]


def _sections(
    view: FleetView, state: TopState, size: Size, lines: int, now: float
) -> list[RenderableType]:
    found = sections(view, size.is_ascii)
    if state.is_zoomed:
        found = {state.section: found[state.section]}
    rows = {
        name: section.rows_of(view, state.sections[name], state.filter, now)
        for name, section in found.items()
    }
    # A title alone if there are no rows.
    needed = {name: 2 + len(each) if each else 1 for name, each in rows.items()}
    given = share_lines(needed, state.section, lines)
    body: list[RenderableType] = []
    for name, count in given.items():
        if count:
            chosen = state.sections[name]
            visible = max(0, count - 2)
            chosen.offset = max(0, min(chosen.offset, len(rows[name]) - visible))
            body.append(_title(found[name], chosen, len(rows[name]), visible, state))
            if visible:
                shown = rows[name][chosen.offset : chosen.offset + visible]
                body.append(_table(found[name], chosen, shown, size, now))
    return body


def _title(
    section: Section[Any], chosen: Chosen, count: int, visible: int, state: TopState
) -> Text:
    has_focus = section.name is state.section
    text = Text(f" {section.name.value.capitalize()} ", "reverse bold" if has_focus else "bold")
    text.append(f" {count or 'none'}", "not reverse not bold")
    if count > visible > 0:
        text.append(
            f"  {chosen.offset + 1}-{chosen.offset + visible} shown", "not reverse not bold dim"
        )
    if count:
        order = f"  by {section.sorted_by(chosen).title}{', reversed' * chosen.is_reversed}"
        text.append(order, "not reverse not bold dim")
    return _line(text)


def _table(
    section: Section[Any], chosen: Chosen, rows: Sequence[Any], size: Size, now: float
) -> Table:
    table = Table(
        box=None, expand=True, padding=(0, 1, 0, 1), collapse_padding=True, header_style="dim"
    )
    by = section.sorted_by(chosen)
    for column in section.columns:
        if column.from_width <= size.width:
            table.add_column(
                Text(column.title, "underline" if column is by else ""),
                justify="right" if column.is_number else "left",
                ratio=column.ratio,
                min_width=LEAST_WIDTH if column.ratio else None,
                no_wrap=True,
                overflow="ellipsis",
            )
    for row in rows:
        table.add_row(*section.cells(row, now, size.width), style=section.style(row))
    return table


def _fill(body: Sequence[RenderableType], lines: int) -> list[Text]:
    """Return empty lines, so that the last line of the screen is that of the keys."""
    used = sum(each.row_count + 1 if isinstance(each, Table) else 1 for each in body)
    return [Text("")] * max(0, lines - used)


def _footer(state: TopState) -> Text:
    if state.is_typing:
        text = Text(f" filter: {printable(state.filter)}")
        text.append(" ", "reverse").append("  Enter keeps it, Escape clears it", "dim")
    else:
        text = Text(KEYS, "dim")
        if state.filter:
            text = Text(f" filter: {printable(state.filter)} (Escape clears it) ", "bold") + text
    return _line(text)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
