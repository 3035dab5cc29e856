"""Two workers with one name: commands that take a name mean both."""

import logging
import os

from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.wire.records import Worker

logger = logging.getLogger("dagster_taskiq.worker")


async def warn_of_namesake(backend: StateBackend, worker: Worker) -> None:
    """Warn if another worker has the same name, unless it is known to be gone.

    Args:
        backend: knows the other workers.
        worker: the one that has just started.
    """
    try:
        workers = await backend.workers()
    except ServerUnavailableError as error:
        logger.debug("Cannot find out whether another worker has this name: %s", error)
        return
    for other in workers:
        if other.id != worker.id and other.name == worker.name and not _is_gone(other, worker):
            logger.warning(
                "Another worker is named %s as well: process %d on %s, whose last heartbeat was "
                "%.0f s ago. `worker terminate %s` ends both, and `status --worker %s` is content "
                "with either: give each a --name of its own. If that one was killed, nothing is "
                "wrong.",
                *(other.name, other.pid, other.host, other.age, other.name, other.name),
            )


def _is_gone(other: Worker, worker: Worker) -> bool:
    """Whether a worker is known to have ended without deregistering: it was killed."""
    if other.is_lost or other.host != worker.host:
        return other.is_lost
    # The first process of a container has the same number again when that is restarted.
    return other.pid == worker.pid or not _exists(other.pid)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True
