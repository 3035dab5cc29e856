"""Showing that something goes on, so that a demo is never silent for long."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

#: After how long a silence something is printed, in seconds, where there is no terminal.
SILENCE_SECONDS = 4.0


@contextmanager
def showing(what: str) -> Iterator[None]:
    """Print what is done in the context, and for how long already.

    On a terminal that is one line that changes; elsewhere a line, and one more from time to time.
    """
    console = Console()
    if not console.is_terminal:
        show_line(f"{what} ...")
        with _ticking():
            yield
        return
    columns = (SpinnerColumn(finished_text=" "), TextColumn("{task.description}"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task(f"{what} ...", total=None)
        yield
        progress.update(task, total=1, completed=1)


@contextmanager
def _ticking() -> Iterator[None]:
    started, done = time.monotonic(), threading.Event()

    def tick() -> None:
        while not done.wait(SILENCE_SECONDS):
            show_line(f"  ... {time.monotonic() - started:.0f} s")

    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    try:
        yield
    finally:
        done.set()
        ticker.join()


def show_line(text: str) -> None:
    """Print a line, and go on if that fails: there are processes to stop."""
    with suppress(OSError):
        click.echo(text)
