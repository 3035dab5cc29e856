"""The command line: ``dagster-taskiq worker ...``, ``status``, ``demo``."""

import sys

import click

from dagster_taskiq.cli.demo import demo
from dagster_taskiq.cli.status import status
from dagster_taskiq.cli.worker import worker
from dagster_taskiq.errors import DagsterTaskiqError
from dagster_taskiq.version import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dagster-taskiq")
def cli() -> None:
    """Run Dagster on a task queue."""


for command in (worker, status, demo):
    cli.add_command(command)


def main() -> None:
    """Run the command line; an error of ours is one sentence on stderr and exit code 2."""
    try:
        cli()
    except DagsterTaskiqError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
