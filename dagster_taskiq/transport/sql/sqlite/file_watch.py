"""Wake-ups when a file is written to, by Linux's inotify instead of checking it all the time."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path


class FileNotices:
    """A watch on one file (see the manual page inotify(7)), read on an event loop.

    inotify reports only writes that were made on this machine, and none on some file systems, such
    as network file systems. Code that relies on it has to check the file from time to time as well.
    """

    def __init__(self, path: str | Path, notify: Callable[[], None]) -> None:
        """Watch a file from now on.

        Args:
            path: the file, which must exist.
            notify: called on the running event loop after one write, or after several, between
                :meth:`listen` and :meth:`rest`.

        Raises:
            OSError: it cannot be watched: it does not exist, this process or user has too many
                watches already, or this system is not Linux.
        """
        if sys.platform != "linux":
            raise OSError("Only Linux has inotify.")
        # Imported here, because it is installed on Linux only.
        from asyncinotify import Inotify, Mask  # noqa: PLC0415

        self._notify = notify
        self._loop = asyncio.get_running_loop()
        # With no time to wait, reading does not block when there is nothing to read.
        self._inotify = Inotify(sync_timeout=0)
        try:
            self._inotify.add_watch(path, Mask.MODIFY)
        except BaseException:
            self._inotify.close()
            raise
        # Kept, because asyncinotify closes it when the interpreter exits, and does not give the
        # number of a closed one. Connections are closed after that.
        self._fd = self._inotify.fd

    def listen(self) -> None:
        """Report writes from now on, and once those that came before."""
        self._loop.add_reader(self._fd, self._on_written)

    def rest(self) -> None:
        """Report nothing until :meth:`listen`: each report takes one iteration of the loop."""
        if not self._loop.is_closed():
            self._loop.remove_reader(self._fd)

    def take(self) -> bool:
        """Return whether the file was written to since the last call; later calls do not repeat it.

        Raises:
            ValueError: the watch is closed.
        """
        written = False
        while self._inotify.sync_get() is not None:
            written = True
        return written

    def close(self) -> None:
        """End the watch. May be called again, and after asyncinotify has closed it."""
        self.rest()
        self._inotify.close()

    def _on_written(self) -> None:
        self.take()
        self._notify()
