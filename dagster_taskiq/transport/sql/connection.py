"""The connection to a SQL database: one engine, one thread, and a way to notice changes.

SQLAlchemy's engine is used synchronously on a thread of its own, so that no statement ever blocks
the event loop and a SQLite file has one writer per process. The tables hold nothing that is
particular to SQLite.
"""

import asyncio
import errno
import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.schema import CreateColumn, CreateIndex, CreateTable

from dagster_taskiq.errors import ConfigError, ServerUnavailableError
from dagster_taskiq.transport.sql.errors import SqlErrors
from dagster_taskiq.transport.sql.sqlite_busy_wait import PatientConnection
from dagster_taskiq.transport.sql.sqlite_file_watch import FileNotices
from dagster_taskiq.transport.sql.tables import messages, metadata, notifications, tasks

T = TypeVar("T")

#: How long a statement waits for another process's write to end, unless the URL has a ``timeout``
#: (sqlite3's own name for it).
BUSY_SECONDS = 30.0
#: How long the connection that looks for changes waits for one who has the whole file to himself.
#: It is asked on the event loop, which must not stand still.
WATCH_BUSY_SECONDS = 0.25
#: How often a waiter looks for a change: right after one, and when nothing has come for long.
#: Each look reads one number from shared memory; it takes no lock and no disk.
POLL_SECONDS = (0.002, 0.05)
#: How long a waiter stays at the fast pace after the last change.
FAST_SECONDS = 0.25
#: How long a waiter looks again and again where the system tells it of writes: what it is told of
#: may still have to be written to its end.
TOLD_SECONDS = 0.03
#: How often it looks then when it is told of nothing.
UNTOLD_SECONDS = 1.0

#: Execution option of a transaction that takes no write lock.
READ_ONLY = "dagster_taskiq_read_only"


sa.Index("dagster_taskiq_messages_next", messages.c.queue, messages.c.priority, messages.c.id)
sa.Index("dagster_taskiq_messages_task", messages.c.task_id)

sa.Index("dagster_taskiq_tasks_finished", tasks.c.finished_at)


sa.Index("dagster_taskiq_mail_channel", notifications.c.channel, notifications.c.id)


class LookUp:
    """A query as text, for :meth:`SqlConnection.exists`: SQLAlchemy takes longer than SQLite."""

    def __init__(self, query: "sa.Select[Any]") -> None:
        """Make the text.

        Args:
            query: one whose parameters are all named, by ``sqlalchemy.bindparam``.
        """
        dialect = sqlite.dialect(paramstyle="named")
        self.text = str(query.compile(dialect=dialect))


class SqlConnection:
    """One database, opened once however many share it."""

    def __init__(self, url: str, options: Mapping[str, Any], timeout: float) -> None:
        self.boundary = SqlErrors(url)
        self.url: URL = self._parsed(url)
        self._path = Path(str(self.url.database)).expanduser()
        self._options = dict(options)
        self._timeout = timeout
        self._busy_seconds = self._busy_seconds_of(self.url)
        self._users = 0
        self._engine: Engine | None = None
        # Of the one connection of the engine, for what only reads and for what writes.
        self._connections: dict[bool, Connection] = {}
        self._thread: ThreadPoolExecutor | None = None
        self._watch: sqlite3.Connection | None = None
        self._version = 0
        self._generation = 0
        self._changed_at = 0.0
        self._waiters: set[asyncio.Future[None]] = set()
        self._looking: asyncio.Task[None] | None = None
        #: Where the system tells of writes; else the file is looked at all the time.
        self._notices: FileNotices | None = None
        self._written = asyncio.Event()

    async def open(self) -> None:
        """Connect, and create the tables that are missing. May be called by each who shares it."""
        self._users += 1
        if self._users > 1:
            return
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dagster-taskiq-sql")
        try:
            await self._on_thread(self._connect)
        except BaseException:
            await self.close()
            raise
        with suppress(OSError):
            self._notices = FileNotices(f"{self._path}-wal", self._on_written)

    async def close(self) -> None:
        """Close when the last of those who share it closes."""
        if self._users == 0:
            return
        self._users -= 1
        if self._users or self._thread is None:
            return
        # Not on the thread: at the exit of an interpreter it takes no more work.
        self._thread.shutdown()
        self._thread = None
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        self._be_told_no_more()
        self._disconnect()

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in one transaction that holds the write lock from its start."""
        return await self._on_thread(self._in_transaction, work, False)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run ``work``, which only reads, in one transaction that keeps nobody from writing."""
        return await self._on_thread(self._in_transaction, work, True)

    def mark(self) -> int:
        """Return the present state of the database, to wait for what comes after it.

        Raises:
            ServerUnavailableError: another process has locked the whole file.
        """
        if self._watch is not None:
            with self.boundary:
                (version,) = self._watch.execute("PRAGMA data_version").fetchone()
            if version != self._version:
                self._version = version
                self._generation += 1
                self._changed_at = time.monotonic()
        return self._generation

    def exists(self, query: LookUp, parameters: Mapping[str, Any]) -> bool:
        """Return whether ``query`` finds a row, given values for its parameters.

        Runs at once, on the connection that looks for changes: of the many looks that follow a
        change most find nothing, and must cost next to nothing. A reader in WAL mode waits for
        nobody.
        """
        if self._watch is None:
            raise RuntimeError(f"The connection to {self.boundary.shown} is not open.")
        with self.boundary:
            return self._watch.execute(query.text, parameters).fetchone() is not None

    async def wait_beyond(self, mark: int, timeout: float) -> None:
        """Return when anyone has committed since ``mark`` was taken, or after ``timeout`` s."""
        if self.mark() != mark:
            return
        changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(changed)
        # However many wait, one looks.
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
        told = True
        while True:
            with suppress(ServerUnavailableError):  # those who wait look themselves before long
                self.mark()
            if self._generation != generation:
                generation = self._generation
                if not told and self._notices is not None and not self._notices.take():
                    # On a file system that tells of nothing.
                    self._be_told_no_more()
                waiters, self._waiters = self._waiters, set()
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_result(None)
            if not self._waiters:
                return
            told = await self._pause()

    async def _pause(self) -> bool:
        """Wait until it is time to look again; return whether a change would be no surprise."""
        quiet = time.monotonic() - self._changed_at
        if self._notices is None:
            await asyncio.sleep(POLL_SECONDS[0] if quiet < FAST_SECONDS else POLL_SECONDS[1])
            return True
        soon = quiet < TOLD_SECONDS
        # Twice as long each time: what is told of is nearly always there at once.
        pause = max(POLL_SECONDS[0], quiet) if soon else UNTOLD_SECONDS
        self._written.clear()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._written.wait(), pause)
        return soon or self._written.is_set()

    def _on_written(self) -> None:
        self._changed_at = time.monotonic()
        self._written.set()

    def _be_told_no_more(self) -> None:
        if self._notices is not None:
            self._notices.close()
            self._notices = None

    def _busy_seconds_of(self, url: URL) -> float:
        text = url.query.get("timeout", BUSY_SECONDS)
        try:
            return float(str(text))
        except ValueError:
            raise ConfigError(
                f"The timeout in {self.boundary.shown} must be a number of seconds, but it is "
                f"{text!r}."
            ) from None

    def _parsed(self, url: str) -> URL:
        try:
            parsed = make_url(url)
        except (sa.exc.ArgumentError, ValueError):
            parsed = None
        if parsed is None or not parsed.database or parsed.database == ":memory:":
            raise ConfigError(
                f"{self.boundary.shown} names no file that processes could share. Write "
                "sqlite:///relative/path or sqlite:////absolute/path, or memory:// to run a whole "
                "job in one process."
            )
        return parsed

    async def _on_thread(self, work: Callable[..., T], *args: Any) -> T:
        if self._thread is None:
            raise RuntimeError(f"The connection to {self.boundary.shown} is not open.")
        with self.boundary:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    def _connect(self) -> None:
        path = self._path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _create(path)
        except OSError as error:
            raise ConfigError(
                f"Cannot open the broker's file {path}: {error.strerror}. Its directory must be "
                "writable by every process that uses it."
            ) from None
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                self._create_tables()
                break
            except sa.exc.OperationalError:
                # Several processes that open a fresh file at once may collide on the change to
                # WAL mode, which does not wait for a lock as other statements do.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            except sa.exc.DatabaseError as error:
                raise ConfigError(f"Cannot use the broker's file {path}: {error.orig}.") from None
        self._watch = sqlite3.connect(path, timeout=WATCH_BUSY_SECONDS, check_same_thread=False)

    def _create_tables(self) -> None:
        engine = sa.create_engine(
            self.url,
            connect_args={
                "timeout": self._busy_seconds,
                "check_same_thread": False,
                "factory": PatientConnection,
            },
            poolclass=sa.pool.StaticPool,
            # What is written is what somebody has sent, and is nobody's to read in a log.
            **{"hide_parameters": True, **self._options},
        )
        sa.event.listen(engine, "connect", _set_up_sqlite)
        sa.event.listen(engine, "begin", _begin)
        self._engine = engine
        with engine.begin() as connection:
            for table in metadata.sorted_tables:
                connection.execute(CreateTable(table, if_not_exists=True))
                _add_missing_columns(connection, table)
                for index in sorted(table.indexes, key=lambda each: str(each.name)):
                    connection.execute(CreateIndex(index, if_not_exists=True))

    def _disconnect(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        self._let_go()
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    def _in_transaction(self, work: Callable[[Connection], T], read_only: bool) -> T:
        if self._engine is None:
            raise RuntimeError(f"The connection to {self.boundary.shown} is not open.")
        try:
            connection = self._connections.get(read_only)
            if connection is None:
                connection = self._engine.connect().execution_options(**{READ_ONLY: read_only})
                self._connections[read_only] = connection
            with connection.begin():
                return work(connection)
        except BaseException:
            self._let_go()
            raise

    def _let_go(self) -> None:
        """Take up the connection anew next time: whatever was left of a transaction ends here."""
        connections, self._connections = self._connections, {}
        for each in connections.values():
            each.close()


def _create(path: Path) -> None:
    """Create the file so that only its owner reads it: messages may hold what a run config holds.

    A file that is there is not opened, since whoever closes it gives up the locks on it of all that
    this process has open; the last of the others then deletes what these go on writing to
    (https://www.sqlite.org/howtocorrupt.html, section 2.2).

    Raises:
        OSError: it cannot be created, or is not to be read and written.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)) from None
        if not os.access(path, os.R_OK | os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None


def _add_missing_columns(connection: Connection, table: sa.Table) -> None:
    """Give a table that an older release has made what this one has beyond it.

    The caller's transaction holds the write lock, so that of two who start at once the second finds
    it done.
    """
    there = {column["name"] for column in sa.inspect(connection).get_columns(table.name)}
    for column in table.columns:
        if column.name not in there:
            added = CreateColumn(column).compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {added}")


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # SQLAlchemy's documentation, "Serializable isolation / Savepoints / Transactional DDL": with
    # the driver's own BEGIN off, ours (below) takes the write lock before the first read.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    read_only = connection.get_execution_options().get(READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
