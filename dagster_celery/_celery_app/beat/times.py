"""Celery's schedules as those of taskiq."""

import math
import os
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from dagster_celery._celery_app.beat.crontab import NO_SUN
from dagster_celery._warnings import warn_of_loss
from dagster_taskiq.errors import ConfigError

#: Celery's settings by name.
AppSettings = Mapping[str, Any]

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
#: The sets of numbers that a crontab has, in the order of a cron expression, with the least number
#: and how many there are.
_FIELDS = (
    ("minute", 0, 60),
    ("hour", 0, 24),
    ("day_of_month", 1, 31),
    ("month_of_year", 1, 12),
    ("day_of_week", 0, 7),
)
#: An item of a list that is never met, and has an asterisk. Where days of the month and of the week
#: are both given, taskiq takes either one, unless there is an asterisk; Celery asks for both.
_BOTH = ",0/*"
#: Where the system's time zone is, as a link to a file of that name.
_LOCAL_TIME = Path("/etc/localtime")


def when(
    schedule: Any, settings: AppSettings, place: str, *, relative: bool = False
) -> dict[str, Any]:
    """Return when a periodic task is due, as arguments of taskiq's ``ScheduledTask``.

    Args:
        schedule: a number of seconds, a ``timedelta``, or an object of ``celery.schedules`` or
            ``dagster_celery.schedules``.
        settings: those of the app, by Celery's names, for its time zone.
        place: the entry that has the schedule, for warnings and errors.
        relative: whether it is due at the beginnings of days, hours or minutes.

    Raises:
        ConfigError: the schedule is of another kind, or its interval is not more than 0.
    """
    if all(hasattr(schedule, name) for name, _, _ in _FIELDS):
        return _in_zone(_cron(schedule), settings)
    every = getattr(schedule, "run_every", schedule)
    relative = relative or bool(getattr(schedule, "relative", False))
    if isinstance(every, timedelta):
        every = every.total_seconds()
    if isinstance(every, int | float) and not isinstance(every, bool):
        return _interval(float(every), settings, place, relative)
    if type(schedule).__name__ == "solar":
        raise ConfigError(f"{place}: {NO_SUN}")
    raise ConfigError(
        f"{place}: a schedule of type {type(schedule).__name__} is not served here. Write seconds, "
        "a timedelta, or a crontab."
    )


def _cron(crontab: Any) -> str:
    fields = [_list(getattr(crontab, name), least, count) for name, least, count in _FIELDS]
    if "*" not in (fields[2], fields[4]):
        fields[4] += _BOTH
    return " ".join(fields)


def _list(numbers: Iterable[int], least: int, count: int) -> str:
    given = sorted(set(numbers))
    return "*" if given == list(range(least, least + count)) else ",".join(map(str, given))


def _interval(seconds: float, settings: AppSettings, place: str, relative: bool) -> dict[str, Any]:
    whole = max(1, math.ceil(seconds))
    if not 0 < seconds < math.inf:
        raise ConfigError(f"{place}: the interval must be more than 0, but it is {seconds:g} s.")
    if whole != seconds:
        warn_of_loss(
            f"{place}: the interval of {seconds:g} s becomes {whole} s here, since schedules are "
            "looked at once a second."
        )
    if not relative:
        return {"interval": whole}
    cron = _aligned(whole)
    if cron is None:
        warn_of_loss(
            f'{place}: "relative" has no effect here for an interval of {whole} s. Write a crontab.'
        )
        return {"interval": whole}
    return _in_zone(cron, settings)


def _aligned(seconds: int) -> str | None:
    """Return the cron expression for an interval that divides an hour, a day or is one."""
    if seconds % _MINUTE == 0 and _HOUR % seconds == 0:
        return f"*/{seconds // _MINUTE} * * * *" if seconds < _HOUR else "0 * * * *"
    if seconds % _HOUR == 0 and _DAY % seconds == 0:
        return f"0 */{seconds // _HOUR} * * *" if seconds < _DAY else "0 0 * * *"
    return None


def _in_zone(cron: str, settings: AppSettings) -> dict[str, Any]:
    zone = settings.get("timezone")
    if zone is None and settings.get("enable_utc") is False:
        zone = _local_zone()
    return {"cron": cron} if zone is None else {"cron": cron, "cron_offset": str(zone)}


def _local_zone() -> str | None:
    """Return the name of this machine's time zone; ``None`` if it has none, and so is in UTC."""
    named = os.environ.get("TZ", "").removeprefix(":")
    if not named:
        named = str(_LOCAL_TIME.resolve()).partition("zoneinfo/")[2]
    try:
        return str(ZoneInfo(named))
    except (ValueError, OSError, KeyError):
        return None
