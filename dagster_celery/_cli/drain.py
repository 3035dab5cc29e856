"""``drain``: what dagster-celery has left in Celery's queues, and its rescue."""

import math
import sys
from typing import TYPE_CHECKING

import click

from dagster_celery._cli.config_file import get_app
from dagster_celery._cli.options import app_option, config_of_workers
from dagster_taskiq.errors import ConfigError

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from dagster_celery._celery_app.app import CeleryApp

#: The exit code if something is left.
SOMETHING_LEFT = 1


@click.command(
    name="drain",
    help=(
        "Count what waits in Celery's queues, and list the runs of dagster-celery that have not "
        "ended. Nothing is changed without --rescue. The exit code is 0 if nothing is left, and 1 "
        "if something is."
    ),
)
@config_of_workers(default=None)
@app_option
@click.option(
    "--queue",
    "-q",
    multiple=True,
    help="One of Celery's queues, instead of all that are known; repeatable, comma lists too.",
)
@click.option(
    "--wait",
    is_flag=False,
    flag_value=math.inf,
    type=click.FloatRange(min=0),
    default=None,
    metavar="[SECONDS]",
    help="Look again until nothing is left, for so many seconds; without a number, for ever.",
)
@click.option(
    "--rescue",
    is_flag=True,
    help=(
        "Have workers of this package execute what waits. Refused while Celery's workers consume."
    ),
)
@click.option(
    "--force",
    is_flag=True,
    help="With --rescue: Celery's workers that consume there serve other queues.",
)
@click.option(
    "--back",
    is_flag=True,
    help="Before going back to dagster-celery: what was sent by this package, and has not ended.",
)
def drain_command(
    config_yaml: str | None,
    app: str | None,
    queue: tuple[str, ...],
    wait: float | None,
    rescue: bool,
    force: bool,
    back: bool,
) -> None:
    """Print what is left, wait until nothing is, or rescue it."""
    if rescue and back:
        raise click.UsageError(
            "--back has no --rescue: let the workers of this package finish (--back --wait)."
        )
    # Imported here, as it imports Dagster, which the other commands need not wait for.
    from dagster_celery._upgrade.drain import drain_back, drain_celery  # noqa: PLC0415
    from dagster_taskiq.cli.options import split_commas  # noqa: PLC0415

    found, instance = _app(config_yaml, app), _instance()
    if back:
        is_empty = drain_back(found, instance, wait or 0.0)
    else:
        is_empty = drain_celery(
            found, instance, split_commas(queue), wait, rescue=rescue, force=force
        )
    if not is_empty:
        sys.exit(SOMETHING_LEFT)


def _app(config_yaml: str | None, app: str | None) -> "CeleryApp":
    """Return the app of ``-y`` or ``-A``, else of the run launcher, else of the environment.

    Raises:
        ConfigError: there is none, or it is none of dagster-celery.
    """
    if config_yaml is not None:
        return get_app(config_yaml)
    from dagster_celery._celery_app.app import CeleryApp  # noqa: PLC0415
    from dagster_celery._cli.app_argument import find_app  # noqa: PLC0415
    from dagster_celery._launcher import CeleryRunLauncher  # noqa: PLC0415
    from dagster_celery._make_app import make_app  # noqa: PLC0415

    if app is not None:
        place, found = find_app(app)
        if not isinstance(found, CeleryApp):
            raise ConfigError(f"{place} has no settings of Celery's: name their file with -y.")
        return found
    instance = _instance()
    launcher = instance.run_launcher if instance is not None else None
    return launcher.celery if isinstance(launcher, CeleryRunLauncher) else make_app()


def _instance() -> "DagsterInstance | None":
    """Return the Dagster instance of ``$DAGSTER_HOME``; ``None`` if that is not set."""
    from dagster import DagsterInstance  # noqa: PLC0415

    from dagster_taskiq.settings.env import read_home  # noqa: PLC0415

    return DagsterInstance.get() if read_home() is not None else None
