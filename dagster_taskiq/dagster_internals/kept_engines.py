"""Engines that keep a connection between the statements of Dagster's storages.

Dagster's storages open a connection for each event that they write or read, and close it. A process
that executes steps or a run does that all the time; for as long as it does, it keeps one connection
to each database. This module keeps and closes them; how each kind of database is recognised, and
when its connection may be used again, is in :mod:`sqlite_engines` and :mod:`postgres_engines`.
"""

import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

#: How many databases are kept open. With SQLite each run is one, and few runs are executed at a
#: time.
MOST_ENGINES = 16
#: How often it is checked which connections are not used, in seconds.
CHECK_SECONDS = 0.2

#: The name of the thread that closes them.
_THREAD_NAME = "dagster-taskiq-close-idle-connections"


class KeptEngine:
    """One engine, with as many connections as are used at a time, of which one is kept."""

    def __init__(self, url: str | sa.URL, idle_seconds: float, **options: Any) -> None:
        """Connect to nothing yet.

        Args:
            url: the database.
            idle_seconds: for how long a connection stays open that is not used, at least.
            options: those of ``sqlalchemy.create_engine``; the pool is replaced.
        """
        pool = {"poolclass": _KeptPool, "pool_size": 1, "max_overflow": -1}
        self.engine = sa.create_engine(url, **{**options, **pool})
        self._idle_seconds = idle_seconds
        #: When a connection was last put back, in seconds of the monotonic clock; ``None`` if
        #: there has been none since the last was closed.
        self._last_use: float | None = None
        sa.event.listen(self.engine, "checkin", self._note_use)

    def close(self) -> None:
        """Close what is not in use."""
        self._last_use = None
        pool = self.engine.pool
        if isinstance(pool, _KeptPool):
            pool.close_unused()

    def close_if_idle(self) -> bool:
        """Close what has not been used for a while; return whether it is still open."""
        if self._last_use is not None and time.monotonic() - self._last_use >= self._idle_seconds:
            self.close()
        return self._last_use is not None

    def _note_use(self, _connection: Any, _record: Any) -> None:
        with _lock:
            self._last_use = time.monotonic()
            KEPT.note_open()


class _KeptPool(sa.pool.QueuePool):
    """A pool that keeps its connections when its engine is disposed of.

    Dagster's SQLite storages dispose of the engine after each statement (``Engine.dispose``), which
    calls these two methods of its pool.
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


class KeptEngines:
    """The kept engines of this process."""

    def __init__(self) -> None:
        #: How many blocks are open in which engines are kept.
        self._blocks = 0
        self._engines: dict[Hashable, KeptEngine] = {}
        #: Those of the process that this one was forked from: never closed here.
        self._inherited: dict[Hashable, KeptEngine] = {}
        #: Closes what is not used; ``None`` while nothing is kept.
        self._closer: _IdleCloser | None = None

    @property
    def is_keeping(self) -> bool:
        """Whether engines are kept at this moment."""
        return self._closer is not None

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Keep engines until the end of the block.

        Blocks may overlap, on several threads; the last one that ends closes the connections.
        Nothing is kept in a process that is forked inside of a block.
        """
        with _lock:
            self._blocks += 1
            if self._blocks == 1:
                self._closer = _IdleCloser(self._close_idle)
        try:
            yield
        finally:
            with _lock:
                self._blocks -= 1
                if self._blocks == 0:
                    self._end()

    def find(self, key: Hashable, make: Callable[[], KeptEngine]) -> KeptEngine | None:
        """Return the engine that is kept for a key.

        Args:
            key: which engine.
            make: makes it, if it is not kept yet.

        Returns:
            The engine; ``None`` while nothing is kept.
        """
        with _lock:
            if self._closer is None:
                return None
            kept = self._engines.pop(key, None) or make()
            self._engines[key] = kept
            for each in list(self._engines)[:-MOST_ENGINES]:
                self._engines.pop(each).close()
        return kept

    def note_open(self) -> None:
        """See to it that a connection which was put back is closed when it is not used."""
        if self._closer is not None:
            self._closer.begin()

    def prepare_fork(self) -> None:
        """Close what is not in use, and let the thread end that closes connections.

        The thread begins again with the next connection that is put back.
        """
        thread = self._closer.end() if self._closer is not None else None
        if thread is not None:
            thread.join()
        # Not while another thread is inside SQLite, whose own locks would stay locked over there.
        _lock.acquire()
        self._close()

    def reset_after_fork(self) -> None:
        """Keep nothing in a forked process, and do not close there what is another's."""
        self._inherited = self._engines
        self._engines = {}
        self._closer = None
        _lock.release()

    def _end(self) -> None:
        """Close the connections, and keep nothing any more."""
        if self._closer is not None:
            self._closer.end()
        self._closer = None
        self._close()
        self._engines.clear()

    def _close(self) -> None:
        """Close the connections that are not in use; the engines open them again when needed."""
        for kept in self._engines.values():
            kept.close()

    def _close_idle(self) -> bool:
        """Close what has not been used for a while; return whether anything is open."""
        are_open = [kept.close_if_idle() for kept in self._engines.values()]
        return any(are_open)


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

    def begin(self) -> None:
        """Start the thread, unless it runs."""
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
        while not ended.wait(CHECK_SECONDS):
            with _lock:
                if not ended.is_set() and not self._close_idle():
                    self._thread = None
                    return


_lock = threading.RLock()
#: The one of this process.
KEPT = KeptEngines()
# SQLite forbids to take an open file along into a forked process: its locks do not come with it
# (https://www.sqlite.org/howtocorrupt.html, section 2.6). A connection to a server is one socket,
# which two processes must not use. Python warns code that forks a process with more than one thread
# (``os.fork``): here, that is the user's.
os.register_at_fork(
    before=KEPT.prepare_fork, after_in_parent=_lock.release, after_in_child=KEPT.reset_after_fork
)
