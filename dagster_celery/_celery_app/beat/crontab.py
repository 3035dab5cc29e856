"""Celery's kinds of schedules, for projects without Celery."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn

from dagster_taskiq.errors import ConfigError

#: A number, several, or a pattern such as ``*/15``, ``1,3-5`` or ``mon-fri``.
Spec = int | str | Iterable[int]

_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
#: The days that each month has at most.
_DAYS_IN_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass(frozen=True)
class _Field:
    """A field of a crontab: its name, its least and greatest number, and names of numbers."""

    name: str
    least: int
    greatest: int
    names: tuple[str, ...] = ()

    def numbers(self, spec: Spec) -> set[int]:
        """Return the numbers that a specification stands for.

        Raises:
            ValueError: it cannot be read, or a number is out of range.
        """
        if isinstance(spec, int):
            return {self._checked(spec)}
        if isinstance(spec, str):
            return {each for part in spec.split(",") for each in self._part(part.strip())}
        return {self._checked(int(each)) for each in spec}

    def _part(self, part: str) -> list[int]:
        span, slash, step = part.partition("/")
        if slash and (not step.isdigit() or int(step) == 0):
            raise ValueError(f"The {self.name} {part!r} of a crontab has no step after the slash.")
        return list(self._span(span))[:: int(step) if slash else 1]

    def _span(self, span: str) -> Iterator[int]:
        if span == "*":
            yield from range(self.least, self.greatest + 1)
            return
        first, dash, last = span.partition("-")
        start = self._number(first)
        end = self._number(last) if dash else start
        if start > end:  # over the end, as from Saturday to Monday
            yield from range(start, self.greatest + 1)
            start = self.least
        yield from range(start, end + 1)

    def _number(self, text: str) -> int:
        name = text.strip().lower()[:3]
        if name in self.names:
            return self.names.index(name) + self.least
        if not text.strip().isdigit():
            raise ValueError(f"The {self.name} {text!r} of a crontab is no number.")
        return self._checked(int(text))

    def _checked(self, number: int) -> int:
        if not self.least <= number <= self.greatest:
            raise ValueError(
                f"The {self.name} {number} of a crontab is not one of {self.least} to "
                f"{self.greatest}."
            )
        return number


_MINUTE, _HOUR = _Field("minute", 0, 59), _Field("hour", 0, 23)
_DAY_OF_WEEK = _Field("day_of_week", 0, 6, _WEEKDAYS)
_DAY_OF_MONTH = _Field("day_of_month", 1, 31)
_MONTH_OF_YEAR = _Field("month_of_year", 1, 12, _MONTHS)


class crontab:
    """When a periodic task is sent, as ``celery.schedules.crontab`` has it.

    Each attribute is a set of numbers; a time has to be in all of them.
    """

    def __init__(
        self,
        minute: Spec = "*",
        hour: Spec = "*",
        day_of_week: Spec = "*",
        day_of_month: Spec = "*",
        month_of_year: Spec = "*",
    ) -> None:
        """Make a crontab.

        Args:
            minute: 0 to 59.
            hour: 0 to 23.
            day_of_week: 0, for Sunday, to 6; or names.
            day_of_month: 1 to 31.
            month_of_year: 1 to 12; or names.

        Raises:
            ValueError: one of them cannot be read, or there is no such day in any year.
        """
        self.minute = _MINUTE.numbers(minute)
        self.hour = _HOUR.numbers(hour)
        self.day_of_week = _DAY_OF_WEEK.numbers(day_of_week)
        self.day_of_month = _DAY_OF_MONTH.numbers(day_of_month)
        self.month_of_year = _MONTH_OF_YEAR.numbers(month_of_year)
        longest = max(_DAYS_IN_MONTH[month - 1] for month in self.month_of_year)
        if min(self.day_of_month) > longest:
            raise ValueError(
                f"No month of the crontab (month_of_year={month_of_year!r}) has a day "
                f"{day_of_month!r}."
            )

    @classmethod
    def from_string(cls, text: str) -> "crontab":
        """Return the crontab for five fields: minute, hour, day of month, month, day of week.

        Raises:
            ValueError: there are not five, or one cannot be read.
        """
        minute, hour, day_of_month, month_of_year, day_of_week = text.split()
        return cls(minute, hour, day_of_week, day_of_month, month_of_year)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, crontab) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(tuple(map(frozenset, vars(self).values())))

    def __repr__(self) -> str:
        fields = (f"{name}={sorted(numbers)}" for name, numbers in vars(self).items())
        return f"crontab({', '.join(fields)})"


class schedule:
    """A schedule of a fixed interval, as ``celery.schedules.schedule`` has it."""

    def __init__(self, run_every: float | timedelta, relative: bool = False) -> None:
        """Make a schedule.

        Args:
            run_every: the interval, in seconds unless it has a unit of its own.
            relative: whether it is due at the beginnings of days, hours or minutes.
        """
        if not isinstance(run_every, timedelta):
            run_every = timedelta(seconds=run_every)
        self.run_every = run_every
        self.relative = relative


def solar(*_: object, **__: object) -> NoReturn:
    """Refuse a schedule by the sun.

    Raises:
        ConfigError: always.
    """
    raise ConfigError(NO_SUN)


#: Why schedules by the sun are refused.
NO_SUN = (
    "Schedules by the sun (solar) are not served here. Write a crontab for the earliest time, and "
    "let the task send its work with an `eta`; or use a sensor of Dagster's."
)
