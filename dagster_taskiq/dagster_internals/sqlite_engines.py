"""Keeping the connections to SQLite files that Dagster opens anew for each event.

The run page of Dagster's web server shows new events when the file of the run's events is modified
(``SqliteEventLogStorage.watch``). In WAL mode a commit modifies another file, the write-ahead log;
the connection that is closed last writes it back into the file itself. A connection that is kept
(:mod:`kept_engines`) delays that, for what this process writes and for what others write. Two
things make up for it:

- after a commit on a kept connection, the modification time of the file is set, which is what file
  watchers report: inotify and kqueue as a change of attributes, FSEvents as a change of the inode,
  polling as another time (all of them a ``FileModifiedEvent`` of watchdog);
- a connection that is not used for a moment is closed, so that other processes' events, such as
  those of Dagster's own executors, the web server and the daemon, are written back as they are
  without us.
"""

import os
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import wrapt
from sqlalchemy.exc import DisconnectionError

from dagster_taskiq.dagster_internals.kept_engines import KEPT, KeptEngine
from dagster_taskiq.dagster_internals.part import DagsterPart
from dagster_taskiq.transport.sql.sqlite.busy_wait import PatientConnection

#: The modules of Dagster that make an engine for each statement, and the function they call.
_MODULES = (
    "dagster._core.storage.event_log.sqlite.sqlite_event_log",
    "dagster._core.storage.runs.sqlite.sqlite_run_storage",
)
_FUNCTION = "create_engine"
#: How long a file stays open that is not used, in seconds.
IDLE_SECONDS = 0.2


def _check() -> str:
    others = [
        name for name in _MODULES if getattr(import_module(name), _FUNCTION) != sa.create_engine
    ]
    return f"{others[0]} has another {_FUNCTION} than SQLAlchemy's" if others else ""


PART = DagsterPart(
    name="kept SQLite engines",
    touches=f"{_FUNCTION} in {' and '.join(_MODULES)} (wrapped)",
    why=(
        "Dagster's SQLite storages make an engine, open the file, execute one statement and close "
        "it all again: four fifths of what an event costs. A process that executes steps or a run "
        "writes and reads events all the time, so for as long as it does, engine and connection "
        "are kept. What is executed, and when it is committed, is unchanged."
    ),
    otherwise="Each event opens and closes its file.",
    check=_check,
)


@cache
def install() -> None:
    """Have Dagster's SQLite storages use engines that are kept, while any are kept."""
    if PART.find_problem():
        return
    for name in _MODULES:
        wrapt.wrap_function_wrapper(import_module(name), _FUNCTION, _create_engine)


def _create_engine(
    wrapped: Any, _instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> sa.Engine:
    kept = _find(*args, **kwargs)
    return wrapped(*args, **kwargs) if kept is None else kept.engine


def _find(url: str, **options: Any) -> KeptEngine | None:
    """Return the kept engine of a file, if it is one that is kept."""
    # One with a pool keeps its connections by itself.
    if options.get("poolclass") is not sa.pool.NullPool or not url.startswith("sqlite:////"):
        return None
    key = f"{url} {sorted(options.items(), key=str)}"
    return KEPT.find(key, lambda: _SqliteEngine(url, options))


class _SqliteEngine(KeptEngine):
    """The engine of one file."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        connect_args = {**options.get("connect_args", {}), "factory": _WatchedConnection}
        super().__init__(url, IDLE_SECONDS, **{**options, "connect_args": connect_args})
        self._path = Path(str(self.engine.url.database))
        sa.event.listen(self.engine, "connect", self._note_file)
        sa.event.listen(self.engine, "checkout", self._check_file)

    def _note_file(self, _connection: Any, record: Any) -> None:
        record.info["file"] = _identity(self._path)

    def _check_file(self, _connection: Any, record: Any, _proxy: Any) -> None:
        """Refuse a connection to a file that has been deleted or replaced: no process reads it."""
        if record.info["file"] != _identity(self._path):
            raise DisconnectionError(f"{self._path} is another file now.")


class _WatchedConnection(PatientConnection):
    """A connection whose file is watched: it counts as modified after each commit."""

    def __init__(self, database: str, **options: Any) -> None:
        super().__init__(database, **options)
        self._database = database

    def commit(self) -> None:
        """Commit, and set the file's modification time if there was something to commit."""
        has_written = self.in_transaction
        super().commit()
        if has_written:
            with suppress(OSError):  # it has been deleted, or is another user's
                os.utime(self._database)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
