"""``dagster-taskiq status``: queues, workers and tasks, and an exit code for health probes."""

import json
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from dagster_taskiq.cli.options import (
    connection_options,
    examples,
    note_default_broker,
    settings_from,
)
from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.worker.local_status.client import ask_local_workers
from dagster_taskiq.worker.local_status.sockets import StartedWith

if TYPE_CHECKING:
    from dagster_taskiq.settings.settings import Settings
    from dagster_taskiq.wire.queues import QueueDepth
    from dagster_taskiq.wire.records import Worker


@click.command(
    epilog=examples(
        "dagster-taskiq status",
        "dagster-taskiq status --watch 10",
        "dagster-taskiq status --worker gpu-1 --json",
        "dagster-taskiq status --local",
    )
)
@connection_options
@click.option("--worker", "name", help="Only be content if the worker of this name is alive.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--local",
    is_flag=True,
    help=(
        "Ask only the workers on this host that this user has started, and not the broker: for a "
        "liveness probe. With -A, -y, -b or --backend, those that were started with the same."
    ),
)
@click.option(
    "--watch",
    type=click.FloatRange(min=0.1),
    is_flag=False,
    flag_value=5.0,
    metavar="[SECONDS]",
    help=(
        "Print it again and again, as plain text with the time, or as a line of JSON: for a log. "
        "Every 5 seconds, unless another number is given. A broker that does not answer is named, "
        "and asked again."
    ),
)
def status(
    broker: str | None,
    backend: str | None,
    config_yaml: Path | None,
    app: str | None,
    name: str | None,
    as_json: bool,
    local: bool,
    watch: float | None,
) -> None:
    """Show what waits, who works, and on what.

    The exit code is 0 when a worker is alive (with --worker: that one), 1 when none is, and 2
    when the broker does not answer.
    """
    if local:
        if watch is not None:
            raise click.UsageError("--watch asks the broker, which --local does not.")
        options = (app, str(config_yaml) if config_yaml else None, broker, backend)
        _show_local(StartedWith(*options) if any(options) else None, name, as_json)
    settings = settings_from(broker, backend, config_yaml, app)
    if watch is None:
        code = _show(settings, name, as_json, at=None)
        if code:
            note_default_broker(broker, config_yaml, app)
        sys.exit(code)
    code = 0
    with suppress(KeyboardInterrupt):
        while True:
            code = _show_again(settings, name, as_json)
            time.sleep(watch)
    sys.exit(code)


def _show(settings: "Settings", name: str | None, as_json: bool, at: datetime | None) -> int:
    """Print what there is.

    Args:
        settings: broker and backend.
        name: only the worker of this name counts; ``None``: any.
        as_json: whether to print JSON.
        at: the time to print with it, in a form for a log; ``None``: it is for a user.

    Returns:
        The exit code: whether a worker is alive.

    Raises:
        ServerUnavailableError: broker or backend does not answer.
    """
    from dagster_taskiq.cli.tables import duration, show
    from dagster_taskiq.cli.worker_tables import describe, show_workers
    from dagster_taskiq.client import client_for
    from dagster_taskiq.settings.default_broker import warning_of_one_machine
    from dagster_taskiq.settings.urls import redact

    client = client_for(settings)
    depths, workers, rejected = client.depths(), client.workers(), client.rejected()
    unserved = _unserved(depths, workers)
    if as_json:
        document = {
            **({} if at is None else {"at": at.isoformat(timespec="seconds")}),
            "broker": redact(settings.broker),
            "backend": redact(settings.backend_url),
            "queues": [{**vars(each), "unserved": each.queue in unserved} for each in depths],
            "workers": [describe(each) for each in workers],
            "rejected": rejected,
        }
        click.echo(json.dumps(document, indent=None if at else 2))
    else:
        rows = [
            (
                each.queue,
                str(each.waiting),
                "-" if each.claimed is None else str(each.claimed),
                "-" if each.oldest_age is None else duration(each.oldest_age),
                "no worker serves it" if each.queue in unserved else "",
            )
            for each in depths
        ]
        if at is not None:
            click.echo(f"# {at.isoformat(' ', 'seconds')}")
        click.echo(f"Broker: {redact(settings.broker)}")
        if settings.backend_url != settings.broker:
            click.echo(f"Backend: {redact(settings.backend_url)}")
        columns = ("queue", "waiting", "starting", "oldest", "unserved")
        show("Queues", columns, rows, is_plain=at is not None)
        show_workers(workers, is_plain=at is not None)
        if rejected:
            click.echo(
                f"{rejected} message(s) were set aside as unreadable; "
                "`dagster-taskiq rejected list` tells why, and `rejected requeue` puts them back."
            )
    warning = warning_of_one_machine(settings.broker, settings.backend_url)
    if warning is not None:
        click.echo(f"Warning: {warning}", err=True)
    alive = [each for each in workers if not each.is_lost and name in (None, each.name)]
    return 0 if alive else 1


def _show_again(settings: "Settings", name: str | None, as_json: bool) -> int:
    """Print what there is, or that the broker does not answer, for a log; return the exit code."""
    at = datetime.now().astimezone()
    try:
        return _show(settings, name, as_json, at)
    except ServerUnavailableError as error:
        time_of_it = at.isoformat(timespec="seconds")
        if as_json:
            click.echo(json.dumps({"at": time_of_it, "error": str(error)}))
        else:
            click.echo(f"# {at.isoformat(' ', 'seconds')}\nError: {error}")
        return 2


def _unserved(depths: "Sequence[QueueDepth]", workers: "Sequence[Worker]") -> set[str]:
    """Return the names of the queues with messages that no worker will take, as it is now."""
    from dagster_taskiq.wire.queues import queue_of_run_queue

    taking = [each for each in workers if not each.is_lost and not each.draining]
    served = {queue for each in taking for queue in each.queues}
    waiting = {each.queue for each in depths if each.waiting}
    return {each for each in waiting if queue_of_run_queue(each) not in served}


def _show_local(started_with: StartedWith | None, name: str | None, as_json: bool) -> NoReturn:
    """Print what the workers on this host answer, and exit, with 1 if none of them does.

    Args:
        started_with: only those that were started with these options; ``None``: all.
        name: only the worker of this name counts; ``None``: any.
        as_json: whether to print JSON.
    """
    answers = ask_local_workers(started_with)
    workers = [each.status for each in answers if each.status is not None]
    if as_json:
        click.echo(json.dumps([asdict(each) for each in workers], indent=2))
    else:
        for each in workers:
            click.echo(f"{each.name}\t{each.state}\t{each.host}\t{each.pid}")
    for silent in (each.pid for each in answers if each.status is None):
        click.echo(f"The worker with process id {silent} does not answer.", err=True)
    if not answers:
        click.echo("There is no worker of this user on this host.", err=True)
    sys.exit(0 if any(name in (None, each.name) for each in workers) else 1)
