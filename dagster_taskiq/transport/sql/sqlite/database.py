"""The connection to a SQLite file: one for each process, which writes as the only one."""

import errno
import os
import sqlite3
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.schema import CreateColumn, CreateIndex, CreateTable

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.sql.database import SqlDatabase, Work
from dagster_taskiq.transport.sql.sqlite.busy_wait import PatientConnection
from dagster_taskiq.transport.sql.sqlite.changes import SqliteChanges
from dagster_taskiq.transport.sql.sqlite.dialect import SqliteClaims, SqliteDialect
from dagster_taskiq.transport.sql.sqlite.errors import SqliteErrors
from dagster_taskiq.transport.sql.tables import metadata

T = TypeVar("T")

#: How long a statement waits for the lock of another process, in seconds, unless the URL has a
#: ``timeout`` (sqlite3's own name for it).
BUSY_SECONDS = 30.0
#: Execution option of a transaction that takes no write lock.
READ_ONLY = "dagster_taskiq_read_only"


class SqliteDatabase(SqlDatabase):
    """A SQLite file."""

    errors = SqliteErrors

    def __init__(self, url: str, options: Mapping[str, Any], timeout: float) -> None:
        """Open nothing yet.

        Args:
            url: of the file, ``sqlite:///PATH``.
            options: arguments for SQLAlchemy's engine.
            timeout: how long other processes may hinder that the file is opened, in seconds.

        Raises:
            ConfigError: the URL names no file, or its timeout is no number.
        """
        super().__init__(url, options, timeout)
        self.dialect = SqliteDialect()
        self.url: URL = self._parsed(url)
        self._path = Path(str(self.url.database)).expanduser()
        self._options = dict(options)
        self._timeout = timeout
        self._busy_seconds = self._busy_seconds_of(self.url)
        self._engine: Engine | None = None
        # The engine's one connection, with the options for reading only, and for writing.
        self._connections: dict[bool, Connection] = {}
        self._changes: SqliteChanges | None = None

    @property
    def changes(self) -> SqliteChanges:
        """What sees the commits of all processes.

        Raises:
            RuntimeError: the connection is not open.
        """
        if self._changes is None:
            raise self._not_open()
        return self._changes

    def claims(self, settings: Settings) -> SqliteClaims:
        """See the base class."""
        return SqliteClaims(settings, self.may_find)

    def may_find(self, query: "sa.Select[Any]", parameters: Mapping[str, Any]) -> bool:
        """Look: in WAL mode that waits for no lock."""
        return self.changes.exists(query, parameters)

    def mark(self) -> int:
        """See the base class."""
        return self.changes.mark()

    async def wait_beyond(self, mark: int, topics: Collection[str], timeout: float) -> None:
        """Return after any commit of any process: there is one notice for all of them."""
        del topics
        await self.changes.wait_beyond(mark, timeout)

    def note_found(self) -> None:
        """Do nothing."""

    def forget(self, topic: str) -> None:
        """Do nothing."""

    async def _opened(self) -> None:
        await self._on_thread(self._connect)
        with self.boundary:
            self._changes = SqliteChanges(self._path, self.boundary)

    async def _closing(self) -> None:
        """Do nothing: statements wait for a limited time."""

    async def _closed(self) -> None:
        if self._changes is not None:
            self._changes.close()
            self._changes = None
        self._drop_connections()
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    def _write(self, work: Work[T]) -> T:
        return self._in_transaction(work, read_only=False)

    def _run(self, work: Work[T]) -> T:
        return self._in_transaction(work, read_only=False)

    def _read(self, work: Work[T]) -> T:
        return self._in_transaction(work, read_only=True)

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
                # Processes that open a new file at the same time may collide on the change to WAL
                # mode, which does not wait for a lock as other statements do.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            except sa.exc.DatabaseError as error:
                raise ConfigError(f"Cannot use the broker's file {path}: {error.orig}.") from None

    def _create_tables(self) -> None:
        engine = sa.create_engine(
            self.url,
            connect_args={
                "timeout": self._busy_seconds,
                "check_same_thread": False,
                "factory": PatientConnection,
            },
            poolclass=sa.pool.StaticPool,
            # The parameters are contents of messages, which do not belong into logs.
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

    def _in_transaction(self, work: Work[T], read_only: bool) -> T:
        if self._engine is None:
            raise self._not_open()
        try:
            connection = self._connections.get(read_only)
            if connection is None:
                connection = self._engine.connect().execution_options(**{READ_ONLY: read_only})
                self._connections[read_only] = connection
            with connection.begin():
                return work(connection)
        except BaseException:
            self._drop_connections()
            raise

    def _drop_connections(self) -> None:
        """Have the next call connect anew; what is left of a transaction is rolled back."""
        connections, self._connections = self._connections, {}
        for each in connections.values():
            each.close()


def _create(path: Path) -> None:
    """Create the file, readable by its owner only: messages may hold parts of a run config.

    A file that exists is not opened: closing it would release all locks that this process has on
    it, and another process could delete the log to which this one still writes
    (https://www.sqlite.org/howtocorrupt.html, section 2.2).

    Raises:
        OSError: it cannot be created, read or written.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)) from None
        if not os.access(path, os.R_OK | os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None


def _add_missing_columns(connection: Connection, table: sa.Table) -> None:
    """Add the columns of this release to a table that an older release has made.

    The caller's transaction holds the write lock: of two processes that start at once, the second
    one finds the columns.
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
