"""Stopping a task that was cancelled.

A task of ours that executes a step is stopped at once: what it started ends with it. A library may
define tasks of its own that only watch a step: a Kubernetes Job, a container. If such a task were
stopped, nothing would end what it watches. These tasks notice that the run has ended, and end what
they watch, so they are given time for that.
"""

import asyncio
import logging
from typing import TYPE_CHECKING

from dagster_taskiq.wire.labels import CUSTOM_STEP_SECONDS
from dagster_taskiq.wire.task_names import is_custom_step

if TYPE_CHECKING:
    from dagster_taskiq.worker.pool import Pool

logger = logging.getLogger(__name__)


class Cancellation:
    """Stops the tasks of one pool that were cancelled.

    A worker that is shut down, or has lost its lease, stops its tasks in the pool directly.
    """

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        #: Tasks that were given time to end.
        self._given_time: set[str] = set()

    def cancel(self, task_id: str, reason: str, at_once: bool = False) -> None:
        """Stop a task, if it is here; a repeated call changes nothing.

        Args:
            task_id: the task.
            reason: for the log and for the record of the task.
            at_once: kill it now, whatever it is; it must not do anything more.
        """
        if at_once or not self._watches_a_step(task_id):
            self._pool.stop(task_id, reason, at_once)
        elif task_id not in self._given_time:
            seconds = self._pool.cancel_seconds_of(task_id, CUSTOM_STEP_SECONDS)
            logger.info(
                "Task %s was cancelled and has %g s to end what it watches: %s.",
                task_id,
                seconds,
                reason.rstrip("."),
            )
            self._given_time.add(task_id)
            loop = asyncio.get_running_loop()
            loop.call_later(seconds, self._stop, task_id, reason)

    def _watches_a_step(self, task_id: str) -> bool:
        """Return whether a task has begun and only watches a step of a run."""
        return any(
            running.id == task_id and running.pid and is_custom_step(running.name, running.step_key)
            for running in self._pool.running
        )

    def _stop(self, task_id: str, reason: str) -> None:
        self._given_time.discard(task_id)
        self._pool.stop(task_id, reason)
