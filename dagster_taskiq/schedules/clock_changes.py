"""Times of cron schedules that the clocks of a time zone skip, or have twice.

A job of 2:30 each night is due at 3:30 on the day on which that hour is skipped, as by Celery and
by cron itself, and once on the day on which it comes twice. taskiq alone would leave it out, and
send it twice. Schedules of each hour are due by the time that passes.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from zoneinfo import ZoneInfo

from taskiq.cli.scheduler.run import CronValueError, is_cron_task_now
from taskiq.scheduler.scheduled_task import ScheduledTask

_MINUTE, _HOUR = timedelta(minutes=1), timedelta(hours=1)
#: How far ahead schedules are made for times that will be skipped.
_AHEAD = timedelta(hours=3)
#: What is added to the id of a schedule for the time that stands for one that is skipped.
_SKIPPED = ":skipped"


def with_skipped(schedules: Iterable[ScheduledTask], now: datetime) -> list[ScheduledTask]:
    """Return schedules, and those of one time for what the clocks will soon skip.

    Args:
        schedules: the schedules.
        now: the time, with a time zone.
    """
    found = []
    for each in schedules:
        found.append(each)
        if each.cron is not None and isinstance(each.cron_offset, str) and has_hours(each.cron):
            found.extend(_skipped_of(each, each.cron, each.cron_offset, now))
    return found


def schedule_id_of(schedule: ScheduledTask) -> str:
    """Return the id of the schedule that one stands for, or its own."""
    return schedule.schedule_id.removesuffix(_SKIPPED)


def has_hours(cron: str) -> bool:
    """Return whether a cron expression names hours."""
    return cron.split()[1:2] not in ([], ["*"])


def first_of_two(minute: datetime, zone: str) -> datetime:
    """Return the first time at which the clocks of a zone show what they show at a time."""
    local = minute.astimezone(ZoneInfo(zone))
    return local.replace(fold=0).astimezone(timezone.utc) if local.fold else minute


def _skipped_of(
    schedule: ScheduledTask, cron: str, zone: str, now: datetime
) -> Iterator[ScheduledTask]:
    try:
        gap = _gap(zone, now.replace(minute=0, second=0, microsecond=0))
    except (ValueError, OSError, LookupError):  # no such zone: taskiq warns of that
        return
    if gap is None:
        return
    begins, wall, minutes = gap
    for number in range(minutes):
        due = begins + number * _MINUTE
        try:
            is_due = is_cron_task_now(cron, wall + number * _MINUTE)
        except CronValueError:
            return
        if is_due and due > now - _MINUTE:
            yield schedule.model_copy(
                update={
                    "schedule_id": f"{schedule.schedule_id}{_SKIPPED}",
                    "cron": None,
                    "cron_offset": None,
                    "time": due,
                }
            )
            return  # as Celery: one for all times that are skipped


@lru_cache(maxsize=256)
def _gap(zone: str, hour: datetime) -> tuple[datetime, datetime, int] | None:
    """Return what the clocks of a zone will skip soon.

    Args:
        zone: its name.
        hour: the beginning of an hour, from which on to look.

    Returns:
        When they skip it, what they would show then, and how many minutes they skip.
    """
    local = ZoneInfo(zone)
    moment = hour - _HOUR
    while moment < hour + _AHEAD:
        after = moment + _MINUTE
        before, behind = (each.astimezone(local).utcoffset() for each in (moment, after))
        if before is not None and behind is not None and behind > before:
            wall = (after + before).replace(tzinfo=None)
            return after, wall, int((behind - before) / _MINUTE)
        moment = after
    return None
