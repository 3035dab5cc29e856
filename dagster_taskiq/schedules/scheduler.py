"""taskiq's scheduler, of which several may run at once, and which survives an outage."""

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timezone
from functools import partial
from typing import Any

from taskiq import ScheduleSource, TaskiqScheduler
from taskiq.exceptions import ScheduledTaskCancelledError, SendTaskError
from taskiq.kicker import AsyncKicker
from taskiq.schedule_sources import LabelScheduleSource
from taskiq.scheduler.scheduled_task import ScheduledTask
from taskiq.utils import maybe_awaitable

from dagster_taskiq.errors import DagsterTaskiqError, ServerUnavailableError
from dagster_taskiq.schedules.due import firing_of, task_id_of
from dagster_taskiq.schedules.label_schedules import LabelSchedules
from dagster_taskiq.schedules.stored_schedules import StoredSchedules
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.connection import RECONNECT_SECONDS
from dagster_taskiq.transport.schedule_store import ScheduleStore
from dagster_taskiq.wire.firings import Claim, Firing

logger = logging.getLogger(__name__)

#: Seconds between two looks whether another scheduler has sent what it has claimed.
OTHERS_SECONDS = 1.0


class Scheduler(TaskiqScheduler):
    """Sends each firing of each schedule once, however many schedulers there are.

    The server of the backend decides who sends it. The task's id is that of the firing, unless the
    schedule has one, and a task starts once: also on a server that keeps no schedules, on which
    each scheduler sends its own message.

    While the servers do not answer, the first firing of each schedule waits for them; its later
    ones are left out. What was due while no scheduler ran is not made up for, except schedules of
    one time.
    """

    def __init__(self, broker: QueueBroker, sources: Sequence[ScheduleSource] = ()) -> None:
        """Make a scheduler; nothing is connected.

        Args:
            broker: where the tasks are sent.
            sources: the schedules. Without any: those in the labels of tasks, those that the
                backend keeps, and those of the broker's app.
        """
        mine = (LabelSchedules(broker), StoredSchedules(broker), *broker.schedule_sources)
        super().__init__(broker, list(sources or mine))
        self.broker: QueueBroker = broker
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"

    async def startup(self) -> None:
        """Connect, and wait until broker and backend answer (taskiq's own hook)."""
        # This process does nothing else.
        self.broker.use_running_loop()
        await _until_available(super().startup)
        await _until_available(self.broker.ping)
        if isinstance(self.broker.result_backend, StateBackend):
            await _until_available(self.broker.result_backend.ping)

    async def on_ready(self, source: ScheduleSource, task: ScheduledTask) -> None:
        """Send a firing, unless another scheduler does (taskiq's own hook)."""
        is_permanent = isinstance(source, LabelScheduleSource)
        firing = firing_of(task, datetime.now(timezone.utc), is_permanent=is_permanent)
        # A copy: the schedule is used again.
        once = task.model_copy(
            update={
                "task_id": task.task_id or task_id_of(firing),
                "args": list(task.args),
                "kwargs": dict(task.kwargs),
                "labels": dict(task.labels),
            }
        )
        try:
            await _until_available(partial(self._send, source, once, firing))
        except DagsterTaskiqError as error:
            text = "Cannot send %s of schedule %s: %s"
            logger.error(text, task.task_name, task.schedule_id, error)  # noqa: TRY400
        except Exception:
            logger.exception("Cannot send %s of schedule %s.", task.task_name, task.schedule_id)

    async def _send(self, source: ScheduleSource, task: ScheduledTask, firing: Firing) -> None:
        store = self._store()
        while store is not None:
            claim = await store.claim(firing, self.name)
            if claim is Claim.MINE:
                break
            if claim is Claim.SENT:
                return
            await asyncio.sleep(OTHERS_SECONDS)
        is_sent = await self._kick(source, task)
        if store is not None:
            await store.confirm(firing, self.name)
        logger.info(
            "%s %s of schedule %s, due at %s, as task %s.",
            "Sent" if is_sent else "Left out, as its source asks,",
            task.task_name,
            task.schedule_id,
            datetime.fromtimestamp(firing.due, timezone.utc).isoformat(),
            task.task_id,
        )

    async def _kick(self, source: ScheduleSource, task: ScheduledTask) -> bool:
        """Send a task as taskiq does; return whether its source wanted that.

        Raises:
            ServerUnavailableError: the broker does not answer, or the server of the source.
            ConfigError: a label cannot be used.
        """
        try:
            await maybe_awaitable(source.pre_send(task))
        except ScheduledTaskCancelledError:
            return False
        kicker: AsyncKicker[Any, Any] = AsyncKicker(task.task_name, self.broker, task.labels)
        kicker = kicker.with_labels(schedule_id=task.schedule_id).with_task_id(task.task_id)
        try:
            await kicker.kiq(*task.args, **task.kwargs)
        except SendTaskError as error:
            if isinstance(error.__cause__, DagsterTaskiqError):
                raise error.__cause__ from None
            raise
        await maybe_awaitable(source.post_send(task))
        return True

    def _store(self) -> ScheduleStore | None:
        backend = self.broker.result_backend
        return backend.schedule_store() if isinstance(backend, StateBackend) else None


async def _until_available(work: Callable[[], Awaitable[None]]) -> None:
    """Repeat a call until the server that it needs answers."""
    delay = RECONNECT_SECONDS[0]
    is_logged = False
    while True:
        try:
            await work()
            return
        except ServerUnavailableError as away:
            level = logging.DEBUG if is_logged else logging.WARNING
            logger.log(level, "%s Trying again until it answers.", away)
            is_logged = True
        await asyncio.sleep(delay)
        delay = min(delay * 2, RECONNECT_SECONDS[1])
