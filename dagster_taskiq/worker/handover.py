"""Handing what a worker that drains only waits for over to other workers.

A run that waits for its steps needs no particular worker. Its process is ended, and the run is
sent on: the worker that takes it adopts the steps that are in flight. So a worker that leaves,
because its machine does or a new release comes, does not have to wait for the end of its runs. The
same goes for a task that watches a step which runs elsewhere; the loop of its run sends the next.

A run that executes its steps in its own process stays until it has ended.
"""

import asyncio
import logging
from collections.abc import Sequence

from taskiq import TaskiqMessage

from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.wire.labels import QUEUE_LABEL
from dagster_taskiq.wire.queues import is_run_queue, queue_of_run_queue
from dagster_taskiq.wire.records import Worker
from dagster_taskiq.wire.task_names import PACKED_RUN
from dagster_taskiq.worker.pool import Pool

logger = logging.getLogger(__name__)

#: How often a worker that drains looks for workers that can take its runs, in seconds.
LOOK_SECONDS = 1.0


class Handover:
    """Hands over what one worker waits for."""

    def __init__(self, backend: StateBackend, pool: Pool, worker_id: str) -> None:
        """Hand nothing over yet.

        Args:
            backend: knows the other workers.
            pool: has the tasks.
            worker_id: this worker.
        """
        self._backend = backend
        self._pool = pool
        self._worker_id = worker_id

    async def run(self) -> None:
        """Hand over each task as soon as another worker can take it, until this is cancelled."""
        while True:
            try:
                workers = await self._backend.workers()
            except ServerUnavailableError as error:
                logger.debug("Cannot find out which workers could take over: %s", error)
            else:
                takers = Takers([each for each in workers if each.id != self._worker_id])
                self._pool.hand_over(self._reason, takers.may_take)
            await asyncio.sleep(LOOK_SECONDS)

    def hand_over_all(self) -> None:
        """Hand over all tasks that can be, also those that no worker can take now: they wait."""
        self._pool.hand_over(self._reason, lambda _: True)

    @property
    def _reason(self) -> str:
        return f"worker {self._pool.worker_name} is to end"


class Takers:
    """Which workers can take over, and how many runs."""

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
        """Return whether one of them can take over the task of a message; a run has a place then.

        A task that is no run waits, in its queue, for a slot.
        """
        name = str(message.labels[QUEUE_LABEL])
        queue = queue_of_run_queue(name)
        if not is_run_queue(name):
            return any(queue in queues for queues, _ in self._places)
        for index, (queues, places) in enumerate(self._places):
            if queue in queues and places > 0:
                self._places[index] = (queues, places - 1)
                return True
        return False


def _runs_held(worker: Worker) -> int:
    return sum(each.name in PACKED_RUN for each in worker.running)
