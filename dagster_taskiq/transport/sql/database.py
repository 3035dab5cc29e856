"""The connection to an SQL database, used on one thread; each kind of database has a subclass.

SQLAlchemy is used synchronously on a thread of its own, so that no statement blocks the event loop,
and a process has one connection for all its statements.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.error_boundary import ErrorBoundary
from dagster_taskiq.transport.sql.dialect import SqlClaims, SqlDialect

T = TypeVar("T")
Work = Callable[[Connection], T]

#: The name of an option of a statement: whether it is the last one of a transaction, and its result
#: is not read. A database may then commit by the same round trip.
ENDS_WRITE = "dagster_taskiq_ends_write"


class SqlDatabase(ABC):
    """One database; broker and backend may share it.

    Waiting for a change goes in three steps, so that none is missed: take a :meth:`mark`, look into
    the database, and :meth:`wait_beyond` the mark if there was nothing.
    """

    #: The statements for this kind of database.
    dialect: SqlDialect
    #: The boundary class for its errors.
    errors: ClassVar[type[ErrorBoundary]]

    def __init__(self, url: str, options: Mapping[str, Any], timeout: float) -> None:
        """Connect to nothing yet.

        Args:
            url: of the database.
            options: what the settings have for the connection.
            timeout: how long connecting may take, in seconds.

        Raises:
            ConfigError: the URL or an option cannot be used.
        """
        del options, timeout
        self.boundary: ErrorBoundary = self.errors(url)
        self._users = 0
        self._thread: ThreadPoolExecutor | None = None

    async def open(self) -> None:
        """Connect. Each of those that share the connection calls it."""
        self._users += 1
        if self._users > 1:
            return
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dagster-taskiq-sql")
        try:
            await self._opened()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Disconnect, at the call of the last of those that share the connection."""
        if self._users == 0:
            return
        self._users -= 1
        thread = self._thread
        if self._users or thread is None:
            return
        await self._closing()
        # Not on the thread, which takes no more work when the interpreter exits.
        thread.shutdown()
        self._thread = None
        await self._closed()

    async def ping(self) -> None:
        """Return when the database has executed a statement."""
        await self.read(lambda connection: connection.execute(sa.select(1)))

    async def write(self, work: Work[T]) -> T:
        """Run ``work`` in one transaction, and return what it returns.

        The transaction may be repeated because of another process's, so ``work`` changes nothing
        but the database.
        """
        return await self._on_thread(self._write, work)

    async def run(self, work: Work[T]) -> T:
        """Run ``work``, each statement of which may be committed by itself."""
        return await self._on_thread(self._run, work)

    async def read(self, work: Work[T]) -> T:
        """Run ``work``, which only reads."""
        return await self._on_thread(self._read, work)

    @abstractmethod
    def claims(self, settings: Settings) -> SqlClaims:
        """Return what claims messages for a broker with these settings."""

    @abstractmethod
    def may_find(self, query: "sa.Select[Any]", parameters: Mapping[str, Any]) -> bool:
        """Return whether a query may find a row, by a look on the event loop that does not block.

        Args:
            query: one that is used again and again, with named parameters.
            parameters: their values.

        Returns:
            ``True`` if there is no such look at this kind of database.

        Raises:
            ServerUnavailableError: the database cannot be read.
        """

    @abstractmethod
    def mark(self) -> int:
        """Return a number for the present state, to wait for a later one.

        Raises:
            ServerUnavailableError: the database cannot be read.
        """

    @abstractmethod
    async def wait_beyond(self, mark: int, topics: Collection[str], timeout: float) -> None:
        """Return when one of the topics may have changed since ``mark`` was taken.

        Args:
            mark: of :meth:`mark`.
            topics: as ``queue_topic`` and ``channel_topic`` name them.
            timeout: after so many seconds it returns in any case; it may return sooner.

        Raises:
            ServerUnavailableError: the database cannot be read.
        """

    def is_unchanged(self, look: Hashable, topics: Collection[str]) -> bool:
        """Return whether a look that found nothing need not be repeated.

        Args:
            look: what was looked for, as :meth:`note_empty` was told.
            topics: of which one changes when there is something to find.

        Returns:
            ``True`` only if it would find nothing, or something that has come in this moment, of
            which :meth:`wait_beyond` the present mark returns at once or soon.
        """
        del look, topics
        return False

    def note_empty(self, look: Hashable, topics: Collection[str], mark: int) -> None:
        """Note that a look found nothing, or would have, before which ``mark`` was taken."""
        del look, topics, mark

    @abstractmethod
    def note_found(self) -> None:
        """Note that a look has found something, so that more may follow soon."""

    @abstractmethod
    def forget(self, topic: str) -> None:
        """Note that a topic is not waited for any more."""

    @abstractmethod
    async def _opened(self) -> None:
        """Do what is done once, when the first user opens the database."""

    @abstractmethod
    async def _closing(self) -> None:
        """Have the thread become free soon."""

    @abstractmethod
    async def _closed(self) -> None:
        """Undo :meth:`_opened`; called even if that has failed."""

    @abstractmethod
    def _write(self, work: Work[T]) -> T:
        """Do :meth:`write` on the thread."""

    @abstractmethod
    def _run(self, work: Work[T]) -> T:
        """Do :meth:`run` on the thread."""

    @abstractmethod
    def _read(self, work: Work[T]) -> T:
        """Do :meth:`read` on the thread."""

    async def _on_thread(self, work: Callable[..., T], *args: Any) -> T:
        if self._thread is None:
            raise self._not_open()
        with self.boundary:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    def _not_open(self) -> RuntimeError:
        return RuntimeError(f"The connection to {self.boundary.shown} is not open.")
