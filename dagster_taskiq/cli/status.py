"""``dagster-taskiq status``: queues, workers and tasks, and an exit code for health probes."""

import json
import sys
from pathlib import Path

import click

from dagster_taskiq.cli.options import connection_options, settings_from
from dagster_taskiq.cli.tables import duration, show
from dagster_taskiq.cli.worker import describe, show_workers
from dagster_taskiq.client import client_for
from dagster_taskiq.settings.urls import redact


@click.command()
@connection_options
@click.option("--worker", "name", help="Only be content if the worker of this name is alive.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(
    broker: str | None,
    backend: str | None,
    config_yaml: Path | None,
    app: str | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Show what waits, who works, and on what.

    The exit code is 0 when a worker is alive (with --worker: that one), 1 when none is, and 2
    when the broker does not answer.
    """
    settings = settings_from(broker, backend, config_yaml, app)
    client = client_for(settings)
    depths, workers, rejected = client.depths(), client.workers(), client.rejected()
    if as_json:
        document = {
            "broker": redact(settings.broker),
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
                duration(each.oldest_age),
            )
            for each in depths
        ]
        click.echo(f"Broker: {redact(settings.broker)}")
        show("Queues", ("queue", "waiting", "starting", "oldest"), rows)
        show_workers(workers)
        if rejected:
            click.echo(
                f"{rejected} message(s) were set aside as unreadable; see the workers' logs."
            )
    alive = [each for each in workers if not each.is_lost and name in (None, each.name)]
    sys.exit(0 if alive else 1)
