"""How lists are shown: a rich table on a terminal, tab-separated lines elsewhere."""

from collections.abc import Sequence

import click

from dagster_taskiq.wire.safe_text import printable

#: Each number of seconds from which a duration is shown in the next larger unit.
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"))


def show(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, is_plain: bool = False
) -> None:
    """Print rows under a title; plain, with tabs, when standard output is not a terminal.

    Args:
        title: what stands above.
        columns: their names.
        rows: the texts of each row.
        is_plain: whether they are plain on a terminal too.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if is_plain or not console.is_terminal:
        click.echo(f"# {title}")
        for row in (columns, *rows):
            click.echo("\t".join(map(printable, row)))
        return
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # A step key may hold brackets, which rich would read as markup.
        table.add_row(*(Text(printable(cell)) for cell in row))
    if not rows:
        table.add_row(*["-"] * len(columns))
    console.print(table)


def duration(seconds: float) -> str:
    """Return seconds in the largest unit that fits: ``12s``, ``3m``, ``5h``, ``2d``."""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"
