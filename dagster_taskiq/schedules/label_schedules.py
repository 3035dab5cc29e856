"""The schedules in the label ``schedule`` of tasks."""

import json
import logging
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from taskiq import AsyncTaskiqDecoratedTask
from taskiq.schedule_sources import LabelScheduleSource
from taskiq.scheduler.scheduled_task import ScheduledTask

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.schedules import cron
from dagster_taskiq.schedules.clock_changes import with_skipped
from dagster_taskiq.schedules.modules import import_modules
from dagster_taskiq.transport.broker import QueueBroker

logger = logging.getLogger(__name__)

#: The ids of schedules are made with this.
_IDS = uuid.UUID("0c1f1d0e-3b0c-4c53-8c55-62b3f7a1b0de")
#: What a schedule has, as taskiq names it, in addition to its id and labels.
_FIELDS = ("cron", "cron_offset", "interval", "time", "args", "kwargs")


class LabelSchedules(LabelScheduleSource):
    """As taskiq's own source, with the same ids in every process.

    A schedule without ``schedule_id`` gets one of what it is. So several schedulers have the same
    ones, and one that is started again knows what it has sent.
    """

    def __init__(self, broker: QueueBroker) -> None:
        super().__init__(broker)
        self._modules = broker.settings.include

    async def startup(self) -> None:
        """Import the modules of the setting ``include``, and collect the schedules of all tasks.

        Raises:
            ConfigError: a module cannot be imported.
        """
        import_modules(self._modules)
        self.schedules.clear()
        seen: Counter[str] = Counter()
        for task in self.broker.get_all_tasks().values():
            for schedule in _schedules_of(task, seen):
                self.schedules[schedule.schedule_id] = schedule
                try:
                    cron.check(schedule)
                except ConfigError as error:
                    logger.error("%s", error)  # noqa: TRY400 - the text says it all

    async def get_schedules(self) -> list[ScheduledTask]:
        """Return the schedules (taskiq's own hook)."""
        return with_skipped(self.schedules.values(), datetime.now(timezone.utc))


def _schedules_of(
    task: AsyncTaskiqDecoratedTask[Any, Any], seen: Counter[str]
) -> Iterator[ScheduledTask]:
    """Yield the schedules of a task.

    Args:
        task: the task.
        seen: how often there was a schedule of the same content before.
    """
    task_labels = {name: value for name, value in task.labels.items() if name != "schedule"}
    for given in task.labels.get("schedule", []):
        if not {"cron", "interval", "time"} & given.keys():
            continue
        schedule = ScheduledTask(
            task_name=task.task_name,
            labels={**given.get("labels", {}), **task_labels},
            **{
                "args": [],
                "kwargs": {},
                **{name: given[name] for name in _FIELDS if name in given},
            },
        )
        schedule_id = given.get("schedule_id")
        if schedule_id is None:
            what = _content(schedule)
            schedule_id = uuid.uuid5(_IDS, f"{seen[what]} {what}").hex
            seen[what] += 1
        yield schedule.model_copy(update={"schedule_id": schedule_id})


def _content(schedule: ScheduledTask) -> str:
    """Return what a schedule is, without its id."""
    return json.dumps(schedule.model_dump(exclude={"schedule_id"}), default=str, sort_keys=True)
