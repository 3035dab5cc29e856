"""Making our tables in PostgreSQL, under an advisory lock, by the first process that needs them."""

from contextlib import suppress

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.transport.sql.postgresql.ddl import BEGIN, LOCK_SALT, VERSION, ddl, quoted
from dagster_taskiq.transport.sql.postgresql.errors import is_undefined

# To read these tables has the server look again at what another process has made meanwhile, which
# functions such as to_regclass() do not.
_FOUND = sa.text(
    """
    SELECT
        EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = :schema),
        EXISTS (
            SELECT FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace AS namespace
                ON namespace.oid = relnamespace
            WHERE nspname = :schema AND relname = 'dagster_taskiq_schema'
        )
    """
)


def ensure(connection: Connection, schema: str, creates: bool) -> None:
    """See that the tables are there, in this release's version or a newer one.

    Args:
        connection: one that commits each statement.
        schema: where.
        creates: whether they are made, or changed, if they are not.

    Raises:
        ConfigError: they are not, and may not be made.
    """
    version = _version(connection, schema)
    if version >= VERSION:
        return
    if not creates:
        there = f"in version {version}" if version else "not there"
        raise ConfigError(
            f'The tables of the broker in the schema "{schema}" are {there}, version {VERSION} is '
            "needed, and Dagster's storage is configured not to create tables "
            "(should_autocreate_tables). Run: dagster-taskiq storage ddl | psql DATABASE"
        )
    connection.exec_driver_sql(BEGIN)
    try:
        lock = sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:schema, :salt))")
        connection.execute(lock, {"schema": schema, "salt": LOCK_SALT})
        has_schema, has_tables = connection.execute(_FOUND, {"schema": schema}).one()
        if not has_schema:
            connection.exec_driver_sql(f"CREATE SCHEMA {quoted(schema)}")
        version = _version(connection, schema) if has_tables else 0
        statements = ddl(schema, after=version)
        if statements:
            connection.exec_driver_sql(statements)
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        with suppress(sa.exc.DBAPIError):  # the first error counts
            connection.exec_driver_sql("ROLLBACK")
        raise


def _version(connection: Connection, schema: str) -> int:
    """Return the version of the tables; 0 if there are none."""
    query = f"SELECT coalesce(max(version), 0) FROM {quoted(schema)}.dagster_taskiq_schema"
    try:
        return int(connection.exec_driver_sql(query).scalar_one())
    except sa.exc.DBAPIError as error:
        if not is_undefined(error):
            raise
        return 0
