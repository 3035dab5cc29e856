"""What a worker does with each message that taskiq gives it, from its start to its end."""

import asyncio
import logging
import time
from contextlib import suppress
from functools import partial
from typing import Any

from taskiq import TaskiqMessage, TaskiqResult
from taskiq.exceptions import NoResultError

from dagster_taskiq.errors import (
    ChildDiedError,
    DagsterTaskiqError,
    ServerUnavailableError,
    TaskCutShortError,
    TaskHandedOverError,
    TaskRevokedError,
    TimeLimitError,
)
from dagster_taskiq.execution.task_context import executing
from dagster_taskiq.transport.backend import StateBackend, task_of, until_available
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.put_back import put_back
from dagster_taskiq.transport.results import PutBack, ReportedEnd, failure
from dagster_taskiq.wire.labels import POOL_LABEL, RUN_LABEL, WORKER_LABEL, attempt_of
from dagster_taskiq.wire.records import Task
from dagster_taskiq.wire.task_names import EXECUTE_PLAN, PACKED_RUN
from dagster_taskiq.worker.activity import Activity, Execution
from dagster_taskiq.worker.any_task import call_for_every_message
from dagster_taskiq.worker.internal_tasks import InternalTasks
from dagster_taskiq.worker.pool import Pool
from dagster_taskiq.worker.running_task import EndReports, Recorded, TaskEnd
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
        activity: Activity,
        worker_id: str,
    ) -> None:
        """Have the broker's listener give every message to :meth:`handle`.

        Args:
            broker: acknowledges messages, and takes back those that are not run here.
            backend: keeps the records of tasks.
            pool: runs the tasks.
            wake_ups: wakes the loops of runs.
            activity: is told of each start and end.
            worker_id: by which the records name this worker.
        """
        self._broker = broker
        self._backend = backend
        self._pool = pool
        self._wake_ups = wake_ups
        self._activity = activity
        self._worker_id = worker_id
        self._internal = InternalTasks(pool, worker_id)
        self._starts = TaskStarts(backend, worker_id, self._internal)
        self._takes_no_more = False
        #: Tasks that have ended without the middlewares, which are to be told.
        self._not_observed: set[str] = set()
        call_for_every_message(broker, self.handle)

    def take_no_more(self) -> None:
        """Give back every message that is still delivered, from now on."""
        self._takes_no_more = True

    async def finish(self) -> None:
        """Wait until what is done for tasks that have ended is done, for a limited time."""
        await self._internal.finish()

    async def handle(self, message: TaskiqMessage) -> None:
        """Run the task that a message names, and record its end, be it a value or an error."""
        began = time.monotonic()
        end: TaskiqResult[Any] | ReportedEnd
        try:
            end = await self.run(message)
        except NoResultError:
            return
        except BaseException as error:  # whatever it is, the task has ended
            if not isinstance(error, DagsterTaskiqError):
                logger.exception("Task %s could not be run.", message.task_id)
            end = failure(error, message.labels, round(time.monotonic() - began, 2))
        try:
            await self._record_end(message, end)
        except Exception:
            logger.exception("The end of task %s could not be recorded.", message.task_id)
            return
        self._note_saved(message, end)

    async def run(self, message: TaskiqMessage) -> TaskiqResult[Any] | ReportedEnd:
        """Run the task that a message names: record its start, acknowledge, give it to a child.

        Returns:
            How it has ended, which is to be recorded.

        Raises:
            NoResultError: it does not run here: it was delivered twice, revoked or given back. Or
                its end is on record already, or it waits again.
            TaskRevokedError: it was stopped, or has expired.
            TimeLimitError: it ran longer than it may.
            ChildDiedError: its process died.
        """
        with executing(message):  # for the fields of the log
            if self._takes_no_more:
                self._pool.slots.release_reservation(message.task_id)
                with suppress(ServerUnavailableError):  # it is tried again when the worker ends
                    await self._broker.listener.give_back(message.task_id)
                raise NoResultError
            with_claim = self._broker.listener.was_started(message.task_id)
            await self._record_start(message, with_claim=with_claim)
            return await self._run_started(message, with_claim=with_claim)

    async def _record_start(self, message: TaskiqMessage, *, with_claim: bool) -> None:
        """Record that a task starts here, unless that was done as its message was claimed.

        Raises:
            NoResultError: it must not start, or it is not known whether it may.
        """
        try:
            refused = await self._starts.record(message, with_claim=with_claim)
        except Exception as error:
            # It is not known whether the start is on record. It is not run here; if the start is
            # not on record, the message comes again.
            self._pool.slots.release_reservation(message.task_id)
            if isinstance(error, DagsterTaskiqError):
                logger.error("Task %s is not started: %s", message.task_id, error)  # noqa: TRY400
            raise
        if refused is not None:
            self._pool.slots.release_reservation(message.task_id)
            logger.info("Dropped task %s: it is %s.", message.task_id, refused.value)
            await self._acknowledge(message.task_id)
            raise NoResultError

    async def _run_started(
        self, message: TaskiqMessage, *, with_claim: bool
    ) -> TaskiqResult[Any] | ReportedEnd:
        """Run a task whose start is on record.

        Raises:
            Exception: as :meth:`run`.
        """
        message.labels[WORKER_LABEL] = self._worker_id
        acknowledged: asyncio.Future[None] | None = None
        if with_claim:
            await self._acknowledge(message.task_id)  # it does not talk to the server
        else:
            # The start is on record: nothing waits for the acknowledgement any more.
            acknowledged = asyncio.ensure_future(self._acknowledge(message.task_id))
        execution = self._activity.started(message)
        try:
            end = await self._run_in_pool(message, execution)
        except Exception as error:
            execution.has_raised(error)
            goes_on = isinstance(error, TaskHandedOverError)
            if self._pool.has_hooks and not (execution.has_reported or goes_on):
                self._not_observed.add(message.task_id)
            raise
        finally:
            if acknowledged is not None:
                await acknowledged
        execution.has_ended(end)
        return await self._ended(message, end)

    async def _ended(self, message: TaskiqMessage, end: TaskEnd) -> TaskiqResult[Any] | ReportedEnd:
        """Return what is to be recorded of a task that has ended.

        Raises:
            NoResultError: nothing: its end is on record already, or it waits again.
        """
        if isinstance(end, PutBack):
            await self._put_back(message, end)
            raise NoResultError
        if isinstance(end, Recorded):
            self._note_saved(message, end.result)
            raise NoResultError
        return end

    async def _run_in_pool(self, message: TaskiqMessage, execution: Execution) -> TaskEnd:
        """Run a task in a child; if it is a run whose process cannot end it in Dagster, do that."""
        worker = f"Worker {self._pool.worker_name}"
        record_end = partial(self._record_end, message)
        reports = EndReports(record_end, execution.note_outcome, execution.note_report)
        try:
            return await self._pool.run(message, reports)
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
            await self._internal.finalize_run(
                message, f"{worker} stopped the run. {error}", may_resume=False
            )
            raise

    async def _record_end(
        self, message: TaskiqMessage, end: TaskiqResult[Any] | ReportedEnd
    ) -> None:
        """Return when the end of a task is on record, however long the backend is unavailable."""
        if isinstance(end, ReportedEnd):
            task = task_of(message.task_id, message.labels)
            await self._backend.record_end(task, end.state, end.error, end.result)
        else:
            await self._backend.set_result(message.task_id, self._labelled(message, end))

    async def _put_back(self, message: TaskiqMessage, put: PutBack) -> None:
        """Have a task wait again that has ended without a result; if it was revoked, end it."""
        attempt = attempt_of(message.labels)
        task = Task(message.task_id, worker=self._worker_id, attempt=attempt)
        what = f"put back task {task.id}"
        if put.message is None:
            waits = await until_available(lambda: self._backend.put_back(task, None), what)
        else:
            outgoing = self._broker.outgoing(put.message)
            waits = await put_back(self._broker, self._backend, task, outgoing)
        self._starts.note_ended(task.id, attempt)
        if waits:
            return
        known = (await until_available(lambda: self._backend.tasks([task.id]), what)).get(task.id)
        if known is not None and known.revoke_requested:
            result = failure(TaskRevokedError(known.error))
            await self._backend.set_result(task.id, self._labelled(message, result))
            self._note_saved(message, result)

    def _labelled(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> TaskiqResult[Any]:
        """Let a result have the labels by which the backend knows this worker's task."""
        result.labels = {**result.labels, **message.labels}
        return result

    async def _acknowledge(self, task_id: str) -> None:
        """Delete the message of a task whose record has it as started, or forbids that it starts.

        Whatever the broker answers, the task is not affected: a message that stays is delivered
        again, and dropped then because of that record.
        """
        try:
            await self._broker.listener.acknowledge(task_id)
        except Exception as error:
            unknown = not isinstance(error, DagsterTaskiqError)
            logger.warning(
                "Could not acknowledge task %s, whose message may come again: %s",
                task_id,
                error,
                exc_info=unknown,
            )

    def _note_saved(self, message: TaskiqMessage, end: TaskiqResult[Any] | ReportedEnd) -> None:
        self._starts.note_ended(message.task_id, attempt_of(message.labels))
        if isinstance(end, TaskiqResult):
            if message.task_id in self._not_observed:
                self._not_observed.discard(message.task_id)
                self._internal.observe_end(message, end)
            if end.is_err and message.task_name == EXECUTE_PLAN and POOL_LABEL in message.labels:
                self._internal.free_step(message)
        # With the end of a task on record, the loop of its run has a notification, and wakes.
        self._wake_ups.note_woken(str(message.labels.get(RUN_LABEL, "")))
