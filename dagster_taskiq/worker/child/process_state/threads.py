"""Threads that still run after the task that started them."""

import threading
import time

from dagster_taskiq.worker.child.process_state.kind import CannotRestoreError

#: How long a thread that is about to end may take, in seconds: one of a pool that was shut down, or
#: of a timer that was cancelled, is notified and ends a moment later.
END_SECONDS = 0.2
#: How the names of the threads begin that this package starts, for as long as the process lives.
OURS = "dagster-taskiq"
#: Threads of libraries that serve the calls of any task, do nothing without a call, and are started
#: once for a process, by their names: fsspec's event loop; tqdm's monitor (``_is_servant``).
_SERVANTS = frozenset({"fsspecIO"})


class Threads:
    """The threads that were there before; a thread cannot be ended from outside."""

    name = "threads"
    of_thread = False

    def read(self) -> frozenset[threading.Thread]:
        """Return the threads that run."""
        return frozenset(threading.enumerate())

    def restore(self, wanted: frozenset[threading.Thread]) -> None:
        """Wait a moment for those to end that are about to.

        Raises:
            CannotRestoreError: others do not; the text has their names.
        """
        found = self.read()
        if found <= wanted:
            return
        left = [each for each in found - wanted if not _may_stay(each)]
        deadline = time.monotonic() + END_SECONDS
        for thread in left:
            thread.join(max(0.0, deadline - time.monotonic()))
        names = sorted(thread.name for thread in left if thread.is_alive())
        if names:
            raise CannotRestoreError(f"threads that still run: {', '.join(names)}")


def _may_stay(thread: threading.Thread) -> bool:
    # A thread of native code, which has called Python once. It is not known whether it still runs.
    is_foreign = isinstance(thread, threading._DummyThread)
    return is_foreign or thread.name.startswith(OURS) or _is_servant(thread)


def _is_servant(thread: threading.Thread) -> bool:
    return thread.name in _SERVANTS or type(thread).__module__ == "tqdm._monitor"
