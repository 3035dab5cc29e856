"""The program ``dagster-celery``: its groups of commands, and how it ends on an error."""

import sys
import warnings
from typing import Any

import click

from dagster_celery._cli.drain import drain_command
from dagster_celery._cli.running_workers import (
    status_command,
    worker_list_command,
    worker_terminate_command,
)
from dagster_celery._cli.scheduler_start import scheduler_start_command
from dagster_celery._cli.worker_start import worker_start_command
from dagster_celery._warnings import DagsterCeleryDeprecationWarning
from dagster_taskiq.errors import DagsterTaskiqError
from dagster_taskiq.worker.fork_server import process

#: What a worker's children import to find the app of ``-A``.
PRELOADED = ("dagster_celery.make_app", "dagster_celery.tasks")


class _Main(click.Group):
    """The group of all commands.

    As a program, it prints an error of ours as one sentence and exits with 2.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not sys.warnoptions:
            # Python shows such warnings only for the main program's own lines. The person who types
            # an older command, or has it in a script, should see them.
            warnings.simplefilter("default", DagsterCeleryDeprecationWarning)
        try:
            if sys.argv[1:3] == ["worker", "start"]:
                # It imports Dagster while this process imports the rest.
                process.start(PRELOADED)
            return self.main(*args, **kwargs)
        except DagsterTaskiqError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(2)


def create_worker_cli_group() -> click.Group:
    """Return the group of commands about workers."""
    group = click.Group(name="worker", help="Start, list and end workers.")
    group.add_command(worker_start_command)
    group.add_command(worker_terminate_command)
    group.add_command(worker_list_command)
    return group


worker_cli = create_worker_cli_group()
scheduler_cli = click.Group(
    name="scheduler",
    help="Send periodic tasks.",
    commands={"start": scheduler_start_command},
)


@click.group(
    cls=_Main,
    commands={
        "worker": worker_cli,
        "scheduler": scheduler_cli,
        "status": status_command,
        "drain": drain_command,
    },
)
def main() -> None:
    """dagster-celery, on taskiq. The commands are those of dagster-taskiq by their older names."""
