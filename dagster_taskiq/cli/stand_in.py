"""``dagster-taskiq stand-in``: the wheel that satisfies a requirement of dagster-celery."""

from pathlib import Path

import click

from dagster_taskiq.cli.options import examples
from dagster_taskiq.distribution.releases import NEWEST, SUPPORTED
from dagster_taskiq.distribution.stand_in import write_stand_in


@click.command(
    "stand-in",
    short_help="Write a wheel that stands in for dagster-celery.",
    epilog=examples(
        "dagster-taskiq stand-in --output dist",
        "dagster-taskiq stand-in --version 0.29.20 --output dist",
    ),
)
@click.option(
    "--version",
    "releases",
    multiple=True,
    metavar="RELEASE",
    help="The release of dagster-celery that is required: the one that dagster-celery-k8s or "
    f"dagster-celery-docker of the same number pins. Repeatable. Default: {NEWEST}.",
)
@click.option(
    "--all", "every", is_flag=True, help=f"All from {SUPPORTED[0]} to {SUPPORTED[-1]}, a file each."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="The directory that gets the file.",
)
def stand_in(releases: tuple[str, ...], every: bool, output: Path) -> None:
    """Write a wheel that stands in for dagster-celery, and print its path. Connects to nothing.

    It has no modules, and requires dagster-taskiq. Install it with dagster-celery-k8s and
    dagster-celery-docker, which would otherwise bring dagster-celery back.
    """
    for release in (*releases, *(SUPPORTED if every else ())) or (NEWEST,):
        click.echo(write_stand_in(release, output))
