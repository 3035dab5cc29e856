"""The commands about workers that run: ``worker list``, ``worker terminate`` and ``status``."""

import json
import logging
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from dagster_celery._cli.config_file import get_app
from dagster_celery._cli.newer_commands import warn_of_command
from dagster_celery._cli.options import NO_APP, PASSED_ON, app_option, config_of_workers
from dagster_celery._cli.worker_name import get_worker_name
from dagster_celery._translate.worker.node_name import expand_node_name
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.worker.local_status.client import Answer, ask_local_workers
from dagster_taskiq.worker.local_status.sockets import StartedWith

if TYPE_CHECKING:
    from dagster_celery._celery_app.app import CeleryApp

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
    help="Show which workers are online; the exit code is 69 when none is. As a health probe, that "
    "is not on a terminal, it asks the workers on this host that were started with the same -A and "
    "-y, if there are any, and not the broker.",
    context_settings=dict(PASSED_ON),
)
@config_of_workers(required=True)
@app_option
@click.option("--fleet", is_flag=True, help="Ask the broker for all workers, also in a probe.")
@click.argument("additional_args", nargs=-1, type=click.UNPROCESSED)
def status_command(
    config_yaml: str, app: str | None, fleet: bool, additional_args: tuple[str, ...]
) -> None:
    """Print a line for each worker, as ``celery status`` does, with its options."""
    if not app:
        raise ConfigError(NO_APP)
    if not fleet and not additional_args and not sys.stdout.isatty():
        answers = ask_local_workers(StartedWith(app, config_yaml))
        if answers:
            _show_answers(answers)
            return
    warn_of_command("status")
    try:
        context = _STATUS_OPTIONS.make_context("status", list(additional_args))
    except click.UsageError as error:
        raise ConfigError(f"status: {error.format_message()}") from None
    destination = context.params["destination"]
    chosen = destination.split(",") if destination else None
    found = get_app(config_yaml)
    replies = found.control.inspect(chosen).ping() or {}
    if context.params["json"]:
        click.echo(json.dumps(replies))
    else:
        _show_names(replies)
        _warn_of_leftovers(found)
    if not replies:
        click.echo("Error: No nodes replied within time constraint", err=True)
        sys.exit(NO_WORKER)
    if not context.params["json"]:
        _show_count(len(replies))


def _show_answers(answers: Sequence[Answer]) -> None:
    """Print what the workers on this host have answered; exit with 69 if none of them has."""
    alive = [each.status.name for each in answers if each.status is not None]
    _show_names(alive)
    for each in answers:
        if each.status is None:
            click.echo(f"Error: The worker with process id {each.pid} does not answer", err=True)
    click.echo("Only the workers on this host were asked; --fleet asks the broker.", err=True)
    if not alive:
        sys.exit(NO_WORKER)
    _show_count(len(alive))


def _warn_of_leftovers(app: "CeleryApp") -> None:
    """Print what Celery has left, unless its queues cannot be looked at."""
    from dagster_celery._upgrade.notices import leftover_notices  # noqa: PLC0415

    with suppress(Exception):
        for level, text in leftover_notices(app, ()):
            if level >= logging.WARNING:
                click.echo(f"Warning: {text}", err=True)


def _show_names(names: Iterable[str]) -> None:
    for name in names:
        click.echo(f"->  {name}: OK")


def _show_count(number: int) -> None:
    click.echo(f"\n{number} {'node' if number == 1 else 'nodes'} online.")
