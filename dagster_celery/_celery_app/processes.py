"""What is done once in each process that executes tasks of an app: a child of a worker."""

import atexit
import os
import socket
import sys

from dagster_celery._celery_app.signals import (
    send_logging_signals,
    send_signal,
    warn_of_unsent,
)
from dagster_taskiq.execution.task_context import current_context

#: The process that has begun; a forked one has not.
_begun = 0
#: Held by the first child of a worker for as long as it lives.
_first: list[socket.socket] = []


def begun() -> None:
    """Do, before the first task of this process, what Celery does when such a process begins."""
    global _begun  # noqa: PLW0603 - it is about this process
    if _begun == os.getpid() or not current_context().worker:
        return
    _begun = os.getpid()
    with current_context().loading("Celery's signals of a process"):
        send_logging_signals()
        send_signal("worker_process_init")
        atexit.register(_ended, _begun)
        warn_once_a_worker()  # of what was connected since its modules were imported


def warn_once_a_worker() -> None:
    """Warn, in the first child of a worker alone, of what is connected to unsent signals."""
    if _is_first_of_worker():
        warn_of_unsent()


def _ended(pid: int) -> None:
    if pid == os.getpid():
        send_signal("worker_process_shutdown", pid=pid, exitcode=0)


def _is_first_of_worker() -> bool:
    """Return whether this child is the first one of its worker, which says what concerns all.

    The children of a worker, and no others, have one parent in common: its fork server.

    Elsewhere than on Linux each of them is: there is nothing there that only one can hold, and that
    its end releases.
    """
    if not sys.platform.startswith("linux") or _first:
        return True
    held = socket.socket(socket.AF_UNIX)
    try:
        held.bind(f"\0dagster-celery:{os.getppid()}")
    except OSError:
        held.close()
        return False
    _first.append(held)
    return True
