"""A database in which rows of Dagster's event log are committed later than they are numbered."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2

#: The lock that inserts wait for which a test holds.
_KEY = 14
#: How many inserts wait for it, and how many rows below the highest are missing.
_HELD = (
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = "
    "(SELECT oid FROM pg_database WHERE datname = current_database())"
)
_MISSING = "SELECT max(id) - min(id) + 1 - count(*) FROM event_logs"


class LateRows:
    """The event log of a Dagster instance, as the administrator of its database sees it."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg2.connect(url)
        self._connection.autocommit = True

    @contextmanager
    def delayed(self, rows: str, by: str) -> Iterator[None]:
        """Delay rows between the moment they are numbered and their commit.

        Args:
            rows: which, as a condition of SQL on ``NEW``.
            by: a call of a function of SQL that takes its time.
        """
        self._execute(
            "CREATE FUNCTION be_late() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN PERFORM {by}; RETURN NEW; END $$"
        )
        self._execute(
            "CREATE TRIGGER be_late BEFORE INSERT ON event_logs "
            f"FOR EACH ROW WHEN ({rows}) EXECUTE FUNCTION be_late()"
        )
        try:
            yield
        finally:
            self._execute("DROP FUNCTION be_late CASCADE")

    @contextmanager
    def held(self, rows: str) -> Iterator[None]:
        """Delay rows until :meth:`release`."""
        self._execute(f"SELECT pg_advisory_lock({_KEY})")
        try:
            with self.delayed(rows, f"pg_advisory_xact_lock({_KEY})"):
                yield
        finally:
            self.release()

    def release(self) -> None:
        """Let the rows that are held be committed."""
        self._execute("SELECT pg_advisory_unlock_all()")

    @property
    def holds(self) -> bool:
        """Whether a row is held."""
        return self._number(_HELD) > 0

    @property
    def missing(self) -> int:
        """How many rows below the highest are not there."""
        return self._number(_MISSING)

    def close(self) -> None:
        self._connection.close()

    def _execute(self, statement: str) -> None:
        self._connection.cursor().execute(statement)

    def _number(self, query: str) -> int:
        with self._connection.cursor() as cursor:
            cursor.execute(query)
            row = cursor.fetchone()
        assert row is not None
        return int(row[0])
