"""The PostgreSQL that Dagster's storage is on, if that is not SQLite."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psycopg2

from compat_tests.servers import any_postgres, new_database, with_driver

#: Where Dagster's storage may be.
SQLITE, POSTGRES = STORAGES = ("sqlite", "postgres")
#: How late the server counts sessions at most, in seconds.
COUNTED_AFTER_SECONDS = 1.2


class PostgresStorage:
    """A server with a database for each fleet."""

    def __init__(self, url: str, stack: ExitStack) -> None:
        """Make no database yet.

        Args:
            url: the server.
            stack: drops the databases.
        """
        self._url = url
        self._stack = stack

    def new_database(self) -> str:
        """Make a database; return its URL, with the driver that dagster-postgres brings."""
        url = self._stack.enter_context(new_database(self._url))
        return with_driver(url)

    def count_sessions(self, database: str) -> int:
        """Return how many connections have been opened to a database, by its URL."""
        return self._count("sessions", database)

    def count_transactions(self, database: str) -> int:
        """Return how many transactions there were in a database, by its URL."""
        return self._count("xact_commit + xact_rollback", database)

    def _count(self, what: str, database: str) -> int:
        """Return what the server has counted, when it has counted all."""
        time.sleep(COUNTED_AFTER_SECONDS)
        connection = psycopg2.connect(self._url)
        connection.autocommit = True
        with connection.cursor() as cursor:
            query = f"SELECT {what} FROM pg_stat_database WHERE datname = %s"
            cursor.execute(query, (database.rpartition("/")[2],))
            row = cursor.fetchone()
        connection.close()
        return int(row[0]) if row else 0


@contextmanager
def open_postgres() -> Iterator[PostgresStorage]:
    """Start a server, or use that of the environment; in the end, drop what was made on it."""
    with any_postgres() as url, ExitStack() as stack:
        yield PostgresStorage(url, stack)
