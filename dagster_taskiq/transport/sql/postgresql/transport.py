"""The broker and backend in a PostgreSQL database."""

from dagster_taskiq.transport.sql.backend import SqlBackend
from dagster_taskiq.transport.sql.broker import SqlBroker
from dagster_taskiq.transport.sql.postgresql.database import PostgresqlDatabase


class PostgresqlBroker(SqlBroker):
    """The broker in a database. Each connection is a process of the server."""

    database_class = PostgresqlDatabase
    shares_connection = True


class PostgresqlBackend(SqlBackend):
    """The backend in a database. Each connection is a process of the server."""

    database_class = PostgresqlDatabase
    shares_connection = True
