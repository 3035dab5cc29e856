"""Runs while they are executed: a table on a terminal, a line for each event elsewhere."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import click
from dagster import DagsterInstance, DagsterRunStatus
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dagster_taskiq.cli.tables import new_table, show
from dagster_taskiq.demo.progress import SILENCE_SECONDS
from dagster_taskiq.demo.story import Outcome, RunStory, StepStory

#: How often event logs are read to show what is new, in seconds.
POLL_SECONDS = 0.2
#: The states of a run in which there is nothing to see yet.
_BEFORE = (DagsterRunStatus.NOT_STARTED, DagsterRunStatus.QUEUED, DagsterRunStatus.STARTING)

COLUMNS = ("step", "state", "attempts", "seconds", "why again")
_STYLES = {
    Outcome.WAITING: "dim",
    Outcome.RUNNING: "cyan",
    Outcome.RETRYING: "yellow",
    Outcome.SUCCEEDED: "green",
    Outcome.FAILED: "bold red",
    Outcome.SKIPPED: "blue",
}


@contextmanager
def following(instance: DagsterInstance, jobs: Mapping[str, str]) -> Iterator[None]:
    """Show runs as long as the context lasts.

    Event logs are read at short intervals. The loop of a run reads its own only when a step has
    ended, and here the starts of steps are shown as well.

    Args:
        instance: has the runs, or will have them.
        jobs: the names of their jobs, by their ids.
    """
    console = Console()
    followed = [_Followed(instance, run_id, job) for run_id, job in jobs.items()]
    done = threading.Event()

    def follow() -> None:
        started = shown_at = time.time()
        more = True
        while more:
            more = not done.wait(POLL_SECONDS)
            lines = [line for each in followed for line in each.read(with_job=len(followed) > 1)]
            if console.is_terminal:
                continue
            for at, line in lines:
                click.echo(f"{max(0.0, at - started):6.1f} s  {line}")
            if more and not lines and time.time() - shown_at > SILENCE_SECONDS:
                click.echo(f"{time.time() - started:6.1f} s  ...")
                lines = [(time.time(), "")]
            if lines:
                shown_at = time.time()

    with ExitStack() as stack:
        if console.is_terminal:
            view = Live(
                get_renderable=lambda: Group(*(each.table() for each in followed)),
                console=console,
                refresh_per_second=8,
                transient=True,
            )
            stack.enter_context(view)
        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        try:
            yield
        finally:
            done.set()
            follower.join()


class _Followed:
    """One run, and how far it has been read."""

    def __init__(self, instance: DagsterInstance, run_id: str, job: str) -> None:
        self._instance = instance
        self._run_id = run_id
        self._job = job
        self._story = RunStory()
        self._cursor: str | None = None
        self._has_begun = False

    def read(self, *, with_job: bool) -> list[tuple[float, str]]:
        """Return what is new: sentences with their times, and with the job if there are several."""
        if not self._has_begun:
            # Before, the processes that launch it may be about to make the file of its event log.
            run = self._instance.get_run_by_id(self._run_id)
            self._has_begun = run is not None and run.status not in _BEFORE
        if not self._has_begun:
            return []
        batch = self._instance.get_records_for_run(self._run_id, self._cursor)
        self._cursor = batch.cursor
        found = []
        for entry in (record.event_log_entry for record in batch.records):
            event = entry.dagster_event
            sentence = event and self._story.add(event, entry.timestamp)
            if event and sentence:
                job = f"{self._job}: " if with_job else ""
                found.append((entry.timestamp, f"{job}{event.step_key}: {sentence}"))
        return found

    def table(self) -> Table:
        """Return its steps, as they are now, for a terminal."""
        return _table(self._job, list(self._story.steps.values()))


def show_steps(title: str, steps: Sequence[StepStory]) -> None:
    """Print how steps have gone."""
    console = Console()
    if console.is_terminal:
        console.print(_table(title, steps))
    else:
        show(title, COLUMNS, [_cells(step) for step in steps])


def _table(title: str, steps: Sequence[StepStory]) -> Table:
    table = new_table(title)
    for column in COLUMNS[:-1]:
        table.add_column(column, no_wrap=True)
    table.add_column(COLUMNS[-1], overflow="fold")
    for step in steps:
        key, outcome, *rest = map(Text, _cells(step))
        outcome.stylize(_STYLES[step.outcome])
        table.add_row(key, outcome, *rest)
    return table


def _cells(step: StepStory) -> tuple[str, ...]:
    seconds = f"{step.seconds(time.time()):.1f}"
    return step.key, step.outcome.value, str(step.attempts), seconds, "; ".join(step.reasons)
