"""When a schedule is due, in a way that all schedulers have the same answer."""

import uuid
from datetime import datetime, timedelta, timezone

from taskiq.cli.scheduler.run import CronValueError, is_cron_task_now
from taskiq.scheduler.scheduled_task import ScheduledTask

from dagster_taskiq.schedules.clock_changes import first_of_two, has_hours
from dagster_taskiq.wire.firings import Firing

#: Seconds for which a firing is remembered, in addition to an interval: more than the clocks of two
#: schedulers may differ, and than a process is frozen.
KEEP_SECONDS = 86400.0
#: The ids of tasks that schedules send are made with this.
_IDS = uuid.UUID("5d8f5b5e-6f57-4f0e-9d0b-6f3f3d1c5a55")
_MINUTE = timedelta(minutes=1)


def firing_of(schedule: ScheduledTask, now: datetime, *, is_permanent: bool) -> Firing:
    """Return the firing of a schedule that a scheduler has found to be due.

    - ``cron`` is due at the beginning of a minute; once if its hour comes twice.
    - ``interval`` is due once in each of the intervals into which time is divided since the epoch,
      whenever a scheduler has started.
    - ``time`` is due at that time.

    Args:
        schedule: the schedule.
        now: when it was found to be due, with a time zone.
        is_permanent: whether a schedule of one ``time`` stays after that, such as one in the code,
            so that it must be remembered for ever that it was sent.
    """
    key = schedule.schedule_id
    if schedule.cron is not None and (minute := _minute_of(schedule, now)) is not None:
        return Firing(key, minute.timestamp(), KEEP_SECONDS)
    if schedule.interval is not None:
        interval = schedule.interval
        seconds = int(interval.total_seconds() if isinstance(interval, timedelta) else interval)
        # A scheduler looks at whole seconds, or a moment before or after.
        due = round(now.timestamp()) // seconds * seconds
        return Firing(key, float(due), KEEP_SECONDS + 2 * seconds)
    if schedule.time is not None:
        due_at = schedule.time
        if due_at.tzinfo is None:  # as taskiq reads it
            due_at = due_at.replace(tzinfo=timezone.utc)
        due_seconds = due_at.timestamp()
        keep = 0.0 if is_permanent else KEEP_SECONDS
        return Firing(f"{key}@{due_seconds!r}", due_seconds, keep)
    return Firing(key, float(int(now.timestamp())), KEEP_SECONDS)


def task_id_of(firing: Firing) -> str:
    """Return the id of the task that a firing sends, so that it starts only once."""
    return uuid.uuid5(_IDS, f"{firing.key} {firing.due!r}").hex


def _minute_of(schedule: ScheduledTask, now: datetime) -> datetime | None:
    """Return the minute for which a cron expression is due.

    It may be the one before: of a minute's last second, the scheduler may come too late to this.
    """
    this = now.replace(second=0, microsecond=0)
    for minute in (this, this - _MINUTE):
        try:
            if is_cron_task_now(schedule.cron or "", minute, schedule.cron_offset):
                if isinstance(schedule.cron_offset, str) and has_hours(schedule.cron or ""):
                    return first_of_two(minute, schedule.cron_offset)
                return minute
        except CronValueError:
            return None
    return None
