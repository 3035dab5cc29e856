"""Tasks with schedules in the code, for schedulers and workers that include this module."""

import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

from taskiq import Context, SmartRetryMiddleware, TaskiqDepends, TaskiqScheduler
from taskiq.schedule_sources import LabelScheduleSource

from compat_tests.user_tasks import say
from dagster_taskiq.app import broker, schedule_source

broker.add_middlewares(
    SmartRetryMiddleware(default_delay=0.2, schedule_source=schedule_source),
)

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


@broker.task
def good_at_third(
    path: str, context: Annotated[Context, TaskiqDepends()], number: int = 1
) -> list[object]:
    """Fail twice, and return what the third attempt was called with."""
    say(path, "tried")
    if len(Path(path).read_text().splitlines()) < 3:
        raise LookupError(path)
    labels = context.message.labels
    return [context.message.task_id, number, labels["mine"], int(labels["_retries"])]


#: What taskiq's documentation has, of which one may run at a time.
as_taskiqs_guide_has_it = TaskiqScheduler(broker, [LabelScheduleSource(broker)])
