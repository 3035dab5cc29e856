"""What every backend here keeps: the state of each task, the life of each worker, and mail.

A backend is a taskiq ``AsyncResultBackend`` and so serves ``wait_result()`` of a user's own tasks;
what a run needs beyond that (who runs what, who is alive, what to wake up for) is the rest of the
class. A step's result is not here: Dagster's event log has it.
"""

import asyncio
import json
import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from taskiq import TaskiqResult
from taskiq.abc.result_backend import AsyncResultBackend
from taskiq.exceptions import ResultGetError, SecurityError

from dagster_taskiq.errors import (
    ChildDiedError,
    ResultLostError,
    ResultUnreadableError,
    ServerUnavailableError,
    TaskFailedError,
    TaskRevokedError,
    WorkerLostError,
)
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.connection import Connection
from dagster_taskiq.transport.eviction import Eviction
from dagster_taskiq.wire.labels import RUN_LABEL, STEP_LABEL, WORKER_LABEL
from dagster_taskiq.wire.notifications import Notification
from dagster_taskiq.wire.records import Task, TaskState, Worker, end_notification

logger = logging.getLogger("dagster_taskiq.backend")


#: How long a task that has not ended is remembered without a sign of it, in seconds.
UNFINISHED_SECONDS = 30 * 86400
#: How long mail and silent workers are kept, in seconds.
KEEP_SECONDS = 86400
#: Seconds between two tries to write what must not be lost: the first, and the longest.
WRITE_RETRY_SECONDS = (0.1, 5.0)


class StateBackend(AsyncResultBackend[Any]):
    """The state of tasks and workers, and the mail between them.

    Every method that talks to the server raises ``ServerUnavailableError`` if the server cannot
    serve now, and ``ConfigError`` if it will not before the configuration changes.
    """

    #: The server, which a broker on the same one shares.
    connection: Connection

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @abstractmethod
    async def ping(self) -> None:
        """Return when the server has answered."""

    async def eviction(self) -> Eviction | None:
        """Return how the server deletes what is kept here, where it does that to make room."""
        return None

    @abstractmethod
    async def submitted(self, tasks: Sequence[Task]) -> None:
        """Record tasks as WAITING; one that is already known stays as it is."""

    @abstractmethod
    async def start(self, task: Task, *, recorded: bool = False) -> TaskState | None:
        """Record that ``task.worker`` starts the task: at most one call ever succeeds.

        Args:
            task: which one, and who starts it.
            recorded: start it only if something is known of it. A task that was recorded when it
                was sent, and is unknown now, may have been started, or have ended, before its
                record was lost.

        Returns:
            ``None`` when the task is now the caller's; else the state that forbids it (STARTED
            or a final one for a message delivered twice, REVOKED for a cancelled task).

        Raises:
            NoRecordError: nothing is known of the task, with ``recorded``; nothing has changed.
        """

    @abstractmethod
    async def finish(self, task: Task, state: TaskState, error: str, result: bytes | None) -> bool:
        """Record the end of a task that ``task.worker`` started, and post it to the run's channel.

        Args:
            task: which one, and whose.
            state: a final one.
            error: why, in one sentence; empty for a success.
            result: what :meth:`load_result` shall return, from now on and not before.

        Returns:
            ``False``, and nothing is recorded, when the task is not STARTED by that worker.
        """

    @abstractmethod
    async def revoke(self, task_ids: Sequence[str], reason: str) -> dict[str, str]:
        """Make waiting tasks REVOKED (unknown ones too, so that a late message is dropped).

        A STARTED one is marked, for its worker to stop it.

        Returns:
            The worker of each task that was STARTED, by task id.
        """

    @abstractmethod
    async def tasks(self, task_ids: Sequence[str]) -> dict[str, Task]:
        """Return what is known of these tasks, by id; one nobody has heard of is left out."""

    @abstractmethod
    async def beat(self, worker: Worker) -> list[str]:
        """Record a sign of life, and as STARTED by the worker what it runs, where that was lost.

        Returns:
            The ids among ``worker.running`` that must be stopped: revoked, or lost meanwhile.
        """

    @abstractmethod
    async def deregister(self, worker_id: str) -> None:
        """Forget a worker that stopped of its own will."""

    @abstractmethod
    async def workers(self) -> list[Worker]:
        """Return every worker that beat within the last day, the lost ones too, by name."""

    @abstractmethod
    async def post(self, channel: str, body: dict[str, Any]) -> None:
        """Add a mail to a channel. Mail is a hint: a channel keeps the last thousand or so."""

    @abstractmethod
    async def collect(self, channel: str, after: str, timeout: float) -> list[Notification]:
        """Return the mail of a channel after a cursor; wait up to ``timeout`` s for the first."""

    @abstractmethod
    async def close_channel(self, channel: str) -> None:
        """Delete the mail of a channel that nobody will read any more."""

    @abstractmethod
    async def load_result(self, task_id: str) -> bytes | None:
        """Return the stored JSON of a task's result, if it has one."""

    @abstractmethod
    async def forget(self, task_ids: Sequence[str]) -> None:
        """Delete what is known of those of these tasks that have ended, their results too.

        One that has not ended stays. One that is forgotten may start again, should there still be
        a message of it.
        """

    async def sweep(self) -> None:
        """Delete what has expired, where the server does not do that by itself."""

    async def mark_lost(self, task: Task, error: str) -> bool:
        """Record that a STARTED task's worker is lost; ``False`` when it ended meanwhile."""
        return await self.finish(task, TaskState.LOST, error, None)

    async def set_result(self, task_id: str, result: TaskiqResult[Any]) -> None:
        """Record the end of a task that this process's worker started (taskiq's own hook).

        Keeps trying for as long as the server is away: a result that is lost would cost a run
        the end of its step. Whether the worker still owns the task is the server's to say.
        """
        labels = result.labels
        task = Task(
            id=task_id,
            run_id=str(labels.get(RUN_LABEL, "")),
            step_key=str(labels.get(STEP_LABEL, "")),
            worker=str(labels.get(WORKER_LABEL, "")),
        )
        stored: bytes | None = None
        if not task.run_id:  # a step's outcome is in the event log; only its state is wanted here
            result, stored = as_json(result)
        state, error = _end_of(result)
        delay = WRITE_RETRY_SECONDS[0]
        while True:
            try:
                if not await self.finish(task, state, error, stored):
                    logger.warning(
                        "Dropped the result of task %s: it is no longer this worker's.", task_id
                    )
                    if task.loop_channel:
                        # Where its record was lost, its loop waits for nothing else.
                        await self.post(task.loop_channel, end_notification(task, state))
                return
            except ServerUnavailableError as away:
                logger.warning(
                    "Cannot store the end of task %s (%s). Trying again in %.1f s.",
                    task_id,
                    away.problem,
                    delay,
                )
                await asyncio.sleep(delay)
                delay = min(delay * 2, WRITE_RETRY_SECONDS[1])

    async def is_result_ready(self, task_id: str) -> bool:
        """Return whether the task has ended (taskiq's own hook)."""
        task = (await self.tasks([task_id])).get(task_id)
        return task is not None and task.state.is_final

    async def get_result(self, task_id: str, with_logs: bool = False) -> TaskiqResult[Any]:
        """Return a task's result (taskiq's own hook); a revoked or lost task has an error.

        So has one whose result is not there any more, although the task has ended well. A step or
        run has none to begin with.

        Raises:
            ResultGetError: the task has not ended, or nothing is known of it any more.
            ResultUnreadableError: the stored result is not one, or names something to be called.
        """
        stored = await self.load_result(task_id)
        if stored is not None:
            try:
                return TaskiqResult[Any].model_validate(json.loads(stored))
            except (ValueError, SecurityError) as problem:
                raise ResultUnreadableError(
                    f"The result of task {task_id} cannot be read, so no worker of ours has "
                    f"written it: {type(problem).__name__}. See who else writes to the backend."
                ) from None
        task = (await self.tasks([task_id])).get(task_id)
        if task is None or not task.state.is_final:
            raise ResultGetError
        error: BaseException | None = None
        if task.state is TaskState.LOST:
            error = WorkerLostError(task.error)
        elif task.state is TaskState.REVOKED:
            error = TaskRevokedError(task.error)
        elif task.state is TaskState.FAILURE:
            error = TaskFailedError(task.error)
        elif not task.run_id:
            error = ResultLostError(
                f"Task {task_id} has succeeded, but its result is not there any more: it has "
                "expired, or was lost with data of the server's. What the task did is done."
            )
        return TaskiqResult(
            is_err=error is not None,
            return_value=None,
            execution_time=max(0.0, task.finished_at - task.started_at),
            error=error,
        )


def as_json(result: TaskiqResult[Any]) -> tuple[TaskiqResult[Any], bytes]:
    """Return a result with its JSON; where JSON cannot hold the value, an error that says so."""
    try:
        return result, json.dumps(result.model_dump(mode="json")).encode()
    except (TypeError, ValueError) as error:
        problem = TypeError(f"The task's return value is not JSON: {error}")
        failed = replace_result(result, problem)
        return failed, json.dumps(failed.model_dump(mode="json")).encode()


def replace_result(result: TaskiqResult[Any], error: BaseException) -> TaskiqResult[Any]:
    """Return ``result`` as a failure with ``error`` and no value."""
    return TaskiqResult(
        is_err=True,
        return_value=None,
        execution_time=result.execution_time,
        labels=result.labels,
        error=error,
    )


def _end_of(result: TaskiqResult[Any]) -> tuple[TaskState, str]:
    if result.error is None and not result.is_err:
        return TaskState.SUCCESS, ""
    text = str(result.error) or type(result.error).__name__
    if isinstance(result.error, TaskRevokedError):
        return TaskState.REVOKED, text
    if isinstance(result.error, ChildDiedError) and result.labels.get(STEP_LABEL):
        return TaskState.LOST, text
    return TaskState.FAILURE, text
