"""The connection to a PostgreSQL server: one for statements, and one for wake-ups while it waits.

Statements are committed one by one (``AUTOCOMMIT``); what has to be one transaction begins and ends
it by statements of its own. Nothing outlives a transaction on the server's side: no prepared
statements, no session settings, so a pooler in transaction mode may be in front.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Collection, Hashable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import psycopg2
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.interfaces import ExecutionContext

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.sql.database import ENDS_WRITE, SqlDatabase, Work
from dagster_taskiq.transport.sql.postgresql import schema
from dagster_taskiq.transport.sql.postgresql.ddl import BEGIN
from dagster_taskiq.transport.sql.postgresql.dialect import PostgresqlClaims, PostgresqlDialect
from dagster_taskiq.transport.sql.postgresql.errors import PostgresqlErrors, is_conflict
from dagster_taskiq.transport.sql.postgresql.idle_connections import has_received
from dagster_taskiq.transport.sql.postgresql.tokens import TokenProvider, make_token_provider
from dagster_taskiq.transport.sql.postgresql.url import PostgresqlTarget, read_url
from dagster_taskiq.transport.sql.postgresql.wakeups import PostgresqlWakeups

T = TypeVar("T")

logger = logging.getLogger("dagster_taskiq.broker")

#: How long one statement may take, in seconds. Then the connection is cut: the server is frozen, or
#: what it waits for does not end.
STATEMENT_SECONDS = 15.0
#: The same for one that is on its way when the connection is closed.
CLOSE_SECONDS = 1.0
#: How often a transaction is repeated that collides with others.
MOST_CONFLICTS = 20


class PostgresqlDatabase(SqlDatabase):
    """A schema in a PostgreSQL database."""

    errors = PostgresqlErrors

    def __init__(self, url: str, options: Mapping[str, Any], timeout: float) -> None:
        super().__init__(url, options, timeout)
        self.target: PostgresqlTarget = read_url(url, options, timeout)
        self.dialect: PostgresqlDialect = PostgresqlDialect(self.target.schema)
        self._tokens: TokenProvider | None = None
        self._engine: Engine | None = None
        self._connection: Connection | None = None
        #: When the statement that is being executed has begun, of ``time.monotonic()``.
        self._began: float | None = None
        #: Whether a transaction has still to begin: its first statement takes that along.
        self._must_begin = False
        #: Whether it has begun, and has still to be committed.
        self._is_open = False
        #: How many calls wait for the thread, or are on it; and what watches them.
        self._calls = 0
        self._watchdog: asyncio.TimerHandle | None = None
        self._wakeups = PostgresqlWakeups(
            self.boundary.shown, self.dialect, self._connect_to_listen, self._notify
        )

    def claims(self, settings: Settings) -> PostgresqlClaims:
        """See the base class."""
        return PostgresqlClaims(settings, self.dialect)

    def may_find(self, query: "sa.Select[Any]", parameters: Mapping[str, Any]) -> bool:
        """Return ``True``: each look takes a round trip."""
        return True

    def mark(self) -> int:
        """See the base class."""
        return self._wakeups.mark()

    async def wait_beyond(self, mark: int, topics: Collection[str], timeout: float) -> None:
        """See the base class."""
        await self._wakeups.wait_beyond(mark, topics, timeout)

    def forget(self, topic: str) -> None:
        """See the base class."""
        self._wakeups.forget(topic)

    def is_unchanged(self, look: Hashable, topics: Collection[str]) -> bool:
        """See the base class."""
        return self._wakeups.is_unchanged(look, topics)

    def note_empty(self, look: Hashable, topics: Collection[str], mark: int) -> None:
        """See the base class."""
        self._wakeups.note_empty(look, topics, mark)

    def note_found(self) -> None:
        """See the base class."""
        self._wakeups.note_found()

    async def _opened(self) -> None:
        """Do nothing: the first call connects, and any call after the connection was lost."""

    async def _closing(self) -> None:
        await self._wakeups.close()
        self._cut(CLOSE_SECONDS)

    async def _closed(self) -> None:
        self._drop_connection()
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    async def _on_thread(self, work: Callable[..., T], *args: Any) -> T:
        self._calls += 1
        if self._watchdog is None:
            self._watch()
        try:
            return await super()._on_thread(work, *args)
        finally:
            self._calls -= 1
            if self._calls == 0 and self._watchdog is not None:
                self._watchdog.cancel()
                self._watchdog = None

    def _watch(self) -> None:
        """Look now and then whether a statement takes too long."""
        self._cut(STATEMENT_SECONDS)
        loop = asyncio.get_running_loop()
        self._watchdog = loop.call_later(STATEMENT_SECONDS / 4, self._watch)

    def _cut(self, seconds: float) -> None:
        """Break the connection if a statement has taken so long; it then fails."""
        began, connection = self._began, self._connection
        if began is None or connection is None or time.monotonic() - began < seconds:
            return
        logger.warning("%s has not answered for %g s.", self.boundary.shown, seconds)
        # It may be closed at this moment.
        with suppress(OSError, psycopg2.Error, sa.exc.SQLAlchemyError):
            descriptor = os.dup(_driver_connection(connection).fileno())
            with socket.socket(fileno=descriptor) as stuck:
                stuck.shutdown(socket.SHUT_RDWR)

    def _write(self, work: Work[T]) -> T:
        connection = self._connected()
        for attempt in range(1, MOST_CONFLICTS + 1):
            self._must_begin, self._is_open = True, False
            try:
                result = work(connection)
                if self._is_open:
                    connection.exec_driver_sql("COMMIT")
                return result
            except sa.exc.DBAPIError as error:
                self._roll_back(connection)
                if not is_conflict(error) or attempt == MOST_CONFLICTS:
                    raise
            except BaseException:
                self._roll_back(connection)
                raise
            finally:
                self._must_begin = self._is_open = False
        raise AssertionError("unreachable")

    def _run(self, work: Work[T]) -> T:
        try:
            return work(self._connected())
        except sa.exc.DBAPIError as error:
            if error.connection_invalidated:
                self._drop_connection()
            raise

    def _read(self, work: Work[T]) -> T:
        return self._run(work)

    def _connected(self) -> Connection:
        """Return the connection; make one if there is none, or if the server has closed it.

        Raises:
            ConfigError: the tables are not there, and may not be made.
        """
        if self._connection is not None and _is_closed(self._connection):
            self._drop_connection()
        if self._connection is None:
            if self._engine is None:
                self._engine = self._make_engine()
            self._connection = self._engine.connect()
            try:
                schema.ensure(self._connection, self.target.schema, self.target.creates_tables)
            except BaseException:
                self._drop_connection()
                raise
        return self._connection

    def _make_engine(self) -> Engine:
        engine = sa.create_engine(
            "postgresql+psycopg2://",
            creator=self._connect,
            poolclass=sa.pool.NullPool,
            isolation_level="AUTOCOMMIT",
            use_native_hstore=False,
            # Updates of many rows take one round trip.
            executemany_mode="values_plus_batch",
            # The parameters are contents of messages, which do not belong into logs.
            hide_parameters=True,
            execution_options={"schema_translate_map": {None: self.target.schema}},
        )
        sa.event.listen(engine, "before_cursor_execute", self._before_statement, retval=True)
        sa.event.listen(engine, "after_cursor_execute", self._note_answer)
        sa.event.listen(engine, "handle_error", self._note_answer)
        return engine

    def _before_statement(
        self,
        connection: Connection,
        _cursor: object,
        statement: str,
        parameters: Any,
        context: ExecutionContext,
        is_for_many: bool,
    ) -> tuple[str, Any]:
        """Note the time; begin and end a transaction by the round trips of its statements."""
        begins, self._must_begin = self._must_begin, False
        if begins:
            self._is_open = True
            if is_for_many:  # a statement of many rows may be sent as several
                connection.exec_driver_sql(BEGIN)
            else:
                statement = f"{BEGIN}; {statement}"
        if self._is_open and context.execution_options.get(ENDS_WRITE) and not is_for_many:
            statement = f"{statement}; COMMIT"
            self._is_open = False
        self._began = time.monotonic()
        return statement, parameters

    def _note_answer(self, *_: object) -> None:
        self._began = None

    def _connect(self) -> Any:
        return psycopg2.connect(**self._parameters())

    def _connect_to_listen(self) -> Any:
        """Return a connection that does not block, and has only begun to connect."""
        return psycopg2.connect(**self._parameters(), async_=1)

    def _parameters(self) -> dict[str, Any]:
        """Return what to connect with. A token that is a password is made anew when it expires."""
        parameters = dict(self.target.parameters)
        if self.target.auth_provider is not None:
            if self._tokens is None:
                self._tokens = make_token_provider(self.target.auth_provider, parameters)
            try:
                parameters["password"] = self._tokens.get_token()
            except ImportError as error:  # its text has the line that installs the package
                raise ConfigError(f"{self.boundary.shown} cannot be used: {error}") from None
            except Exception as error:  # whatever the cloud's library raises
                raise self.boundary.unavailable(f"no token for its password: {error}") from None
        return parameters

    async def _notify(self, channel: str) -> None:
        """Send a notification over the connection for statements."""
        notify = sa.select(sa.func.pg_notify(channel, ""))
        await self.run(lambda connection: connection.execute(notify))

    def _roll_back(self, connection: Connection) -> None:
        """End the transaction; if that fails, have the next call connect anew."""
        self._must_begin = False
        try:
            connection.exec_driver_sql("ROLLBACK")
        except Exception:  # the first error counts
            self._drop_connection()

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sa.exc.DBAPIError):
                connection.close()


def _is_closed(connection: Connection) -> bool:
    """Return whether a connection was found to be lost, or the other end has closed it."""
    return connection.invalidated or has_received(_driver_connection(connection))


def _driver_connection(connection: Connection) -> Any:
    return connection.connection.driver_connection
