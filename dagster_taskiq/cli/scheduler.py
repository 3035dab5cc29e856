"""``dagster-taskiq scheduler start``: send users' own tasks at the times of their schedules."""

import logging
from pathlib import Path

import click

from dagster_taskiq.cli.options import (
    broker_from,
    connection_options,
    examples,
    loglevel_option,
    split_commas,
)
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.urls import scheme_of

#: Seconds between two looks for schedules that were made meanwhile, unless an option says so.
UPDATE_SECONDS = 10


@click.group(epilog=examples("dagster-taskiq scheduler start --include shop.tasks"))
def scheduler() -> None:
    """Send users' own tasks at the times of their schedules."""


@scheduler.command(
    epilog=examples(
        "dagster-taskiq scheduler start --include shop.tasks",
        "dagster-taskiq scheduler start -A shop.app:broker --update-interval 60",
    )
)
@connection_options
@click.option(
    "-i", "--include", multiple=True, help="A module with tasks and their schedules; repeatable."
)
@click.option(
    "--update-interval",
    type=click.IntRange(min=1),
    default=UPDATE_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How often to look for schedules that were made meanwhile.",
)
@loglevel_option("scheduler")
def start(
    broker: str | None,
    backend: str | None,
    config_yaml: Path | None,
    app: str | None,
    include: tuple[str, ...],
    update_interval: int,
    loglevel: str,
) -> None:
    """Start a scheduler; it sends until it gets SIGTERM or SIGINT.

    Several may run at once: each firing of a schedule is sent by one of them. Dagster's own
    schedules, of jobs, are those of dagster-daemon.
    """
    logging.basicConfig(
        level=loglevel.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s"
    )
    from dagster_taskiq.schedules.modules import import_modules
    from dagster_taskiq.schedules.runner import run
    from dagster_taskiq.schedules.scheduler import Scheduler

    sender = broker_from(broker, backend, config_yaml, app)
    import_modules(split_commas(include))
    if scheme_of(sender.settings.broker) == "memory":
        raise ConfigError(
            "The tasks of memory:// are in one process, and nothing would run what a scheduler "
            "sends there. Name another broker: -b, -y, or $DAGSTER_TASKIQ_BROKER."
        )
    run(Scheduler(sender), update_interval)
