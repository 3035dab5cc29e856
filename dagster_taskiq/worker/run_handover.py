"""Handing the runs of a worker that drains over to other workers.

A run that only waits for its steps needs no particular worker. Its process is ended, and the run is
sent on: whoever takes it adopts the steps that are in flight. So a worker that leaves, because its
machine does or a new release comes, does not have to wait for the end of its runs.

A run that executes its steps in its own process stays until it has ended.
"""

import asyncio
import logging
from collections.abc import Sequence

from taskiq import TaskiqMessage

from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.wire.labels import QUEUE_LABEL
from dagster_taskiq.wire.queues import queue_of_run_queue
from dagster_taskiq.wire.records import Worker
from dagster_taskiq.wire.task_names import PACKED_RUN
from dagster_taskiq.worker.pool import Pool

logger = logging.getLogger(__name__)

#: How often a worker that drains looks for workers that can take its runs, in seconds.
LOOK_SECONDS = 1.0


class RunHandover:
    """Hands over the runs of one worker."""

    def __init__(self, backend: StateBackend, pool: Pool, worker_id: str) -> None:
        """Hand nothing over yet.

        Args:
            backend: knows the other workers.
            pool: has the runs.
            worker_id: this worker.
        """
        self._backend = backend
        self._pool = pool
        self._worker_id = worker_id

    async def run(self) -> None:
        """Hand over each run as soon as another worker can take it, until none is left."""
        while self._pool.slots.runs:
            try:
                workers = await self._backend.workers()
            except ServerUnavailableError as error:
                logger.debug("Cannot find out who could take the runs held here: %s", error)
            else:
                takers = Takers([each for each in workers if each.id != self._worker_id])
                self._pool.hand_over(self._reason, takers.may_take)
            await asyncio.sleep(LOOK_SECONDS)

    def hand_over_all(self) -> None:
        """Hand over all runs that can be, also those that no worker can take now: they wait."""
        self._pool.hand_over(self._reason, lambda _: True)

    @property
    def _reason(self) -> str:
        return f"worker {self._pool.worker_name} is to end"


class Takers:
    """Which workers can take how many runs."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        """Count the places of workers.

        Args:
            workers: those to consider; lost and draining ones take nothing.
        """
        #: How many more runs each may take.
        self._places = [
            (set(worker.queues), worker.max_runs - _runs_held(worker))
            for worker in workers
            if not worker.is_lost and not worker.draining
        ]

    def may_take(self, message: TaskiqMessage) -> bool:
        """Return whether one of them can take the run of a message, which then has its place."""
        queue = queue_of_run_queue(str(message.labels[QUEUE_LABEL]))
        for index, (queues, places) in enumerate(self._places):
            if queue in queues and places > 0:
                self._places[index] = (queues, places - 1)
                return True
        return False


def _runs_held(worker: Worker) -> int:
    return sum(each.name in PACKED_RUN for each in worker.running)
