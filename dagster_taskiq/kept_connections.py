"""Keeping the connections to SQLite files that Dagster opens anew for each event.

Dagster's SQLite storages make an engine, open the file, execute one statement and close it all
again: four fifths of what an event costs. Whoever executes steps or a run writes and reads events
all the time, so there, for as long as that goes on, engine and connection are kept. What is
executed, and when it is committed, is unchanged; storages on a server keep their connections by
themselves, and are left alone.

A connection that stays has one more effect: whoever is the last to close a file in WAL mode writes
the log back into it and deletes the log. While somebody has it open, nobody is the last.
"""

import importlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DisconnectionError

from dagster_taskiq.sqlite_locks import PatientConnection

#: The modules of Dagster that make engines so.
_MODULES = (
    "dagster._core.storage.event_log.sqlite.sqlite_event_log",
    "dagster._core.storage.runs.sqlite.sqlite_run_storage",
)
#: How many files are kept open: a few for each run, and few runs at a time.
MOST_FILES = 16

_CreateEngine = Callable[..., sa.Engine]


@contextmanager
def kept_connections() -> Iterator["KeptEngines"]:
    """Keep this process's connections to Dagster's SQLite files, until the end of the block.

    Blocks may overlap, on several threads; the last one that ends closes the connections. Where
    Dagster's inside is not as expected, it goes on as it always has.

    Returns:
        What is kept.
    """
    with _lock:
        _kept.users += 1
        if _kept.users == 1:
            _replace(sa.create_engine, _kept.create_engine)
    try:
        yield _kept
    finally:
        with _lock:
            _kept.users -= 1
            if _kept.users == 0:
                _replace(_kept.create_engine, sa.create_engine)
                _kept.forget()


class KeptEngines:
    """Engines by their URL, each with a connection that is used again."""

    def __init__(self) -> None:
        self.users = 0
        self._engines: dict[str, _Kept] = {}
        self._inherited: dict[str, _Kept] = {}

    def create_engine(self, url: str, **options: Any) -> sa.Engine:
        """Return the engine of a URL, as ``sqlalchemy.create_engine`` does."""
        # One with a pool keeps its connections by itself.
        if options.get("poolclass") is not sa.pool.NullPool or not url.startswith("sqlite:////"):
            return sa.create_engine(url, **options)
        key = f"{url} {sorted(options.items(), key=str)}"
        with _lock:
            kept = self._engines.pop(key, None) or _Kept(url, options)
            self._engines[key] = kept
            dropped = [self._engines.pop(each) for each in list(self._engines)[:-MOST_FILES]]
        for each in dropped:
            each.close()
        return kept.engine

    def close(self) -> None:
        """Close the connections that are not in use; the engines open them again when needed."""
        for kept in list(self._engines.values()):
            kept.close()

    def forget(self) -> None:
        """Close the connections, and keep nothing more of them."""
        self.close()
        self._engines.clear()

    def leave_behind(self) -> None:
        """Begin anew in a forked process, without closing there what is another's."""
        self._inherited = self._engines
        self._engines = {}


class _Kept:
    """One engine, with as many connections as are used at a time, of which one is kept."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        connect_args = {**options.get("connect_args", {}), "factory": PatientConnection}
        pool = {"poolclass": sa.pool.QueuePool, "pool_size": 1, "max_overflow": -1}
        options = {**options, **pool, "connect_args": connect_args}
        self.engine = sa.create_engine(url, **options)
        self.close = self.engine.dispose
        #: Dagster's storage says so after each statement.
        self.engine.dispose = _leave  # type: ignore[method-assign]
        self._path = Path(str(self.engine.url.database))
        sa.event.listen(self.engine, "connect", self._note_file)
        sa.event.listen(self.engine, "checkout", self._check_file)

    def _note_file(self, _connection: Any, record: Any) -> None:
        record.info["file"] = _identity(self._path)

    def _check_file(self, _connection: Any, record: Any, _proxy: Any) -> None:
        """Refuse a connection to a file that has been deleted or replaced: nobody reads it."""
        if record.info["file"] != _identity(self._path):
            raise DisconnectionError(f"{self._path} is another file now.")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _leave(close: bool = True) -> None:
    """Keep an engine's connections open."""


def _replace(theirs: _CreateEngine, ours: _CreateEngine) -> None:
    for name in _MODULES:
        try:
            module: Any = importlib.import_module(name)
        except ImportError:
            continue
        if getattr(module, "create_engine", None) == theirs:
            module.create_engine = ours


def _begin_anew() -> None:
    global _lock  # noqa: PLW0603 - a thread that is not there any more may hold it
    _lock = threading.RLock()
    _kept.leave_behind()


_lock = threading.RLock()
_kept = KeptEngines()
# SQLite forbids to take an open file along into a forked process: its locks do not come with it
# (https://www.sqlite.org/howtocorrupt.html, section 2.6).
os.register_at_fork(before=_kept.close, after_in_child=_begin_anew)
