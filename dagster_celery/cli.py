"""``dagster-celery``: the commands of ``dagster-taskiq`` under the older name."""

import click

from dagster_taskiq.cli import main as taskiq_main


def main() -> None:
    """Say what to write instead, and run ``dagster-taskiq`` with the same arguments."""
    click.echo("dagster-celery is now dagster-taskiq; the commands are the same.", err=True)
    taskiq_main()
