"""The broker and backend in a SQLite file, which is what the embedded broker is."""

from dagster_taskiq.transport.sql.backend import SqlBackend
from dagster_taskiq.transport.sql.broker import SqlBroker
from dagster_taskiq.transport.sql.sqlite.database import SqliteDatabase


class SqliteBroker(SqlBroker):
    """The broker in a file."""

    database_class = SqliteDatabase


class SqliteBackend(SqlBackend):
    """The backend in a file."""

    database_class = SqliteDatabase
