"""Waiting for SQLite's write lock with shorter pauses than SQLite's own.

A file has one writer at a time, which holds the lock for about half a millisecond. SQLite tries
again after 1 ms, then after 2, 5, 10 and so on, up to 100 ms (``sqliteDefaultBusyCallback`` in its
``main.c``). If a few processes write all the time, these pauses take much of it, and a process that
has waited long waits longest. Here the pauses stay short; the timeout is the same.
"""

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

#: Seconds between two attempts: the first pause, and the longest.
PAUSE_SECONDS = (0.0002, 0.002)
#: The factor by which each pause is longer than the one before.
GROWTH = 1.3
#: SQLite's codes for "locked by another process" (https://www.sqlite.org/rescode.html), and for
#: "this transaction has read old data", in which case waiting does not help.
_BUSY, _BUSY_SNAPSHOT = 5, 517


class PatientConnection(sqlite3.Connection):
    """A connection that waits in short pauses: ``sqlite3.connect(..., factory=...)`` makes it."""

    def __init__(self, database: str | Path, timeout: float = 5.0, **options: Any) -> None:
        """Connect.

        Args:
            database: the file, or its URI.
            timeout: how long a statement waits for other processes' locks, in seconds.
            options: as ``sqlite3.connect`` takes them.
        """
        super().__init__(database, timeout=0, **options)
        self.seconds = timeout

    def cursor(self, *args: Any, **options: Any) -> Any:
        """Return a cursor that waits as well."""
        return super().cursor(*args, **options) if args or options else super().cursor(_Cursor)

    # These methods of the driver use a cursor that does not wait.

    def execute(self, *args: Any) -> Any:
        """Execute a statement with a new cursor."""
        return self.cursor().execute(*args)

    def executemany(self, *args: Any) -> Any:
        """Execute a statement with a new cursor, for each of some rows."""
        return self.cursor().executemany(*args)

    def executescript(self, *args: Any) -> Any:
        """Execute several statements with a new cursor."""
        return self.cursor().executescript(*args)

    def commit(self) -> None:
        """Commit, when the locks are free."""
        self.patiently(super().commit)

    def patiently(self, call: Callable[..., T], *args: Any) -> T:
        """Repeat a call until no lock of another process prevents it.

        Raises:
            sqlite3.OperationalError: there was a lock for ``timeout`` seconds; or the call's own.
        """
        begins = not self.in_transaction
        pause, longest = PAUSE_SECONDS
        deadline = time.monotonic() + self.seconds
        while True:
            try:
                return call(*args)
            except sqlite3.OperationalError as error:
                if not _is_busy(error, begins) or time.monotonic() >= deadline:
                    raise
            time.sleep(pause)
            pause = min(pause * GROWTH, longest)


class _Cursor(sqlite3.Cursor):
    connection: PatientConnection

    def execute(self, *args: Any) -> Any:
        return self.connection.patiently(super().execute, *args)

    def executemany(self, *args: Any) -> Any:
        return self.connection.patiently(super().executemany, *args)

    def executescript(self, *args: Any) -> Any:
        return self.connection.patiently(super().executescript, *args)


def _is_busy(error: sqlite3.OperationalError, begins: bool) -> bool:
    """Return whether waiting may help; with ``begins``, nothing had been read before."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # before Python 3.11
        return str(error) == "database is locked"
    return code & 0xFF == _BUSY and (begins or code != _BUSY_SNAPSHOT)
