"""The schedules in the label ``schedule`` of tasks."""

import json
import logging
import uuid
from collections import Counter

from taskiq.schedule_sources import LabelScheduleSource
from taskiq.scheduler.scheduled_task import ScheduledTask

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.schedules import cron
from dagster_taskiq.schedules.modules import import_modules
from dagster_taskiq.transport.broker import QueueBroker

logger = logging.getLogger(__name__)

#: The ids of schedules are made with this.
_IDS = uuid.UUID("0c1f1d0e-3b0c-4c53-8c55-62b3f7a1b0de")


class LabelSchedules(LabelScheduleSource):
    """taskiq's own source, with the same ids in every process.

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
        await super().startup()
        chosen = {
            schedule["schedule_id"]
            for task in self.broker.get_all_tasks().values()
            for schedule in task.labels.get("schedule", [])
            if "schedule_id" in schedule
        }
        collected, self.schedules = list(self.schedules.values()), {}
        seen: Counter[str] = Counter()
        for schedule in collected:
            schedule_id = schedule.schedule_id
            if schedule_id not in chosen:
                what = _content(schedule)
                schedule_id = uuid.uuid5(_IDS, f"{seen[what]} {what}").hex
                seen[what] += 1
            self.schedules[schedule_id] = schedule.model_copy(update={"schedule_id": schedule_id})
            try:
                cron.check(schedule)
            except ConfigError as error:
                logger.error("%s", error)  # noqa: TRY400 - the text says it all


def _content(schedule: ScheduledTask) -> str:
    """Return what a schedule is, without its id."""
    return json.dumps(schedule.model_dump(exclude={"schedule_id"}), default=str, sort_keys=True)
