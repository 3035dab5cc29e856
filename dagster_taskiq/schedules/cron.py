"""Cron expressions that taskiq's scheduler would never find due, without a word."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone

from taskiq.cli.scheduler.run import CronValueError, is_cron_task_now
from taskiq.scheduler.scheduled_task import ScheduledTask

from dagster_taskiq.errors import ConfigError

#: The fields of an expression.
_FIELDS = ("minute", "hour", "day of month", "month", "day of week")
#: A Sunday.
_SUNDAY = datetime(2023, 1, 1, tzinfo=timezone.utc)


def check(schedule: ScheduledTask) -> None:
    """Check the cron expression of a schedule, if it has one.

    Raises:
        ConfigError: it is never due.
    """
    if schedule.cron is None:
        return
    fields = schedule.cron.split()
    place = f"The schedule {schedule.cron!r} of task {schedule.task_name} "
    if len(fields) != len(_FIELDS) or schedule.cron.count(" ") != len(_FIELDS) - 1:
        raise ConfigError(
            f"{place}must have five fields with one space between them: {', '.join(_FIELDS)}."
        )
    for name, value, times in zip(_FIELDS, fields, _times(), strict=True):
        expression = " ".join(value if name == each else "*" for each in _FIELDS)
        if not _is_ever(expression, times):
            raise ConfigError(
                f"{place}is never due: its {name} {value!r} is nothing that taskiq understands. "
                "Write numbers (days of the week by name too), lists, ranges, or */N."
            )
    _, _, day, month, weekday = fields
    if "*" not in (day, month) and not _is_ever(f"* * {day} {month} {weekday}", _eight_years):
        raise ConfigError(f"{place}is never due: there is no such day in that month.")
    if schedule.cron_offset is not None:
        try:
            is_cron_task_now("* * * * *", _SUNDAY, schedule.cron_offset)
        except Exception:  # whatever taskiq makes of a name that is none
            raise ConfigError(
                f"{place}is never due: {schedule.cron_offset!r} is no time zone. Write the name of "
                'one, such as "Europe/Berlin", or a timedelta from UTC.'
            ) from None


def _is_ever(expression: str, times: Callable[[], Iterator[datetime]]) -> bool:
    try:
        return any(is_cron_task_now(expression, each) for each in times())
    except (CronValueError, ZeroDivisionError):
        return False


def _eight_years() -> Iterator[datetime]:
    """Return each day of eight years, in which each date falls on each day of the week."""
    return (_SUNDAY + timedelta(days=each) for each in range(8 * 366))


def _times() -> tuple[Callable[[], Iterator[datetime]], ...]:
    """Return times with every value of each field."""
    return (
        lambda: (_SUNDAY + timedelta(minutes=each) for each in range(60)),
        lambda: (_SUNDAY + timedelta(hours=each) for each in range(24)),
        lambda: (_SUNDAY + timedelta(days=each) for each in range(31)),
        lambda: (_SUNDAY.replace(month=each + 1) for each in range(12)),
        lambda: (_SUNDAY + timedelta(days=each) for each in range(7)),
    )
