"""``worker start``: starts a worker, in this process or in the background."""

import os
import sys
from collections.abc import Mapping, Sequence

import click

from dagster_celery._cli.config_file import get_validated_config
from dagster_celery._cli.newer_commands import COMMAND_LINE, warn_of_command
from dagster_celery._cli.options import NO_APP, PASSED_ON, app_option
from dagster_celery._cli.worker_name import get_worker_name
from dagster_celery._translate.worker.arguments import translate_arguments
from dagster_celery._translate.worker.node_name import expand_node_name
from dagster_celery._warnings import warn_of_loss
from dagster_taskiq.bulk_imports import bulk_imports
from dagster_taskiq.deprecations import warn_older
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.worker.local_status.sockets import StartedWith

#: How often ``-q`` may be given, as with dagster-celery.
MAX_QUEUE_OPTIONS = 4

#: The log level if none is given.
DEFAULT_LEVEL = "INFO"


def launch_background_worker(subprocess_args: Sequence[str], env: Mapping[str, str]) -> None:
    """Start a worker that outlives this process, and wait until it is ready.

    Its process id and the file of its log are printed.

    Args:
        subprocess_args: the command.
        env: its environment.

    Raises:
        ConfigError: ``$DAGSTER_HOME``, which its log is written to, is not set; or the worker has
            ended as it started.
    """
    from dagster_taskiq.worker.detach import start_detached  # noqa: PLC0415

    arguments = list(subprocess_args)
    named = arguments.index("--name") + 1 if "--name" in arguments else 0
    label = arguments[named] if named else "dagster-celery"
    click.echo(start_detached(arguments, env, label))


@click.command(
    name="start", help="Start a dagster celery worker.", context_settings=dict(PASSED_ON)
)
@click.option(
    "--name",
    "-n",
    type=click.STRING,
    default=None,
    help="The worker's name, to which @HOST is added. Default: dagster- and six characters.",
)
@click.option(
    "--config-yaml",
    "-y",
    type=click.Path(exists=True),
    default=None,
    help="A YAML file with the config of celery_executor under `execution: config:`.",
)
@click.option(
    "--queue",
    "-q",
    type=click.STRING,
    multiple=True,
    help="A queue to serve; repeatable, up to four times, comma lists too.",
)
@click.option("--background", "-d", is_flag=True, help="Start it in the background and return.")
@click.option(
    "--includes",
    "-i",
    type=click.STRING,
    multiple=True,
    help="A module that the worker imports; repeatable.",
)
@click.option(
    "--loglevel", "-l", type=click.STRING, default=DEFAULT_LEVEL, help="The worker's log level."
)
@app_option
@click.argument("additional_args", nargs=-1, type=click.UNPROCESSED)
def worker_start_command(
    name: str | None,
    config_yaml: str | None,
    background: bool,
    queue: tuple[str, ...],
    includes: tuple[str, ...],
    loglevel: str,
    app: str | None,
    additional_args: tuple[str, ...],
) -> None:
    """Start a worker. The arguments after ``--`` are options of ``celery worker``."""
    if not app:
        raise ConfigError(NO_APP)
    if len(queue) > MAX_QUEUE_OPTIONS:
        raise ConfigError(
            "Can't start a dagster_celery worker that listens on more than four queues, due to a "
            "bug in Celery 4. `dagster-taskiq worker start` serves any number, and so does one -q "
            "with commas: -q a,b,c,d,e."
        )
    own = ["-l", loglevel] if loglevel.upper() != DEFAULT_LEVEL else []
    own += ["-Q", ",".join(queue)] if queue else []
    own += ["-I", ",".join(includes)] if includes else []
    translated, _ = translate_arguments(own)
    always = {"hostname", "loglevel", "prefetch_multiplier"}  # dagster-celery passes these itself
    passed = {name for name, given in (("queues", queue), ("include", includes)) if given}
    further, remarks = translate_arguments(additional_args, always | passed)
    warn_of_command("worker start", [*(["--name", name] if name else []), *translated, *further])
    for remark in remarks:
        warn = warn_of_loss if remark.is_loss else warn_older
        warn(remark.text, COMMAND_LINE)
    if background:
        get_validated_config(config_yaml)
        again = ["worker", "start", "--app", app, "--loglevel", loglevel]
        again += ["--name", name] if name else []
        again += ["--config-yaml", config_yaml] if config_yaml else []
        again += [text for each in queue for text in ("--queue", each)]
        again += [text for each in includes for text in ("--includes", each)]
        command = [sys.executable, "-m", "dagster_celery", *again, "--", *additional_args]
        launch_background_worker(command, os.environ)
        return
    from dagster_celery._cli.config_module import importable  # noqa: PLC0415

    with importable(config_yaml):
        with bulk_imports():
            from dagster_celery._celery_app.app import CeleryApp  # noqa: PLC0415
            from dagster_celery._cli.app_argument import find_app, worker_arguments  # noqa: PLC0415
            from dagster_celery._cli.chart import limits_in_pod  # noqa: PLC0415
            from dagster_celery._upgrade.notices import log_leftovers  # noqa: PLC0415
            from dagster_taskiq.cli.options import split_commas  # noqa: PLC0415
            from dagster_taskiq.cli.worker import start  # noqa: PLC0415

        place, found = find_app(app)
        called = ["--name", expand_node_name(get_worker_name(name))]
        arguments = [*worker_arguments(found, bool(queue)), *called, *translated, *further]
        limits = limits_in_pod(app, os.environ)
        if limits:
            click.echo(f"In a pod, which has 30 s to end: {' '.join(limits)}.", err=True)
        if isinstance(found, CeleryApp):
            log_leftovers(found, split_commas(queue))
        start.main(
            ["-A", place, *arguments, *limits],
            standalone_mode=False,
            # What the health probe is given: it finds this worker by the same words.
            obj=StartedWith(app, config_yaml),
        )
