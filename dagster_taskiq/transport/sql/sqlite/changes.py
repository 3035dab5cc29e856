"""Noticing that a SQLite file has changed, and short queries that follow each change.

All of this runs on the event loop, on a connection of its own. It reads one number from shared
memory to see whether any process has committed, and needs neither a lock nor the disk.
"""

import asyncio
import sqlite3
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.transport.error_boundary import ErrorBoundary
from dagster_taskiq.transport.sql.sqlite.file_watch import FileNotices

#: How long this connection waits for a process that has locked the whole file, in seconds. The
#: event loop is blocked meanwhile.
BUSY_SECONDS = 0.25
#: Seconds between two looks for a change without notices: soon after a change, and later.
POLL_SECONDS = (0.002, 0.05)
#: How long after a change the shorter of these counts, in seconds.
FAST_SECONDS = 0.25
#: How long after a notice of a write changes are looked for, in seconds: the notice may come before
#: the write is complete.
NOTICED_SECONDS = 0.03
#: Seconds between two looks for a change while there are no notices.
WITHOUT_NOTICE_SECONDS = 1.0


class SqliteChanges:
    """Sees the commits of all processes to one SQLite file. Used from one event loop."""

    def __init__(self, path: Path, boundary: ErrorBoundary) -> None:
        """Begin to watch.

        Args:
            path: the file, in WAL mode, with its tables.
            boundary: translates the errors of SQLite.
        """
        self._boundary = boundary
        self._connection = sqlite3.connect(path, timeout=BUSY_SECONDS, check_same_thread=False)
        self._version = 0
        self._generation = 0
        self._changed_at = 0.0
        self._waiters: set[asyncio.Future[None]] = set()
        self._looking: asyncio.Task[None] | None = None
        # Done when there is a notice of a write, while the looking task waits for one.
        self._written: asyncio.Future[None] | None = None
        # Notices of writes by the operating system; without them, the file is polled.
        self._notices: FileNotices | None = None
        with suppress(OSError):
            self._notices = FileNotices(f"{path}-wal", self._on_written)

    @property
    def has_notices(self) -> bool:
        """Whether the operating system gives notices of writes; else the file is polled."""
        return self._notices is not None

    def close(self) -> None:
        """Stop watching."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        self._end_notices()
        self._connection.close()

    def mark(self) -> int:
        """Return a number for the present state of the file, to wait for a later one.

        Raises:
            ServerUnavailableError: another process has locked the whole file.
        """
        with self._boundary:
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self._version = version
            self._generation += 1
            self._changed_at = time.monotonic()
        return self._generation

    def exists(self, query: "sa.Select[Any]", parameters: Mapping[str, Any]) -> bool:
        """Return whether ``query`` finds a row, given values for its parameters.

        It is one of the few that are built once, and all its parameters are named.

        Each change is followed by many of these queries, of which most find nothing, so they have
        to be cheap. In WAL mode, reading waits for no lock.

        Raises:
            ServerUnavailableError: the file cannot be read.
        """
        with self._boundary:
            return self._connection.execute(_text_of(query), parameters).fetchone() is not None

    async def wait_beyond(self, mark: int, timeout: float) -> None:
        """Return after a commit of any process since ``mark`` was taken, or after ``timeout`` s.

        Raises:
            ServerUnavailableError: another process has locked the whole file.
        """
        if self.mark() != mark:
            return
        changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(changed)
        # One task looks for all that wait.
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._look(self._generation))
        try:
            await asyncio.wait([changed], timeout=timeout)
        finally:
            self._waiters.discard(changed)

    async def _look(self, generation: int) -> None:
        if self._notices is not None:
            self._notices.listen()
        try:
            await self._look_for_waiters(generation)
        finally:
            if self._notices is not None:
                self._notices.rest()

    async def _look_for_waiters(self, generation: int) -> None:
        expected = True
        while True:
            with suppress(ServerUnavailableError):  # the waiters query soon, and get the error
                self.mark()
            if self._generation != generation:
                generation = self._generation
                if not expected and self._notices is not None and not self._notices.take():
                    # This file system gives no notices.
                    self._end_notices()
                waiters, self._waiters = self._waiters, set()
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_result(None)
            if not self._waiters:
                return
            expected = await self._pause()

    async def _pause(self) -> bool:
        """Wait until it is time to look again; return whether a change is expected then."""
        quiet = time.monotonic() - self._changed_at
        if self._notices is None:
            await asyncio.sleep(POLL_SECONDS[0] if quiet < FAST_SECONDS else POLL_SECONDS[1])
            return True
        soon = quiet < NOTICED_SECONDS
        # Twice as long each time: mostly the change is there at the first look.
        pause = max(POLL_SECONDS[0], quiet) if soon else WITHOUT_NOTICE_SECONDS
        self._written = asyncio.get_running_loop().create_future()
        # asyncio.wait_for of Python 3.10 and 3.11 ignores a cancellation that comes at the moment
        # of the notice; this task would then go on, on a closed connection.
        await asyncio.wait([self._written], timeout=pause)
        return soon or self._written.done()

    def _on_written(self) -> None:
        self._changed_at = time.monotonic()
        if self._written is not None and not self._written.done():
            self._written.set_result(None)

    def _end_notices(self) -> None:
        if self._notices is not None:
            self._notices.close()
            self._notices = None


@cache
def _text_of(query: "sa.Select[Any]") -> str:
    """Return a query as text, made once: SQLAlchemy takes longer than SQLite."""
    return str(query.compile(dialect=sqlite.dialect(paramstyle="named")))
