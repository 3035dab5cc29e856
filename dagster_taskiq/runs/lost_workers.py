"""Which workers that have started steps of a run are lost.

What becomes of their steps: ``health`` marks their tasks LOST, and ``ended_tasks`` and ``outcomes``
write the failure or the retry of each step. ``Worker.is_lost`` compares its last heartbeat with its
lease.
"""

import time
from collections.abc import Callable

from dagster_taskiq.runs.servers import Servers
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.wire.records import Worker


class LostWorkers:
    """Decides when a worker counts as lost.

    A heartbeat that is overdue proves nothing if the servers, or this process, were interrupted
    meanwhile: workers first get the time to send another.
    """

    def __init__(
        self, servers: Servers, settings: Settings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Know no worker yet.

        Args:
            servers: broker and backend, for how long they have been observed.
            settings: with ``lease`` and ``heartbeat_interval``, in seconds.
            clock: the time, in seconds from any start.
        """
        self._servers = servers
        self._lease = settings.lease
        self._heartbeat_interval = settings.heartbeat_interval
        self._clock = clock
        #: Since when the backend has no record of a worker that has a step, by the worker's id.
        self._absent_since: dict[str, float] = {}

    def why_lost(self, worker_id: str, worker: Worker | None) -> str:
        """Return why a worker counts as lost, in a sentence; empty while it does not.

        Args:
            worker_id: the worker.
            worker: its record; ``None`` if the backend has none.
        """
        now = self._clock()
        if worker is None:
            # The backend may have lost its data, and the worker is about to send a heartbeat.
            absent_since = self._absent_since.setdefault(worker_id, now)
            if now - max(absent_since, self._servers.observed_since) <= self._lease:
                return ""
            return "The backend has no record of the worker that ran it any more."
        self._absent_since.pop(worker_id, None)
        observed = now - self._servers.observed_since
        if not worker.is_lost or observed <= 2 * self._heartbeat_interval:
            return ""
        return worker.silence
