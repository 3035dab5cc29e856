"""Tasks of the worker's own, on behalf of a task that was sent to it.

They need Dagster, which the worker's parent process does not import, so each runs in a child that
is started for it. No broker knows of them, and they take no slot.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any

from taskiq import TaskiqMessage, TaskiqResult

from dagster_taskiq.errors import ChildDiedError, ChildStartError, ConfigError
from dagster_taskiq.execution.typed_messages import plain_message
from dagster_taskiq.tracing import spans
from dagster_taskiq.transport.results import as_json
from dagster_taskiq.wire.labels import RUN_LABEL
from dagster_taskiq.wire.task_names import (
    EXECUTE_PLAN,
    FINALIZE_RUN,
    FREE_STEP,
    HAND_OVER_RUN,
    HAS_BEGUN,
    OBSERVE_END,
    PACKED_ARGS,
    PACKED_RUN,
)
from dagster_taskiq.worker.pool import Pool

logger = logging.getLogger(__name__)

#: How long it is tried to hand a run over whose broker or storage does not answer, in seconds: as
#: long as a run waits through an outage of them.
HAND_OVER_SECONDS = 600.0
#: The pause between two tries, in seconds.
HAND_OVER_PAUSE_SECONDS = 1.0
#: How long a worker that ends waits until the pool slots of its last steps are free, and until the
#: middlewares know of its last tasks, in seconds.
BACKGROUND_SECONDS = 30.0


class InternalTasks:
    """Runs them in the children of one worker."""

    def __init__(self, pool: Pool, worker_id: str) -> None:
        self._pool = pool
        self._worker_id = worker_id
        self._background: set[asyncio.Task[None]] = set()

    async def has_begun(self, message: TaskiqMessage) -> bool | None:
        """Return whether the event log of a task's run has it that the task has begun before.

        Args:
            message: a task of which the record has been lost.

        Returns:
            ``None`` if that cannot be found out now; the reason is logged.
        """
        packed = message.kwargs.get(PACKED_ARGS[message.task_name])
        kwargs = {"args_packed": packed, "task_id": message.task_id}
        problem, value = await self._run(HAS_BEGUN, message, kwargs)
        if problem is None:
            return bool(value)
        logger.warning(
            "Task %s is not started now, because it is not known whether it has begun before: %s",
            message.task_id,
            problem,
        )
        return None

    async def finalize_run(
        self, message: TaskiqMessage, why: str, *, may_resume: bool = True
    ) -> None:
        """End a run in Dagster whose own process cannot do that any more; log if that fails.

        Args:
            message: the task; nothing is done if it is not a run.
            why: what has ended the process, for the event log of the run.
            may_resume: whether another process may go on with it.
        """
        packed = PACKED_RUN.get(message.task_name)
        if packed is None:
            return
        kwargs = {
            "args_packed": message.kwargs.get(packed),
            "task_id": message.task_id,
            "worker_id": self._worker_id,
            "why": why,
            "may_resume": may_resume,
        }
        await self._run_or_log(FINALIZE_RUN, message, kwargs)

    async def hand_over_run(self, message: TaskiqMessage) -> str | None:
        """Send a run on for another worker to go on with, whose process was ended for that.

        Args:
            message: the task that had the run.

        Returns:
            The id of the task that goes on with it, empty if the run has ended; ``None`` if it
            could not be sent on, which is logged.
        """
        kwargs = {
            "name": message.task_name,
            "kwargs": message.kwargs,
            "labels": message.labels,
            "task_id": message.task_id,
        }
        deadline = time.monotonic() + HAND_OVER_SECONDS
        while True:
            problem, value = await self._run(HAND_OVER_RUN, message, kwargs)
            if problem is None:
                return str(value)
            if time.monotonic() > deadline:
                logger.error("Could not hand over task %s: %s", message.task_id, problem)
                return None
            logger.warning(
                "Could not hand over task %s (%s). Trying again.", message.task_id, problem
            )
            await asyncio.sleep(HAND_OVER_PAUSE_SECONDS)

    def free_step(self, message: TaskiqMessage) -> None:
        """Free in the background what a step holds in Dagster's pools that was stopped or died.

        Its run may have ended before, or end at this moment without having seen the step's end.

        Args:
            message: the step; its end is on record.
        """
        packed = message.kwargs.get(PACKED_ARGS[EXECUTE_PLAN])
        self._in_background(self._run_or_log(FREE_STEP, message, {"args_packed": packed}))

    def observe_end(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        """Tell the middlewares in the background of the end of a task that could not do that.

        Args:
            message: the task.
            result: how it ended, which is on record.
        """
        kwargs = {
            "message": plain_message(message),
            "result": as_json(result)[1].decode(),
        }
        self._in_background(self._run_or_log(OBSERVE_END, message, kwargs))

    async def finish(self) -> None:
        """Wait until what is done in the background is done, up to ``BACKGROUND_SECONDS``."""
        if self._background:
            await asyncio.wait(self._background, timeout=BACKGROUND_SECONDS)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _run_or_log(self, name: str, message: TaskiqMessage, kwargs: dict[str, Any]) -> None:
        problem, _ = await self._run(name, message, kwargs)
        if problem is not None:
            logger.warning("Could not %s for task %s: %s", name, message.task_id, problem)

    async def _run(
        self, name: str, message: TaskiqMessage, kwargs: dict[str, Any]
    ) -> tuple[object, Any]:
        """Run one of them.

        Args:
            name: of the internal task.
            message: the task on whose behalf it runs.
            kwargs: its arguments.

        Returns:
            What went wrong, if anything; and what it has returned.
        """
        internal = TaskiqMessage(
            task_id=f"{message.task_id}:{name}",
            task_name=name,
            labels={
                RUN_LABEL: message.labels.get(RUN_LABEL, ""),
                **spans.context_of(message.labels),
            },
            args=[],
            kwargs=kwargs,
        )
        try:
            result = await self._pool.run_internal(internal)
        except (ChildDiedError, ChildStartError, ConfigError, OSError) as error:
            return error, None
        return result.error, result.return_value
