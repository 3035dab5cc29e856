"""What steps return, in the database of Dagster's storage: each host reaches that.

It is for small things. For large ones, use a bucket or a network file system.

``python -m harvest.outputs`` creates the table; once, before steps run.
"""

import os
import pickle
from functools import cache

from dagster import ConfigurableIOManager, InputContext, OutputContext
from sqlalchemy import Engine, create_engine, text

_CREATE = "CREATE TABLE IF NOT EXISTS outputs (name text PRIMARY KEY, value bytea NOT NULL)"
_WRITE = """
INSERT INTO outputs VALUES (:name, :value)
ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""
_READ = "SELECT value FROM outputs WHERE name = :name"


@cache
def _engine() -> Engine:
    return create_engine(os.environ["POSTGRES_URL"], pool_size=1, pool_pre_ping=True)


class DatabaseIOManager(ConfigurableIOManager):
    """Keeps each output under its run, step and name, or under the key of its asset."""

    def handle_output(self, context: OutputContext, obj: object) -> None:
        """Write an output, in place of an earlier one of the same name."""
        row = {"name": "/".join(context.get_identifier()), "value": pickle.dumps(obj)}
        with _engine().begin() as connection:
            connection.execute(text(_WRITE), row)

    def load_input(self, context: InputContext) -> object:
        """Read what the step before has returned."""
        name = "/".join(context.upstream_output.get_identifier())
        with _engine().connect() as connection:
            return pickle.loads(connection.execute(text(_READ), {"name": name}).scalar_one())


if __name__ == "__main__":
    with _engine().begin() as connection:
        connection.execute(text(_CREATE))
