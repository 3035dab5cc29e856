"""Keeping the connections to SQLite files that Dagster opens anew for each event.

The run page of Dagster's web server shows new events when the file of the run's events is modified
(``SqliteEventLogStorage.watch``). In WAL mode a commit modifies another file, the write-ahead log;
the connection that is closed last writes it back into the file itself. A connection that is kept
delays that, for what this process writes and for what others write. Two things make up for it:

- after a commit on a kept connection, the modification time of the file is set, which is what file
  watchers report: inotify and kqueue as a change of attributes, FSEvents as a change of the inode,
  polling as another time (all of them a ``FileModifiedEvent`` of watchdog);
- a connection that is not used for a moment is closed, so that other processes' events, such as
  those of Dagster's own executors, the web server and the daemon, are written back as they are
  without us.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import wrapt
from sqlalchemy.exc import DisconnectionError

from dagster_taskiq.dagster_internals.part import DagsterPart
from dagster_taskiq.transport.sql.sqlite_busy_wait import PatientConnection

#: The modules of Dagster that make an engine for each statement, and the function they call.
_MODULES = (
    "dagster._core.storage.event_log.sqlite.sqlite_event_log",
    "dagster._core.storage.runs.sqlite.sqlite_run_storage",
)
_FUNCTION = "create_engine"
#: How many files are kept open: a few for each run, and few runs at a time.
MOST_FILES = 16
#: How long a connection stays open that is not used, in seconds: at least this, at most twice this.
IDLE_SECONDS = 0.2

#: The name of the thread that closes them.
_THREAD_NAME = "dagster-taskiq-close-idle-files"


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
        "are kept. What is executed, and when it is committed, is unchanged; storages on a server "
        "keep their connections by themselves, and are left alone."
    ),
    otherwise="Each event opens and closes its file.",
    check=_check,
)


@contextmanager
def open_engines_kept() -> Iterator["KeptEngines"]:
    """Keep this process's connections to Dagster's SQLite files, until the end of the block.

    Blocks may overlap, on several threads; the last one that ends closes the connections. Nothing
    is kept if Dagster is not as expected, or in a process that is forked inside of a block.

    Returns:
        What is kept.
    """
    _wrap_once()
    with _lock:
        _kept.users += 1
        if _kept.users == 1:
            _kept.begin()
    try:
        yield _kept
    finally:
        with _lock:
            _kept.users -= 1
            if _kept.users == 0:
                _kept.end()


@cache
def _wrap_once() -> None:
    """Have Dagster make its engines here; outside of the blocks they are SQLAlchemy's own."""
    if PART.find_problem():
        return

    def create_engine(
        _wrapped: Any, _instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> sa.Engine:
        return _kept.create_engine(*args, **kwargs)

    for name in _MODULES:
        wrapt.wrap_function_wrapper(import_module(name), _FUNCTION, create_engine)


class KeptEngines:
    """Engines by their URL, each with a connection that is used again."""

    def __init__(self) -> None:
        self.users = 0
        self._engines: dict[str, _KeptEngine] = {}
        #: Those of the process that this one was forked from: never closed here.
        self._inherited: dict[str, _KeptEngine] = {}
        #: Closes what is not used; ``None`` while nothing is kept.
        self._closer: _IdleCloser | None = None

    def begin(self) -> None:
        """Keep engines from now on."""
        self._closer = _IdleCloser(self._close_idle)

    def end(self) -> None:
        """Close the connections, and keep nothing any more."""
        if self._closer is not None:
            self._closer.end()
        self._closer = None
        self.close()
        self._engines.clear()

    def create_engine(self, url: str, **options: Any) -> sa.Engine:
        """Return the engine of a URL, as ``sqlalchemy.create_engine`` does."""
        # One with a pool keeps its connections by itself.
        is_ours = options.get("poolclass") is sa.pool.NullPool and url.startswith("sqlite:////")
        with _lock:
            if self._closer is None or not is_ours:
                return sa.create_engine(url, **options)
            key = f"{url} {sorted(options.items(), key=str)}"
            kept = self._engines.pop(key, None) or _KeptEngine(url, options, self._closer.note_open)
            self._engines[key] = kept
            for each in list(self._engines)[:-MOST_FILES]:
                self._engines.pop(each).close()
        return kept.engine

    def close(self) -> None:
        """Close the connections that are not in use; the engines open them again when needed."""
        with _lock:
            for kept in self._engines.values():
                kept.close()

    def _close_idle(self) -> bool:
        """Close what has not been used since the last call; return whether anything is open."""
        with _lock:
            are_open = [kept.close_if_idle() for kept in self._engines.values()]
        return any(are_open)

    def end_thread(self) -> None:
        """Let the thread that closes connections end; another begins with the next that is open."""
        thread = self._closer.end() if self._closer is not None else None
        if thread is not None:
            thread.join()

    def reset_after_fork(self) -> None:
        """Keep nothing in a forked process, and do not close there what is another's."""
        self._inherited = self._engines
        self._engines = {}
        self._closer = None


class _IdleCloser:
    """A thread that closes connections which are not used; there is none while none is open."""

    def __init__(self, close_idle: Callable[[], bool]) -> None:
        """Start nothing yet.

        Args:
            close_idle: is called after each pause; returns whether there is more to close.
        """
        self._close_idle = close_idle
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def note_open(self) -> None:
        """See to it that a connection which has been opened is closed some time."""
        with _lock:
            if self._thread is None:
                self._ended = threading.Event()
                self._thread = threading.Thread(
                    target=self._run, args=(self._ended,), name=_THREAD_NAME, daemon=True
                )
                self._thread.start()

    def end(self) -> threading.Thread | None:
        """Let the thread end; return it, if there is one, for callers that wait for its end."""
        with _lock:
            thread, self._thread = self._thread, None
            self._ended.set()
        return thread

    def _run(self, ended: threading.Event) -> None:
        while not ended.wait(IDLE_SECONDS):
            with _lock:
                if not ended.is_set() and not self._close_idle():
                    self._thread = None
                    return


class _KeptPool(sa.pool.QueuePool):
    """A pool that keeps its connections when its engine is disposed of.

    Dagster's storages dispose of the engine after each statement (``Engine.dispose``), which calls
    these two methods of its pool.
    """

    def dispose(self) -> None:
        """Keep the connections (SQLAlchemy's own hook)."""

    def recreate(self) -> "_KeptPool":
        """Return the pool that is used from now on (SQLAlchemy's own hook): this one."""
        return self

    def close_unused(self) -> None:
        """Close the connections that are not in use; the pool opens others when needed."""
        # A pool without a limit can be used on after that.
        super().dispose()


class _KeptEngine:
    """One engine, with as many connections as are used at a time, of which one is kept."""

    def __init__(self, url: str, options: dict[str, Any], note_open: Callable[[], None]) -> None:
        connect_args = {**options.get("connect_args", {}), "factory": _WatchedConnection}
        pool = {"poolclass": _KeptPool, "pool_size": 1, "max_overflow": -1}
        options = {**options, **pool, "connect_args": connect_args}
        self.engine = sa.create_engine(url, **options)
        self._path = Path(str(self.engine.url.database))
        self._note_open = note_open
        self._is_open = self._was_used = False
        sa.event.listen(self.engine, "connect", self._note_file)
        sa.event.listen(self.engine, "checkout", self._check_file)
        sa.event.listen(self.engine, "checkin", self._note_use)

    def close(self) -> None:
        """Close what is not in use."""
        self._is_open = False
        pool = self.engine.pool
        if isinstance(pool, _KeptPool):
            pool.close_unused()

    def close_if_idle(self) -> bool:
        """Close what has not been used since the last call; return whether it is still open."""
        if not self._was_used:
            self.close()
        self._was_used = False
        return self._is_open

    def _note_file(self, _connection: Any, record: Any) -> None:
        record.info["file"] = _identity(self._path)

    def _check_file(self, _connection: Any, record: Any, _proxy: Any) -> None:
        """Refuse a connection to a file that has been deleted or replaced: no process reads it."""
        if record.info["file"] != _identity(self._path):
            raise DisconnectionError(f"{self._path} is another file now.")

    def _note_use(self, _connection: Any, _record: Any) -> None:
        with _lock:
            self._was_used = True
            if not self._is_open:
                self._is_open = True
                self._note_open()


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


def _before_fork() -> None:
    # Python warns code that forks a process with more than one thread (``os.fork``): here, that is
    # the user's.
    _kept.end_thread()
    # Not while another thread is inside SQLite, whose own locks would stay locked over there.
    _lock.acquire()
    _kept.close()


def _after_fork_in_child() -> None:
    _kept.reset_after_fork()
    _lock.release()


_lock = threading.RLock()
_kept = KeptEngines()
# SQLite forbids to take an open file along into a forked process: its locks do not come with it
# (https://www.sqlite.org/howtocorrupt.html, section 2.6).
os.register_at_fork(
    before=_before_fork, after_in_parent=_lock.release, after_in_child=_after_fork_in_child
)
