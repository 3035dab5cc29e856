"""Recording that a task has started here: it is that record by which no task starts twice."""

import asyncio
import logging
import time
from weakref import WeakValueDictionary

from taskiq import TaskiqMessage
from taskiq.exceptions import NoResultError

from dagster_taskiq.errors import NoRecordError, NotPutBackYetError, ServerUnavailableError
from dagster_taskiq.transport.backend import WRITE_RETRY_SECONDS, StateBackend
from dagster_taskiq.wire.labels import QUEUE_LABEL, RUN_LABEL, STEP_LABEL, attempt_of
from dagster_taskiq.wire.records import Task, TaskState
from dagster_taskiq.wire.task_names import PACKED_ARGS
from dagster_taskiq.worker.internal_tasks import InternalTasks

logger = logging.getLogger(__name__)

#: How long a message waits here for the record that its task was put back, in seconds. The worker
#: that puts it back writes that a moment after it has sent the message.
PUT_BACK_SECONDS = 10.0


class TaskStarts:
    """The starts of tasks in one worker."""

    def __init__(self, backend: StateBackend, worker_id: str, internal: InternalTasks) -> None:
        self._backend = backend
        self._worker_id = worker_id
        self._internal = internal
        #: The attempt of each task that was started here and whose end is not on record yet.
        self._started: dict[str, int] = {}
        #: Held while the start of a task is being recorded.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def record(self, message: TaskiqMessage, *, with_claim: bool = False) -> TaskState | None:
        """Record the start of a task; of several deliveries of one task, that of one only.

        They take turns: while the backend is away, a message that comes again waits until it is
        known whether the first delivery has started the task. What was started here is not started
        again before its end is on record, even if the backend has lost the record of its start.

        Args:
            message: the task.
            with_claim: the start was recorded when the message was claimed, for this worker.

        Returns:
            ``None`` if the task may run now; else the state that forbids it.

        Raises:
            NoResultError: its record has been lost, and it cannot be found out now whether it has
                begun before; the message must come again.
        """
        task_id = message.task_id
        if with_claim and task_id not in self._locks:
            return self._note_started(message)  # nothing is awaited: no turns are needed
        lock = self._locks.get(task_id) or asyncio.Lock()
        self._locks[task_id] = lock
        async with lock:
            attempt = attempt_of(message.labels)
            if not with_claim and self._started.get(task_id, -1) < attempt:
                refused = await self._record(message)
                if refused is not None:
                    return refused
            return self._note_started(message)

    def _note_started(self, message: TaskiqMessage) -> TaskState | None:
        """Note that a task is started here; return STARTED if that attempt was so before."""
        attempt = attempt_of(message.labels)
        if self._started.get(message.task_id, -1) >= attempt:
            return TaskState.STARTED
        self._started[message.task_id] = attempt
        return None

    def note_ended(self, task_id: str, attempt: int) -> None:
        """Note that the end of a task is on record, or that it waits for its next attempt."""
        if self._started.get(task_id) == attempt:
            del self._started[task_id]

    async def _record(self, message: TaskiqMessage) -> TaskState | None:
        """Record the start; wait for the backend while it is away: no record, no start."""
        task = Task(
            id=message.task_id,
            name=message.task_name,
            queue=str(message.labels.get(QUEUE_LABEL) or self._backend.settings.queue),
            run_id=str(message.labels.get(RUN_LABEL, "")),
            step_key=str(message.labels.get(STEP_LABEL, "")),
            worker=self._worker_id,
            attempt=attempt_of(message.labels),
        )
        delay = WRITE_RETRY_SECONDS[0]
        in_doubt = False
        must_be_recorded = message.task_name in PACKED_ARGS
        give_up_at = time.monotonic() + PUT_BACK_SECONDS
        while True:
            try:
                refused = await self._backend.start(task, recorded=must_be_recorded)
                # A try that failed may have got through, then or later; the start is ours already.
                if in_doubt and refused is TaskState.STARTED:
                    known = (await self._backend.tasks([task.id])).get(task.id)
                    return None if known and known.worker == self._worker_id else refused
                return refused
            except ServerUnavailableError as error:
                logger.log(
                    logging.DEBUG if in_doubt else logging.WARNING,
                    "Cannot record the start of task %s (%s). Trying again until that works.",
                    task.id,
                    error.problem,
                )
                in_doubt = True
                await asyncio.sleep(delay)
                delay = min(delay * 2, WRITE_RETRY_SECONDS[1])
            except NotPutBackYetError as error:
                if time.monotonic() > give_up_at:
                    logger.warning("%s Its message is given back.", error)
                    raise NoResultError from None
                # If the worker of the attempt before is lost, the task ends by this look.
                await self._backend.is_result_ready(task.id)
                await asyncio.sleep(WRITE_RETRY_SECONDS[0])
            except NoRecordError as error:
                # Its sender has recorded it: it may have begun before that was lost.
                has_begun = await self._internal.has_begun(message)
                if has_begun is None:
                    raise NoResultError from None
                if has_begun:
                    logger.warning("%s The event log of its run shows that it has begun.", error)
                    return TaskState.STARTED
                must_be_recorded = False
