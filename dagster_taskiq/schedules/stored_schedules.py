"""The schedules that are made while a project runs, kept by the backend's server."""

import logging
from collections.abc import Callable, Coroutine
from datetime import datetime, timezone
from functools import partial
from typing import Any, TypeVar

from pydantic import ValidationError
from taskiq import ScheduleSource
from taskiq.scheduler.scheduled_task import ScheduledTask

from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.schedules import cron
from dagster_taskiq.schedules.clock_changes import with_skipped
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.schedule_store import ScheduleStore, keeps_none

T = TypeVar("T")

logger = logging.getLogger(__name__)


class StoredSchedules(ScheduleSource):
    """A source for ``task.schedule_by_cron``, ``schedule_by_interval`` and ``schedule_by_time``.

    A schedule is JSON, as messages are. Id, labels and task id stay as they were given.
    """

    def __init__(self, broker: QueueBroker) -> None:
        self.broker = broker
        #: What was read last, for the time in which the server does not answer.
        self._last: list[ScheduledTask] = []

    async def add_schedule(self, schedule: ScheduledTask) -> None:
        """Keep a schedule, in place of the one with its id if there is one.

        Raises:
            ConfigError: the backend keeps no schedules, or this one is never due.
            ServerUnavailableError: the backend does not answer.
        """
        cron.check(schedule)
        await self._call(lambda store: store.put(schedule.schedule_id, schedule.model_dump_json()))

    async def delete_schedule(self, schedule_id: str) -> None:
        """Delete a schedule, if there is one with this id.

        Raises:
            ConfigError: the backend keeps no schedules.
            ServerUnavailableError: the backend does not answer.
        """
        await self._call(lambda store: store.delete(schedule_id))

    async def get_schedules(self) -> list[ScheduledTask]:
        """Return all schedules; those of the last time while the server does not answer."""
        if self._backend is None or self._backend.schedule_store() is None:
            return []
        try:
            bodies = await self._call(lambda store: store.bodies())
        except ServerUnavailableError as error:
            logger.warning("The schedules cannot be read again yet (%s).", error.problem)
            return with_skipped(self._last, datetime.now(timezone.utc))
        self._last = [each for body in bodies if (each := _read(body)) is not None]
        return with_skipped(self._last, datetime.now(timezone.utc))

    async def post_send(self, task: ScheduledTask) -> None:
        """Delete a schedule of one time that was sent."""
        if task.time is not None and task.cron is None and task.interval is None:
            await self.delete_schedule(task.schedule_id)

    @property
    def _backend(self) -> StateBackend | None:
        backend = self.broker.result_backend
        return backend if isinstance(backend, StateBackend) else None

    async def _call(self, work: Callable[[ScheduleStore], Coroutine[Any, Any, T]]) -> T:
        """Use the store, on whichever event loop this is called."""
        backend = self._backend
        store = backend.schedule_store() if backend is not None else None
        if backend is None or store is None:
            raise keeps_none(self.broker.settings.backend_url)
        return await backend.home.run(partial(work, store))


def _read(body: str) -> ScheduledTask | None:
    try:
        return ScheduledTask.model_validate_json(body)
    except ValidationError as error:
        # Without the traceback, which shows what is in it.
        logger.error("Passed over a schedule that cannot be read: %s", error.title)  # noqa: TRY400
        return None
