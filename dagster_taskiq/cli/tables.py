"""How lists are shown: a rich table on a terminal, tab-separated lines elsewhere."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import click

from dagster_taskiq.wire.safe_text import printable

if TYPE_CHECKING:
    from rich.table import Table

#: Each number of seconds from which a duration is shown in the next larger unit.
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"))

#: A way to make a table narrower: the name of a column, and what shortens its cells; ``None``
#: leaves it out.
Narrower: TypeAlias = tuple[str, Callable[[str], str] | None]

Rows: TypeAlias = Sequence[Sequence[str]]


def show(
    title: str,
    columns: Sequence[str],
    rows: Rows,
    *,
    narrower: Sequence[Narrower] = (),
    is_plain: bool = False,
) -> None:
    """Print rows under a title; plain, with tabs, when standard output is not a terminal.

    Args:
        title: what stands above.
        columns: their names.
        rows: the texts of each row.
        narrower: what is done, one after the other, until the table fits into the terminal. What
            is too wide even then is broken into lines.
        is_plain: whether they are plain on a terminal too.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console()
    rows = [[printable(cell) for cell in row] for row in rows]
    if is_plain or not console.is_terminal:
        click.echo(f"# {title}")
        for row in (columns, *rows):
            click.echo("\t".join(row))
        return
    columns, rows = fitted(columns, rows or [["-"] * len(columns)], narrower, console.width)
    table = new_table(title)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # A step key may hold brackets, which rich would read as markup.
        table.add_row(*map(Text, row))
    console.print(table)


def new_table(title: str) -> "Table":
    """Return a table without columns, in the style of all."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD)
    table.show_edge = table.pad_edge = False
    return table


def fitted(
    columns: Sequence[str], rows: Rows, narrower: Sequence[Narrower], width: int
) -> tuple[Sequence[str], Rows]:
    """Return the columns and rows of a table, shortened until it fits.

    Args:
        columns: their names.
        rows: the texts of each row.
        narrower: what is done, one after the other, until it fits.
        width: how many characters a line has.
    """
    for name, shorten in narrower:
        if _width(columns, rows) <= width:
            break
        if name not in columns:
            continue
        at = list(columns).index(name)
        if shorten is None:
            columns = [*columns[:at], *columns[at + 1 :]]
            rows = [[*row[:at], *row[at + 1 :]] for row in rows]
        else:
            rows = [[*row[:at], shorten(row[at]), *row[at + 1 :]] for row in rows]
    return columns, rows


def middle_left_out(text: str, size: int = 20) -> str:
    """Return a text of at most ``size`` characters, with its beginning and its end."""
    if len(text) <= size:
        return text
    head = (size - 1) // 2
    return f"{text[:head]}…{text[head + 1 - size :]}"


def _width(columns: Sequence[str], rows: Rows) -> int:
    """Return how wide a table is: rich puts three characters between two columns."""
    from rich.cells import cell_len

    widest = [max(map(cell_len, cells)) for cells in zip(columns, *rows, strict=True)]
    return sum(widest) + 3 * (len(widest) - 1)


def duration(seconds: float) -> str:
    """Return seconds in the largest unit that fits: ``12s``, ``3m``, ``5h``, ``2d``."""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"
