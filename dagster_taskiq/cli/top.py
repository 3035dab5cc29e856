"""``dagster-taskiq top``: the fleet, live in a terminal."""

from pathlib import Path

import click

from dagster_taskiq.cli.options import connection_options, examples, settings_from


@click.command(
    short_help="Show the fleet live in this terminal.",
    epilog=examples(
        "dagster-taskiq top",
        "dagster-taskiq top -b redis://redis.internal:6379/0",
    ),
)
@connection_options
def top(broker: str | None, backend: str | None, config_yaml: Path | None, app: str | None) -> None:
    """Show the fleet live in this terminal: queues, workers, what runs and what has ended.

    It reads broker and backend, and needs neither a monitor nor a Dagster instance. Press ? for the
    keys, and q to quit. For a pipe or a log there is `status --watch`.
    """
    from dagster_taskiq.monitor.top.app import run_top

    run_top(settings_from(broker, backend, config_yaml, app))
