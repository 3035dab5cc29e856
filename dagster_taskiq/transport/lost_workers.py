"""Which workers are lost, for those who wait for what runs there."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from dagster_taskiq.wire.records import Worker

#: For how long what was read of the workers counts, in seconds: those who wait ask more often.
LOOK_SECONDS = 1.0
#: Seconds between two looks of one who waits for a heartbeat.
WAIT_SECONDS = 0.25


class LostWorkers:
    """Workers that seem lost, and since when.

    One look proves nothing: the server may just have come back with the data it had before an
    outage, or this machine may just have been resumed. A worker is lost if it is so at two looks
    with the time of two heartbeats between them.
    """

    def __init__(
        self, workers: Callable[[], Awaitable[list[Worker]]], heartbeat_interval: float
    ) -> None:
        """Look at nothing yet.

        Args:
            workers: reads the records of all workers.
            heartbeat_interval: seconds between two heartbeats of a worker.
        """
        self._workers = workers
        self._patience = 2 * heartbeat_interval
        self._found: dict[str, Worker] = {}
        self._looked_at = -LOOK_SECONDS
        #: When each worker was first seen to be lost, and at each look since.
        self._lost_since: dict[str, float] = {}

    async def why_lost(self, worker_id: str) -> str | None:
        """Return why a worker counts as lost, in one sentence; ``None`` if it does not, or not yet.

        Reads the workers only once in ``LOOK_SECONDS``, whatever number of callers asks.
        """
        if time.monotonic() - self._looked_at >= LOOK_SECONDS:
            await self._look()
        worker = self._found.get(worker_id)
        if worker is not None and not worker.is_lost:
            return None
        since = self._lost_since.setdefault(worker_id, self._looked_at)
        if self._looked_at - since < self._patience:
            return None
        if worker is not None:
            return worker.silence
        return f"Worker {worker_id}, which ran it, has ended, or was silent for a day."

    async def lost(self) -> list[Worker]:
        """Return the workers that seem lost, from a look that is a second old at most."""
        if time.monotonic() - self._looked_at >= LOOK_SECONDS:
            await self._look()
        return [worker for worker in self._found.values() if worker.is_lost]

    def last_of_pipeline(self, worker_id: str, task_id: str) -> str:
        """Return the last task of a pipeline that a lost worker has reported of a step; or none."""
        worker = self._found.get(worker_id)
        running = () if worker is None else worker.running
        return next((each.last for each in running if each.id == task_id), "")

    async def confirm_lost(self, worker_id: str) -> str | None:
        """As :meth:`why_lost`, but wait until that is certain."""
        while True:
            reason = await self.why_lost(worker_id)
            if reason is not None or worker_id not in self._lost_since:
                return reason
            await asyncio.sleep(WAIT_SECONDS)

    async def _look(self) -> None:
        now = time.monotonic()
        self._found = {worker.id: worker for worker in await self._workers()}
        self._looked_at = now
        alive = {worker_id for worker_id, worker in self._found.items() if not worker.is_lost}
        for worker_id in alive & self._lost_since.keys():
            del self._lost_since[worker_id]
