"""Being told when a file is written to, instead of looking again and again."""

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

#: How much of what the system has to say is read at a time, in bytes. What it says is of no
#: interest, only that it says something.
READ_BYTES = 1 << 16


class FileNotices:
    """A file, watched on an event loop by Linux's inotify (the manual's page inotify(7)).

    It tells of writes on this machine alone, and of none where a file system is not the kernel's
    own: whoever relies on it must look from time to time all the same.
    """

    def __init__(self, path: str | Path, notify: Callable[[], None]) -> None:
        """Watch a file from now on.

        Args:
            path: the file, which must be there.
            notify: called on the running event loop after each write, or after several, between
                :meth:`listen` and :meth:`rest`.

        Raises:
            OSError: it cannot be watched: it is not there, this process or user watches too many
                already, or this system is not Linux.
        """
        if sys.platform != "linux":
            raise OSError("Only Linux has inotify.")
        # Imported here: it is there for Linux alone.
        from asyncinotify import Inotify, Mask  # noqa: PLC0415

        self._notify = notify
        self._loop = asyncio.get_running_loop()
        with Inotify() as inotify:
            inotify.add_watch(path, Mask.MODIFY)
            # One of our own: the library closes its one when the interpreter exits, which is before
            # connections are closed. Nor does it set what its flag for not blocking says (4.4).
            self._file = os.dup(inotify.fd)
        os.set_blocking(self._file, False)

    def listen(self) -> None:
        """Tell of writes from now on, and once of those that came before."""
        self._loop.add_reader(self._file, self._on_written)

    def rest(self) -> None:
        """Tell of nothing until somebody listens again: each notice costs a turn of the loop."""
        if not self._loop.is_closed():
            self._loop.remove_reader(self._file)

    def take(self) -> bool:
        """Return whether there is news, which is then taken for told."""
        told = False
        with suppress(BlockingIOError):
            while os.read(self._file, READ_BYTES):
                told = True
        return told

    def close(self) -> None:
        """Watch no more."""
        self.rest()
        os.close(self._file)

    def _on_written(self) -> None:
        self.take()
        self._notify()
