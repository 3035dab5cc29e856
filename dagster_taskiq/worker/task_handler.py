"""What a worker does with each message that taskiq gives it, from its start to its end."""

import asyncio
import logging
from typing import Any

from taskiq import Context, TaskiqMessage, TaskiqResult
from taskiq.acks import AckableMessage
from taskiq.exceptions import NoResultError
from taskiq.utils import maybe_awaitable

from dagster_taskiq.errors import (
    ChildDiedError,
    MiddlewareError,
    ServerUnavailableError,
    TaskCutShortError,
    TaskHandedOverError,
    TimeLimitError,
    UnusableMessageError,
)
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.wire.labels import POOL_LABEL, RUN_LABEL, WORKER_LABEL
from dagster_taskiq.wire.task_names import EXECUTE_PLAN, PACKED_RUN
from dagster_taskiq.worker import any_task
from dagster_taskiq.worker.internal_tasks import InternalTasks
from dagster_taskiq.worker.pool import Pool
from dagster_taskiq.worker.task_starts import TaskStarts
from dagster_taskiq.worker.wakeups import WakeUps

logger = logging.getLogger(__name__)


class TaskHandler:
    """Starts the tasks of one worker, has them run in its children, and sees to their ends."""

    def __init__(
        self,
        broker: QueueBroker,
        backend: StateBackend,
        pool: Pool,
        wake_ups: WakeUps,
        worker_id: str,
    ) -> None:
        """Have the broker's listener give every message to :meth:`run`.

        Args:
            broker: acknowledges messages, and takes back those that are not run here.
            backend: keeps the records of tasks.
            pool: runs the tasks.
            wake_ups: wakes the loops of runs.
            worker_id: by which the records name this worker.
        """
        self._broker = broker
        self._backend = backend
        self._pool = pool
        self._wake_ups = wake_ups
        self._worker_id = worker_id
        self._internal = InternalTasks(pool, worker_id)
        self._starts = TaskStarts(backend, worker_id, self._internal)
        self._takes_no_more = False
        broker.add_middlewares(any_task.AnyTaskMiddleware(self._note_saved))
        any_task.call_for_every_message(broker, self.run)

    def take_no_more(self) -> None:
        """Give back every message that is still delivered, from now on."""
        self._takes_no_more = True

    async def finish(self) -> None:
        """Wait until what is done for tasks that have ended is done, for a limited time."""
        await self._internal.finish()

    async def run(self, context: Context) -> Any:
        """Run the task that a message names: record its start, acknowledge, give it to a child.

        Raises:
            NoResultError: it does not run here: it was delivered twice, revoked or given back.
            TaskRevokedError: it was stopped, or has expired.
            TimeLimitError: it ran longer than it may.
            ChildDiedError: its process died.
        """
        message = context.message
        any_task.restore_name(message)
        if self._takes_no_more:
            self._pool.slots.release_reservation(message.task_id)
            await self._broker.give_back(message.task_id)
            raise NoResultError
        try:
            refused = await self._starts.record(message)
        except Exception:
            # It is not known whether the start is on record. It is not run here; if the start is
            # not on record, the message comes again.
            self._pool.slots.release_reservation(message.task_id)
            raise
        if refused is not None:
            self._pool.slots.release_reservation(message.task_id)
            logger.info("Dropped task %s: it is %s.", message.task_id, refused.value)
            await context.ack()
            raise NoResultError
        message.labels[WORKER_LABEL] = self._worker_id
        # The start is on record: nothing waits for the acknowledgement any more.
        acknowledged = asyncio.ensure_future(self._acknowledge(context))
        try:
            result = await self._run_in_pool(message)
        finally:
            await acknowledged
        if result.error is not None:
            raise result.error
        return result.return_value

    async def refuse(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        """Record that a task cannot run, because taskiq cannot use its message.

        Args:
            message: the task; its function was not called.
            result: what taskiq reports of it; it is made to be a result of this worker's.
        """
        any_task.restore_name(message)
        if await self._starts.record(message) is None:
            text = f"The message of the task cannot be used: {result.error}"
            result.error = UnusableMessageError(text)
            result.labels = {**message.labels, WORKER_LABEL: self._worker_id}
        else:
            result.error = NoResultError()
        self._pool.slots.release_reservation(message.task_id)

    async def fail(self, delivered: AckableMessage, error: Exception) -> None:
        """Record that a task cannot run or end here, because a middleware raised ``error``."""
        message = self._broker.formatter.loads(delivered.data)
        message.parse_labels()
        # It may have started before. Whether the result counts is decided by ``set_result``.
        await self._starts.record(message)
        text = f"A middleware of the worker raised {type(error).__name__}: {error}"
        result: TaskiqResult[Any] = TaskiqResult(
            is_err=True,
            return_value=None,
            execution_time=0.0,
            labels={**message.labels, WORKER_LABEL: self._worker_id},
            error=MiddlewareError(text),
        )
        await self._backend.set_result(message.task_id, result)
        self._note_saved(message, result)
        self._pool.slots.release_reservation(message.task_id)
        await maybe_awaitable(delivered.ack())

    async def _run_in_pool(self, message: TaskiqMessage) -> TaskiqResult[Any]:
        """Run a task in a child; if it is a run whose process cannot end it in Dagster, do that."""
        worker = f"Worker {self._pool.worker_name}"
        try:
            return await self._pool.run(message)
        except ChildDiedError as error:
            await self._internal.finalize_run(message, str(error))
            raise
        except TaskHandedOverError as error:
            if message.task_name not in PACKED_RUN:
                raise  # the loop of its run sends the next one
            reason = str(error).rstrip(".")
            successor = await self._internal.hand_over_run(message)
            if successor is None:
                await self._internal.finalize_run(message, f"{worker} stopped the run: {reason}.")
                raise
            end = f"task {successor} goes on with the run" if successor else "the run has ended"
            raise TaskHandedOverError(f"{reason}; {end}.") from None
        except TaskCutShortError as error:
            reason = str(error).rstrip(".")
            await self._internal.finalize_run(message, f"{worker} stopped the run: {reason}.")
            raise
        except TimeLimitError as error:
            await self._internal.finalize_run(message, f"{worker} stopped the run. {error}")
            raise

    async def _acknowledge(self, context: Context) -> None:
        try:
            await context.ack()
        except ServerUnavailableError as error:
            # It will be delivered again, and dropped then, since its start is on record.
            logger.warning("Could not acknowledge task %s: %s", context.message.task_id, error)

    def _note_saved(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        self._starts.note_ended(message.task_id)
        if result.is_err and message.task_name == EXECUTE_PLAN and POOL_LABEL in message.labels:
            self._internal.free_step(message)
        # With the end of a task on record, the loop of its run has a notification, and wakes.
        self._wake_ups.note_woken(str(message.labels.get(RUN_LABEL, "")))
