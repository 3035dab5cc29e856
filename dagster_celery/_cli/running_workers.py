"""The commands about workers that run: ``worker list``, ``worker terminate`` and ``status``."""

import json
import sys

import click

from dagster_celery._cli.config_file import get_app
from dagster_celery._cli.newer_commands import warn_of_command
from dagster_celery._cli.options import NO_APP, PASSED_ON, app_option, config_of_workers
from dagster_celery._cli.worker_name import get_worker_name
from dagster_celery._translate.worker.node_name import expand_node_name
from dagster_taskiq.errors import ConfigError

#: The exit code of ``status`` if there is no worker, as Celery has it (EX_UNAVAILABLE of
#: sysexits.h).
NO_WORKER = 69

#: The options of ``celery status``, which are given after ``--``.
_STATUS_OPTIONS = click.Command(
    "status",
    params=[
        click.Option(["-t", "--timeout"], type=float),
        click.Option(["-d", "--destination"]),
        click.Option(["-j", "--json"], is_flag=True),
    ],
)


@click.command(name="list", help="List running dagster-celery workers, and what each of them runs.")
@config_of_workers(default=None)
def worker_list_command(config_yaml: str | None = None) -> None:
    """Print what each worker runs, by the worker's name; ``None`` if there is no worker."""
    warn_of_command("worker list")
    click.echo(get_app(config_yaml).control.inspect(timeout=1).active())


@click.command(
    name="terminate",
    help="Let a worker finish what it runs, and end; NAME is the one it was started with.",
)
@click.argument("name", default="dagster")
@click.option("--all", "-a", "all_", is_flag=True, help="End all running workers.")
@config_of_workers(default=None)
def worker_terminate_command(
    name: str = "dagster", config_yaml: str | None = None, all_: bool = False
) -> None:
    """Send workers the command to end; do not wait for their end."""
    warn_of_command("worker terminate", ["--all"] if all_ else [name])
    control = get_app(config_yaml).control
    chosen = None if all_ else [expand_node_name(get_worker_name(name)), name]
    replies = control.broadcast("shutdown", destination=chosen, reply=True) or []
    names = [each for reply in replies for each in reply]
    ending = f"Ending: {', '.join(names)}." if names else "There is no worker of that name."
    click.echo(ending, err=True)


@click.command(
    name="status",
    help="Show which workers are online; the exit code is 69 when none is.",
    context_settings=dict(PASSED_ON),
)
@config_of_workers(required=True)
@app_option
@click.argument("additional_args", nargs=-1, type=click.UNPROCESSED)
def status_command(config_yaml: str, app: str | None, additional_args: tuple[str, ...]) -> None:
    """Print a line for each worker, as ``celery status`` does, with its options."""
    if not app:
        raise ConfigError(NO_APP)
    warn_of_command("status")
    try:
        context = _STATUS_OPTIONS.make_context("status", list(additional_args))
    except click.UsageError as error:
        raise ConfigError(f"status: {error.format_message()}") from None
    destination = context.params["destination"]
    chosen = destination.split(",") if destination else None
    replies = get_app(config_yaml).control.inspect(chosen).ping() or {}
    if context.params["json"]:
        click.echo(json.dumps(replies))
    else:
        for name in replies:
            click.echo(f"->  {name}: OK")
    if not replies:
        click.echo("Error: No nodes replied within time constraint", err=True)
        sys.exit(NO_WORKER)
    if not context.params["json"]:
        click.echo(f"\n{len(replies)} {'node' if len(replies) == 1 else 'nodes'} online.")
