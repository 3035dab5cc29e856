"""What every backend here keeps: records of tasks, heartbeats of workers, and notifications.

A backend is a taskiq ``AsyncResultBackend``, and so serves ``wait_result()`` of a user's own tasks.
The other methods are what a run needs: which worker runs a task, which workers are alive, and
channels that wake a loop. The result of a step is not here, but in Dagster's event log.
"""

import asyncio
import json
import logging
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from taskiq import TaskiqResult
from taskiq.abc.result_backend import AsyncResultBackend
from taskiq.depends.progress_tracker import TaskProgress
from taskiq.depends.progress_tracker import TaskState as ProgressState
from taskiq.exceptions import NoResultError, ResultGetError, SecurityError

from dagster_taskiq.errors import (
    ChildDiedError,
    ResultLostError,
    ResultUnreadableError,
    ServerUnavailableError,
    TaskFailedError,
    TaskRevokedError,
    UnusableMessageError,
    WorkerLostError,
)
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport import result_waits
from dagster_taskiq.transport.connection import Connection
from dagster_taskiq.transport.current_task import own_task
from dagster_taskiq.transport.eviction import Eviction
from dagster_taskiq.transport.home_loop import Home, at_home
from dagster_taskiq.transport.lookups import Lookups
from dagster_taskiq.transport.lost_workers import LostWorkers
from dagster_taskiq.transport.messages import Outgoing
from dagster_taskiq.transport.results import (
    as_json,
    failure,
    result_from_json,
    text_of,
)
from dagster_taskiq.transport.schedule_store import ScheduleStore
from dagster_taskiq.wire.commands import Command, command
from dagster_taskiq.wire.labels import RUN_LABEL, STEP_LABEL, WORKER_LABEL, attempt_of
from dagster_taskiq.wire.notifications import Notification, worker_channel
from dagster_taskiq.wire.records import Task, TaskState, Worker, end_notification
from dagster_taskiq.wire.step_task_ids import is_step_task_id

logger = logging.getLogger("dagster_taskiq.backend")


#: How long the record of a task that has not ended is kept after its last change, in seconds.
UNFINISHED_SECONDS = 30 * 86400
#: How long notifications, and workers without heartbeats, are kept, in seconds.
KEEP_SECONDS = 86400
#: Seconds between two attempts to write what must not be lost: the first, and the longest.
WRITE_RETRY_SECONDS = (0.1, 5.0)
#: How many characters a record keeps of the error of a user's own task.
LONGEST_REASON = 1000
#: How the error begins of a task whose message was set aside, given its id.
_SET_ASIDE = "The message of task {} was set aside"

T = TypeVar("T")


class StateBackend(AsyncResultBackend[Any]):
    """Records of tasks and workers, and channels of notifications.

    What becomes of a task's record is decided by the functions of ``transitions`` alone.

    taskiq's own methods may be called on any event loop, without :meth:`startup` too; the others
    are called on the loop that is its home.

    Every method that talks to the server raises ``ServerUnavailableError`` if the server cannot
    serve now, and ``ConfigError`` if it will not before the configuration changes.
    """

    #: The server, which a broker on the same one shares.
    connection: Connection
    #: Whether the children of a worker use its connection, because each costs the server much.
    shares_connection: ClassVar[bool] = False
    #: Whether :meth:`put_back` can put a message into its queue in the same step.
    puts_messages: ClassVar[bool] = False
    #: For how many seconds one :meth:`collect` should wait, if who waits looks around more often.
    read_seconds: ClassVar[float] = 0.0

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        #: The event loop on which the connection is used.
        self.home = Home(self)
        #: Whether it is that of a worker or of a child of one, which write what must not be lost
        #: for as long as the server is away. Others are told that it is.
        self.is_worker_process = False
        self._lost_workers = LostWorkers(self.workers, settings.heartbeat_interval)
        self._lookups = Lookups(self.tasks)

    async def startup(self) -> None:
        """Connect (taskiq's own hook)."""
        await self.home.open()

    async def shutdown(self) -> None:
        """Disconnect (taskiq's own hook)."""
        await self.home.close()

    @abstractmethod
    async def ping(self) -> None:
        """Return when the server has answered."""

    async def eviction(self) -> Eviction | None:
        """Return how the server deletes records to make room; ``None`` if it does not."""
        return None

    @abstractmethod
    async def submitted(self, tasks: Sequence[Task]) -> None:
        """Record tasks as WAITING; one that is already known stays as it is."""

    @abstractmethod
    async def start(self, task: Task, *, recorded: bool = False) -> TaskState | None:
        """Record that ``task.worker`` starts the task: of each attempt, one call ever succeeds.

        Args:
            task: which one, the attempt that its message is for, and the worker that starts it.
            recorded: start it only if it is known. A task that was recorded when it was sent, and
                is unknown now, may have started, or have ended, before its record was lost.

        Returns:
            ``None`` when the task is now the caller's; else the state that forbids it (STARTED
            or a final one for a message delivered twice, REVOKED for a cancelled task).

        Raises:
            NoRecordError: the task is unknown, with ``recorded``; nothing has changed.
            NotPutBackYetError: the worker of an earlier attempt still owns it; nothing has changed.
                If that worker is lost, :meth:`is_result_ready` notices.
        """

    @abstractmethod
    async def put_back(self, task: Task, message: Outgoing | None) -> bool:
        """Record that ``task.worker`` gives up a task that it runs: it is WAITING again.

        Use :func:`dagster_taskiq.transport.put_back.put_back`, which also sends the message.

        Args:
            task: which one and which attempt, and the worker that has started it.
            message: of the next attempt, to be put into its queue in the same step; only if
                ``puts_messages``, and for a broker that has the same connection.

        Returns:
            ``False`` if that attempt is not STARTED by that worker, or has been revoked; nothing
            has changed then, and no message has been sent.
        """

    @abstractmethod
    async def conclude(
        self, task: Task, state: TaskState, error: str, result: bytes | None
    ) -> bool:
        """Record the end of a user's own task that no worker has started.

        Args:
            task: which one, and what is recorded of it if it is unknown.
            state: a final one.
            error: the reason, in one sentence; empty for a success.
            result: what :meth:`load_result` returns from then on.

        Returns:
            ``False`` if it is STARTED, has ended, or belongs to a run; nothing is recorded then.
        """

    @abstractmethod
    async def finish(self, task: Task, state: TaskState, error: str, result: bytes | None) -> bool:
        """Record the end of a task that ``task.worker`` started, and post it to the run's channel.

        Args:
            task: which one, and the worker that has started it.
            state: a final one.
            error: the reason, in one sentence; empty for a success.
            result: what :meth:`load_result` returns from then on.

        Returns:
            ``False`` if the task is not STARTED by that worker; nothing is recorded then.
        """

    @abstractmethod
    async def revoke(self, task_ids: Sequence[str], reason: str) -> dict[str, str]:
        """Make waiting tasks REVOKED, and unknown ones too, so that a late message is dropped.

        A STARTED task is marked, and its worker stops it.

        Returns:
            The worker of each task that was STARTED, by task id.
        """

    @abstractmethod
    async def tasks(self, task_ids: Sequence[str]) -> dict[str, Task]:
        """Return the records of these tasks, by id; unknown tasks are left out."""

    @abstractmethod
    async def beat(self, worker: Worker) -> list[str]:
        """Record a heartbeat; record again, as STARTED, tasks that it runs and that are unknown.

        Returns:
            The ids among ``worker.running`` that the worker must stop: they were revoked, or are
            not its own any more.
        """

    @abstractmethod
    async def deregister(self, worker_id: str) -> None:
        """Delete the record of a worker that ends."""

    @abstractmethod
    async def workers(self) -> list[Worker]:
        """Return all workers with a heartbeat within the last day, lost ones included, by name."""

    @abstractmethod
    async def post(self, channel: str, body: dict[str, Any]) -> None:
        """Add a notification to a channel, which keeps the last thousand or so."""

    @abstractmethod
    async def collect(self, channel: str, after: str, timeout: float) -> list[Notification]:
        """Return the notifications of a channel after a cursor.

        Waits up to ``timeout`` seconds for the first one.
        """

    @abstractmethod
    async def close_channel(self, channel: str) -> None:
        """Delete a channel that will not be read any more."""

    @abstractmethod
    async def load_result(self, task_id: str) -> bytes | None:
        """Return the stored JSON of a task's result, if it has one."""

    @abstractmethod
    async def store_progress(self, task_id: str, progress: bytes) -> None:
        """Keep the JSON of a task's progress for as long as there is a record of the task."""

    @abstractmethod
    async def load_progress(self, task_id: str) -> bytes | None:
        """Return the stored JSON of a task's progress, if it has one."""

    @abstractmethod
    async def forget(self, task_ids: Sequence[str]) -> None:
        """Delete the records and results of those of these tasks that have ended.

        A task that was forgotten may start again, if there is still a message of it.
        """

    def schedule_store(self) -> ScheduleStore | None:
        """Return where the server keeps schedules; ``None`` if it keeps none.

        It uses the connection of this backend.
        """
        return None

    async def sweep(self) -> None:
        """Delete records that have expired, if the server does not do that."""

    async def mark_lost(self, task: Task, error: str) -> bool:
        """Record that the worker of a STARTED task is lost; ``False`` if the task has ended."""
        return await self.finish(task, TaskState.LOST, error, None)

    async def set_result(self, task_id: str, result: TaskiqResult[Any]) -> None:
        """Record the end of a task (taskiq's own hook).

        It is that of a task that this process's worker started, if the result names that worker.
        The server decides whether the worker still owns the task. Any other result is the end of a
        task that nobody has started: so a pipeline of taskiq-pipelines that fails in the middle
        ends its last task.

        Retries in a worker for as long as the server is unavailable: a run waits for the end of its
        step.

        A result whose error says that there is none is not stored, as taskiq itself does not: the
        pipeline of a task that is tried again, or goes back to its queue, has not failed.
        """
        current = own_task(task_id)
        if isinstance(result.error, NoResultError):
            logger.debug("Task %s has not ended: its result is that there is none.", task_id)
        elif current is not None:
            await current.record_end(result)
        else:
            await self._set_result(task_id, result)

    @at_home
    async def _set_result(self, task_id: str, result: TaskiqResult[Any]) -> None:
        task = task_of(task_id, result.labels)
        stored: bytes | None = None
        if not task.run_id:  # the outcome of a step is in the event log; here is only its state
            result, stored = as_json(result)
        state, error = end_of(result)
        if task.worker:
            await self.record_end(task, state, error, stored)
            return
        concluding = (task, state, error, stored)
        if self.is_worker_process:
            what = f"store the end of task {task_id}"
            concluded = await until_available(lambda: self.conclude(*concluding), what)
        else:
            concluded = await self.conclude(*concluding)
        if not concluded:
            logger.warning(
                "Dropped a result of task %s that does not come from its worker: the task has "
                "started, has ended, or belongs to a run.",
                task_id,
            )

    async def record_end(
        self, task: Task, state: TaskState, error: str, result: bytes | None
    ) -> bool:
        """Record the end of a task as :meth:`finish`, however long the server is unavailable."""
        what = f"store the end of task {task.id}"
        if await until_available(lambda: self.finish(task, state, error, result), what):
            return True
        logger.warning("Dropped the result of task %s: it is no longer this worker's.", task.id)
        if task.loop_channel:
            # If its record was lost, the loop gets no other notification.
            body = end_notification(task, state)
            await until_available(lambda: self.post(task.loop_channel, body), what)
        return False

    @at_home
    async def is_result_ready(self, task_id: str) -> bool:
        """Return whether the task has ended (taskiq's own hook).

        A user's own task whose worker is found to be lost ends by this. What becomes of a task of a
        run is decided by the loop of the run.
        """
        task = await self._lookups.find(task_id)
        has_ended = task is not None and (task.state.is_final or await self._ends_lost(task))
        await result_waits.note(task_id, has_ended)
        return has_ended

    async def _ends_lost(self, task: Task) -> bool:
        """End a user's own task if its worker is lost; return whether it has ended."""
        if task.state is not TaskState.STARTED or task.run_id:
            return False
        reason = await self._lost_workers.why_lost(task.worker)
        return reason is not None and await self._end_lost(task, reason)

    @at_home
    async def stop(self, task_ids: Sequence[str], reason: str, at_once: bool) -> list[str]:
        """Revoke tasks, and have their workers stop those that run.

        Args:
            task_ids: the tasks.
            reason: for logs, and for the records of the tasks.
            at_once: what runs is killed, with no time to clean up.

        Returns:
            The ids of those that had started.
        """
        started = await self.revoke(task_ids, reason)
        for task_id, worker in started.items():
            body = command(Command.REVOKE, task=task_id, reason=reason, at_once=at_once)
            await self.post(worker_channel(worker), body)
        return list(started)

    @at_home
    async def end_lost(self, task_ids: Sequence[str]) -> None:
        """End those of these tasks that are users' own, and whose workers are lost.

        Waits for two heartbeats of a worker that seems lost, and for none else.
        """
        for task in (await self.tasks(task_ids)).values():
            if task.state is TaskState.STARTED and not task.run_id:
                reason = await self._lost_workers.confirm_lost(task.worker)
                if reason is not None:
                    await self._end_lost(task, reason)

    @at_home
    async def end_set_aside(self, task_id: str, reason: str, attempt: int | None) -> None:
        """Record that a user's own task has failed, whose message was set aside; tell who waits.

        A task of a run is left alone: its loop sends a step again, and run monitoring ends a run.

        Args:
            task_id: the id that is beside the message; empty if there is none.
            reason: why the message was set aside, to follow "It".
            attempt: which attempt of the task the message was for; ``None`` if it cannot be read.
        """
        known = (await self.tasks([task_id])).get(task_id) if task_id else None
        is_older = known is not None and attempt is not None and attempt != known.attempt
        if not task_id or is_step_task_id(task_id) or is_older:
            return
        text, stored = _set_aside(task_id, reason)
        await self.conclude(Task(task_id), TaskState.FAILURE, text, stored)

    @at_home
    async def forget_set_aside(self, task_ids: Sequence[str]) -> None:
        """Forget those of these tasks that have failed because their messages were set aside.

        They may start again then.
        """
        known = await self.tasks(task_ids)
        failed = [
            task.id
            for task in known.values()
            if task.state is TaskState.FAILURE and task.error.startswith(_SET_ASIDE.format(task.id))
        ]
        if failed:
            await self.forget(failed)

    async def end_started(self, task_id: str, worker: str, reason: str) -> None:
        """Record that a user's own task has failed, which was started as its message was claimed.

        Args:
            task_id: the id that is beside the message, which was set aside.
            worker: has claimed it.
            reason: why the message was set aside, to follow "It".
        """
        known = (await self.tasks([task_id])).get(task_id)
        if known is not None and known.worker == worker:
            text, stored = _set_aside(task_id, reason)
            await self.finish(known, TaskState.FAILURE, text, stored)

    async def end_reported_by_lost(self) -> None:
        """End the users' own tasks that lost workers have reported in their last heartbeats.

        A worker that is lost counts as such at the second of these calls.
        """
        for worker in await self._lost_workers.lost():
            own = [each.id for each in worker.running if not each.run_id]
            reason = await self._lost_workers.why_lost(worker.id) if own else None
            if reason is None:
                continue
            for task in (await self.tasks(own)).values():
                if (task.state, task.worker) == (TaskState.STARTED, worker.id):
                    await self._end_lost(task, reason)

    async def _end_lost(self, task: Task, reason: str) -> bool:
        if task.revoke_requested:
            has_ended = await self.finish(task, TaskState.REVOKED, task.error, None)
        else:
            has_ended = await self.mark_lost(task, reason)
        last = self._lost_workers.last_of_pipeline(task.worker, task.id)
        if has_ended and last and last != task.id:
            error = WorkerLostError(f"Step {task.id} of its pipeline is lost. {reason}")
            _, stored = as_json(failure(error))
            await self.conclude(Task(last), TaskState.FAILURE, str(error)[:LONGEST_REASON], stored)
        return has_ended

    @at_home
    async def set_progress(self, task_id: str, progress: TaskProgress[Any]) -> None:
        """Keep the progress of a task for as long as its record (taskiq's own hook).

        Raises:
            TypeError: it is not JSON.
        """
        try:
            stored = json.dumps(progress.model_dump(mode="json"))
        except (TypeError, ValueError) as error:
            raise TypeError(f"The progress of task {task_id} is not JSON: {error}") from None
        await self.store_progress(task_id, stored.encode())

    @at_home
    async def get_progress(self, task_id: str) -> TaskProgress[Any] | None:
        """Return the progress that a task has set; ``None`` if it has not (taskiq's own hook)."""
        stored = await self.load_progress(task_id)
        if stored is None:
            return None
        progress = TaskProgress[Any].model_validate(json.loads(stored))
        names = [each.value for each in ProgressState]
        if progress.state in names:
            progress.state = ProgressState(progress.state)
        return progress

    @at_home
    async def state_of(self, task_id: str) -> TaskState | None:
        """Return the state of a task on record; may be called on any event loop."""
        task = (await self.tasks([task_id])).get(task_id)
        return None if task is None else task.state

    @at_home
    async def get_result(self, task_id: str, with_logs: bool = False) -> TaskiqResult[Any]:
        """Return a task's result (taskiq's own hook); a revoked or lost task has an error.

        So has a task that succeeded, and whose result is not there any more. Steps and runs have no
        result.

        Raises:
            ResultGetError: the task has not ended, or is unknown.
            ResultUnreadableError: the stored result is not one, or names something to be called.
        """
        stored = await self.load_result(task_id)
        if stored is not None:
            try:
                return result_from_json(stored)
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


def _set_aside(task_id: str, reason: str) -> tuple[str, bytes | None]:
    """Return the reason and the result of a task whose message was set aside."""
    error = UnusableMessageError(f"{_SET_ASIDE.format(task_id)}: {reason}.")
    _, stored = as_json(failure(error))
    return str(error)[:LONGEST_REASON], stored


async def until_available(work: Callable[[], Awaitable[T]], what: str) -> T:
    """Do something that must not be lost, again and again while the server is unavailable.

    Args:
        work: what to do; may be done twice, if the answer of the server was lost.
        what: the same in words, for the log, to follow "Cannot".
    """
    delay, is_logged = WRITE_RETRY_SECONDS[0], False
    while True:
        try:
            return await work()
        except ServerUnavailableError as away:
            logger.log(
                logging.DEBUG if is_logged else logging.WARNING,
                "Cannot %s (%s). Trying again until that works.",
                what,
                away.problem,
            )
            is_logged = True
            await asyncio.sleep(delay)
            delay = min(delay * 2, WRITE_RETRY_SECONDS[1])


def task_of(task_id: str, labels: Mapping[str, Any]) -> Task:
    """Return what the labels of a message, or of a result, tell of its task, to record its end."""
    return Task(
        id=task_id,
        run_id=str(labels.get(RUN_LABEL, "")),
        step_key=str(labels.get(STEP_LABEL, "")),
        worker=str(labels.get(WORKER_LABEL, "")),
        attempt=attempt_of(labels),
    )


def end_of(result: TaskiqResult[Any]) -> tuple[TaskState, str]:
    """Return the state in which a task ends with a result, and the reason in one sentence."""
    if result.error is None and not result.is_err:
        return TaskState.SUCCESS, ""
    text = text_of(result.error) or type(result.error).__name__
    # Names of files may have what no server stores as text.
    text = text.encode(errors="backslashreplace").decode()
    if RUN_LABEL not in result.labels:
        text = text[:LONGEST_REASON]  # all of it is in the result
    if isinstance(result.error, TaskRevokedError):
        return TaskState.REVOKED, text
    if isinstance(result.error, ChildDiedError) and result.labels.get(STEP_LABEL):
        return TaskState.LOST, text
    return TaskState.FAILURE, text
