"""Keeping the connection to PostgreSQL that dagster-postgres opens anew for each event.

One connection serves the storages of runs, events and schedules, if they are in one database. It is
opened by the storage's own engine, so with the options, the hooks and the access tokens that this
has. It is used again only as it was opened: the server has not closed it, and no transaction was
left open on it. Neither check asks the server.

A server that has been reached before, and does not answer, is waited for, as a broker is; and so is
one that has no connection left for this process.

The connections of web server and daemon, which make an engine with a pool of its own
(``optimize_for_webserver``), are left alone.
"""

import inspect
import logging
import sys
import time
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any, TypeVar

import sqlalchemy as sa
import wrapt
from dagster._utils.interrupts import check_captured_interrupt
from sqlalchemy.exc import DisconnectionError

from dagster_taskiq.dagster_internals import event_notifications
from dagster_taskiq.dagster_internals.kept_engines import KEPT, KeptEngine
from dagster_taskiq.dagster_internals.part import DagsterPart
from dagster_taskiq.settings.urls import redact
from dagster_taskiq.transport.sql.postgresql.idle_connections import has_received

T = TypeVar("T")

logger = logging.getLogger("dagster_taskiq.storage")

#: The modules of dagster-postgres that open a connection for each statement, and the function that
#: they call.
_MODULES = (
    "dagster_postgres.event_log.event_log",
    "dagster_postgres.run_storage.run_storage",
    "dagster_postgres.schedule_storage.schedule_storage",
)
_FUNCTION = "create_pg_connection"
#: The drivers whose connections can be checked here.
_DRIVERS = frozenset({"psycopg2", "psycopg"})
#: How long a connection stays open that is not used, in seconds. A server accepts few connections,
#: and a child that waits for work, or executes an op for long, needs none. To open one takes some
#: 5 ms: once in five seconds, that does not count.
IDLE_SECONDS = 5.0
#: For how long a process tries to reach a server that it has reached before, in seconds, and the
#: pause between two attempts. Dagster's own attempts, which follow, end after some 12 seconds.
OUTAGE_SECONDS = 600.0
PAUSE_SECONDS = 0.5

#: How a server says that it has no connection left, for this user. The drivers have no code for an
#: error that ends an attempt to connect. The server may say it in another language: then Dagster's
#: own attempts count.
_FULL = ("too many clients", "too many connections", "connection slots are reserved")
_AWAY = "%s does not answer: %s. Trying again for up to %.0f s."
#: The state of a connection on which no statement and no transaction is under way, as libpq has it
#: (``PQTRANS_IDLE``).
_IDLE = 0
#: What is noted of a connection: whether it was opened in autocommit mode, and whether it has been
#: used.
_AUTOCOMMIT, _WAS_USED = "dagster-taskiq-autocommit", "dagster-taskiq-was-used"


def is_full(error: BaseException | None) -> bool:
    """Return whether an error, or its cause, is that a server has no connection left."""
    while error is not None:
        if any(words in str(error) for words in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def wait_for_storage(
    attempt: Callable[[], T], is_waited_for: Callable[[Exception], bool], name: str = ""
) -> T:
    """Try to open something in Dagster's database until that succeeds, and log that once.

    Args:
        attempt: opens it.
        is_waited_for: whether an error is one that passes.
        name: the database, for the log, if it is known.

    Raises:
        Exception: that of the last attempt: it does not pass, or has not for ``OUTAGE_SECONDS``, or
            this process is to end.
    """
    shown = f"Dagster's storage ({name})" if name else "Dagster's storage"
    give_up_at = time.monotonic() + OUTAGE_SECONDS
    is_reported = False
    while True:
        try:
            opened = attempt()
        except Exception as error:
            is_late = time.monotonic() >= give_up_at
            # An interrupt of a run's process is noted, and raises nothing here.
            if not is_waited_for(error) or is_late or check_captured_interrupt():
                raise
            if not is_reported:
                logger.warning(_AWAY, shown, str(error).strip(), OUTAGE_SECONDS)
                is_reported = True
            time.sleep(PAUSE_SECONDS)
            continue
        if is_reported:
            logger.warning("%s answers again.", shown)
        return opened


def _check() -> str:
    loaded = [sys.modules[name] for name in _MODULES if name in sys.modules]
    return next(filter(None, map(_find_problem, loaded)), "")


def _find_problem(module: ModuleType) -> str:
    parameters = list(inspect.signature(getattr(module, _FUNCTION)).parameters)
    if parameters != ["engine"]:
        return f"{_FUNCTION} in {module.__name__} has the parameters {parameters}"
    return ""


PART = DagsterPart(
    name="kept PostgreSQL engines",
    touches=f"{_FUNCTION} in {', '.join(_MODULES)} (wrapped)",
    why=(
        "dagster-postgres opens a connection for each event that is written or read, which takes "
        "longer than the statement, and costs the server a process. A process that executes steps "
        "or a run keeps one for as long as it does. What is executed, and when it is committed, is "
        "unchanged. It is checked when dagster-postgres is imported, which takes a while and is "
        "not needed with other storages."
    ),
    otherwise="Each event opens and closes a connection.",
    check=_check,
)


@cache
def install() -> None:
    """Have dagster-postgres use connections that are kept, while any are kept.

    Where it has not been imported yet, that is done when it is.
    """
    PART.when_imported(_MODULES, _wrap)


def _wrap(module: ModuleType) -> None:
    wrapt.wrap_function_wrapper(module, _FUNCTION, _create_pg_connection)


def _create_pg_connection(
    wrapped: Any, _instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    return wrapped(_kept_or_own(*args, **kwargs))


def _kept_or_own(engine: sa.Engine) -> sa.Engine:
    """Return the kept engine for that of a storage, or that itself."""
    # One with a pool keeps its connections by itself.
    if not isinstance(engine.pool, sa.pool.NullPool) or engine.dialect.driver not in _DRIVERS:
        return engine
    kept = KEPT.find(engine.url, lambda: _PostgresEngine(engine))
    return engine if kept is None else kept.engine


class _PostgresEngine(KeptEngine):
    """The engine of one database."""

    def __init__(self, opener: sa.Engine) -> None:
        """Connect to nothing yet.

        Args:
            opener: the engine of a storage, which opens the connections.
        """
        super().__init__(opener.url, IDLE_SECONDS, creator=self._open)
        self._opener = opener
        self._name = redact(str(opener.url))
        #: Whether the server was there when a connection was last opened.
        self._was_reached = False
        sa.event.listen(self.engine, "connect", _note_opened)
        sa.event.listen(self.engine, "checkin", _note_used)
        sa.event.listen(self.engine, "checkout", _check_usable)
        event_notifications.leave_out(self.engine)

    def _open(self) -> Any:
        """Open a connection; wait for a server that is there, and has none left, or is away.

        Raises:
            OperationalError: (the driver's) the server does not answer, and has never done so here,
                or not for ``OUTAGE_SECONDS``, or this process is to end.
        """
        try:
            connection = wait_for_storage(self._open_as_storage, self._is_there, self._name)
        except self._opener.dialect.loaded_dbapi.OperationalError:
            self._was_reached = False
            raise
        self._was_reached = True
        return connection

    def _is_there(self, error: Exception) -> bool:
        """Return whether a server that has given an error, or no answer, is worth waiting for."""
        if not isinstance(error, self._opener.dialect.loaded_dbapi.OperationalError):
            return False
        self._was_reached |= is_full(error)
        return self._was_reached

    def _open_as_storage(self) -> Any:
        """Open a connection as the storage does, and return that of the driver."""
        opened = self._opener.raw_connection()
        connection = opened.driver_connection
        opened.detach()  # what it is wrapped in would close it
        return connection


def _note_opened(connection: Any, record: Any) -> None:
    record.info[_AUTOCOMMIT] = connection.autocommit


def _note_used(_connection: Any, record: Any) -> None:
    record.info[_WAS_USED] = True


def _check_usable(connection: Any, record: Any, _proxy: Any) -> None:
    """Refuse a connection that is not as it was opened; the pool then opens another."""
    if not record.info.get(_WAS_USED):
        return
    if connection.closed or connection.info.transaction_status != _IDLE:
        raise DisconnectionError("The connection was interrupted.")
    if has_received(connection):
        raise DisconnectionError("The server has closed the connection.")
    # A storage sets another isolation level for a transaction, which ends autocommit mode; and
    # SQLAlchemy then returns to the level that the server has by default.
    connection.autocommit = record.info[_AUTOCOMMIT]
