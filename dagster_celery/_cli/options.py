"""What several commands share of their command lines."""

from functools import partial

import click

#: Raised by commands that need ``-A`` and did not get it.
NO_APP = "App must be specified. E.g. dagster_celery.app or dagster_celery_k8s.app"

#: For commands that accept further options, of Celery's, after ``--``.
PASSED_ON = {"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]}

app_option = click.option(
    "--app", "-A", type=click.STRING, help="The module with the app, such as dagster_celery.app."
)

#: Makes the option ``-y`` of commands about workers that run; takes the rest of its arguments.
config_of_workers = partial(
    click.option,
    "--config-yaml",
    "-y",
    type=click.Path(exists=True),
    help="The config YAML file that the workers were started with.",
)
