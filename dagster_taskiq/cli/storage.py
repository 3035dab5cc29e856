"""``dagster-taskiq storage``: the tables of the broker in PostgreSQL, for those who make them."""

import click

from dagster_taskiq.cli.options import examples
from dagster_taskiq.transport.sql.postgresql.ddl import DEFAULT_SCHEMA, full_ddl


@click.group(epilog=examples("dagster-taskiq storage ddl | psql dagster"))
def storage() -> None:
    """Show what the broker keeps in a PostgreSQL database."""


@storage.command(
    epilog=examples(
        "dagster-taskiq storage ddl",
        "dagster-taskiq storage ddl --schema tasks | psql dagster",
    )
)
@click.option(
    "--schema",
    default=DEFAULT_SCHEMA,
    show_default=True,
    help="The schema that gets the tables, as `schema` in the broker's URL names it.",
)
def ddl(schema: str) -> None:
    """Print the SQL that makes the tables. Connects to nothing.

    For a database in which the user of workers and runs may create none: run it as one who may,
    and grant USAGE on the schema, and ALL on its tables.
    """
    click.echo(full_ddl(schema), nl=False)
