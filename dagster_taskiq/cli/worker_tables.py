"""Workers, and what they run: as tables and as JSON."""

from collections.abc import Sequence
from typing import Any

import click

from dagster_taskiq.cli.tables import Narrower, duration, middle_left_out, show
from dagster_taskiq.version import __version__
from dagster_taskiq.wire.records import Worker


def show_workers(workers: Sequence[Worker], *, is_plain: bool = False) -> None:
    """Print workers, and what they run, as tables; see :func:`show`."""
    columns = ("worker", "state", "host", "pid", "queues", "slots", "runs", "seen", "version")
    rows = []
    for each in workers:
        rows.append(
            (
                each.name,
                each.condition,
                each.host,
                str(each.pid),
                ",".join(each.queues),
                f"{each.busy_slots}/{each.concurrency}",
                f"{each.held_runs}/{each.max_runs}",
                f"{duration(each.age)} ago",
                each.version,
            )
        )
    show("Workers", columns, rows, narrower=_narrower(workers), is_plain=is_plain)
    running = [
        (
            each.name,
            str(task.pid or "-"),
            task.run_id or "-",
            task.step_key or f"{task.name}{', waits for its steps' * task.orchestrating}",
            duration(task.seconds + each.age),
        )
        for each in workers
        if not each.is_lost
        for task in each.running
    ]
    if running:
        about = ("worker", "pid", "run", "step", "since")
        show("Running", about, running, narrower=_NARROWER_RUNNING, is_plain=is_plain)
    for each in workers:
        if each.unexpected_parts:
            click.echo(
                f"{each.name}: Dagster is not as expected ({', '.join(each.unexpected_parts)}), so "
                "its own way is used there; the worker's log says more."
            )


def describe(each: Worker) -> dict[str, Any]:
    """Return a worker as JSON data."""
    return {**each.to_plain(), "age": round(each.age, 1), "lost": each.is_lost}


def _narrower(workers: Sequence[Worker]) -> list[Narrower]:
    """Return what makes the table of workers narrower: what is missed least goes first."""
    found: list[Narrower] = [
        ("queues", lambda queues: queues.replace(",", ", ")),  # may be broken between them
        ("host", lambda host: host.partition(".")[0]),
    ]
    if all(each.version == __version__ for each in workers):
        found.append(("version", None))
    if all(each.name == f"{each.host}-{each.pid}" for each in workers):  # as it is by default
        found += [("host", None), ("pid", None)]
    return [
        *found,
        ("worker", middle_left_out),
        ("host", middle_left_out),
        ("pid", None),
        ("host", None),
        ("version", None),
    ]


_NARROWER_RUNNING: list[Narrower] = [
    # As Dagster's UI shows them.
    ("run", lambda run_id: run_id[:8]),
    ("worker", middle_left_out),
    ("step", lambda step: middle_left_out(step, 40)),
    ("pid", None),
]
