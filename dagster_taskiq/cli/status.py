"""``dagster-taskiq status``: queues, workers and tasks, and an exit code for health probes."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import click

from dagster_taskiq.cli.options import connection_options, settings_from
from dagster_taskiq.worker.local_status.client import ask_local_workers
from dagster_taskiq.worker.local_status.sockets import StartedWith


@click.command()
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
def status(
    broker: str | None,
    backend: str | None,
    config_yaml: Path | None,
    app: str | None,
    name: str | None,
    as_json: bool,
    local: bool,
) -> None:
    """Show what waits, who works, and on what.

    The exit code is 0 when a worker is alive (with --worker: that one), 1 when none is, and 2
    when the broker does not answer.
    """
    if local:
        options = (app, str(config_yaml) if config_yaml else None, broker, backend)
        _show_local(StartedWith(*options) if any(options) else None, name, as_json)
    # Imported here: a probe answers faster without.
    from dagster_taskiq.cli.tables import duration, show  # noqa: PLC0415
    from dagster_taskiq.cli.worker import describe, show_workers  # noqa: PLC0415
    from dagster_taskiq.client import client_for  # noqa: PLC0415
    from dagster_taskiq.settings.default_broker import warning_of_one_machine  # noqa: PLC0415
    from dagster_taskiq.settings.urls import redact  # noqa: PLC0415

    settings = settings_from(broker, backend, config_yaml, app)
    client = client_for(settings)
    depths, workers, rejected = client.depths(), client.workers(), client.rejected()
    if as_json:
        document = {
            "broker": redact(settings.broker),
            "backend": redact(settings.backend_url),
            "queues": [each.__dict__ for each in depths],
            "workers": [describe(each) for each in workers],
            "rejected": rejected,
        }
        click.echo(json.dumps(document, indent=2))
    else:
        rows = [
            (
                each.queue,
                str(each.waiting),
                "-" if each.claimed is None else str(each.claimed),
                "-" if each.oldest_age is None else duration(each.oldest_age),
            )
            for each in depths
        ]
        click.echo(f"Broker: {redact(settings.broker)}")
        if settings.backend_url != settings.broker:
            click.echo(f"Backend: {redact(settings.backend_url)}")
        show("Queues", ("queue", "waiting", "starting", "oldest"), rows)
        show_workers(workers)
        if rejected:
            click.echo(
                f"{rejected} message(s) were set aside as unreadable; "
                "`dagster-taskiq rejected list` tells why, and `rejected requeue` puts them back."
            )
    warning = warning_of_one_machine(settings.broker, settings.backend_url)
    if warning is not None:
        click.echo(f"Warning: {warning}", err=True)
    alive = [each for each in workers if not each.is_lost and name in (None, each.name)]
    sys.exit(0 if alive else 1)


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
