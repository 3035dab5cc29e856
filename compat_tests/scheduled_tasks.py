"""Tasks with schedules in the code, for schedulers and workers that include this module."""

import os
from datetime import datetime, timezone
from typing import Annotated

from taskiq import Context, TaskiqDepends, TaskiqScheduler
from taskiq.schedule_sources import LabelScheduleSource

from compat_tests.user_tasks import say
from dagster_taskiq.app import broker, schedule_source

#: The file in which tasks say what they were.
NOTES = os.environ.get("SCHEDULED_TASKS_NOTES", os.devnull)


@broker.task(
    schedule=[
        {"interval": 1, "schedule_id": "each-second", "args": ["each-second"]},
        {"cron": "* * * * *", "args": ["each-minute"], "kwargs": {"number": 2}},
        {"time": "2001-02-03T04:05:06Z", "args": ["past"], "labels": {"priority": 3}},
    ]
)
def scheduled(name: str, context: Annotated[Context, TaskiqDepends()], number: int = 1) -> None:
    """Say by which schedule it was sent, and under which id."""
    say(NOTES, f"{name} {context.message.task_id} {number}")


@broker.task
async def plan(name: str) -> str:
    """Have the other task sent by the next scheduler that looks."""
    made = await scheduled.schedule_by_time(schedule_source, datetime.now(timezone.utc), name)
    return made.schedule_id


#: What taskiq's documentation has, of which one may run at a time.
as_taskiqs_guide_has_it = TaskiqScheduler(broker, [LabelScheduleSource(broker)])
