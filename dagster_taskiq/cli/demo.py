"""``dagster-taskiq demo``."""

import click


@click.command()
def demo() -> None:
    """Run an example project."""
