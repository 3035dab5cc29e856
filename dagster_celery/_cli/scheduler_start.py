"""``scheduler start``: what takes the place of ``celery beat``."""

import click

from dagster_celery._cli.options import NO_APP, app_option
from dagster_taskiq.errors import ConfigError


@click.command(name="start", help="Send the periodic tasks of an app.")
@click.option(
    "--config-yaml",
    "-y",
    type=click.Path(exists=True),
    default=None,
    help="A YAML file with the config of celery_executor under `execution: config:`.",
)
@click.option("--loglevel", "-l", default="info", help="The scheduler's log level.")
@app_option
def scheduler_start_command(config_yaml: str | None, loglevel: str, app: str | None) -> None:
    """Start a scheduler; several may run at once."""
    if not app:
        raise ConfigError(NO_APP)
    # Imported here: a probe that runs another command must not wait for what this one needs.
    from dagster_celery._cli.config_module import importable  # noqa: PLC0415
    from dagster_taskiq.cli.scheduler import start  # noqa: PLC0415

    with importable(config_yaml):
        from dagster_celery._cli.app_argument import find_app  # noqa: PLC0415

        place, _ = find_app(app)
        start.main(["-A", place, "-l", loglevel.lower()], standalone_mode=False)
