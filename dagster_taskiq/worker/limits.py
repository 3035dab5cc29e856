"""How long a task may run, and how much a child may be used before it is replaced."""

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.wire.labels import (
    SOFT_TIME_LIMIT_LABEL,
    TIME_LIMIT_LABEL,
    TIMEOUT_LABEL,
    read_time,
)
from dagster_taskiq.worker.options import PoolOptions

#: A ``timeout`` that is shorter, or less than 0, counts as this many seconds.
SHORTEST_SECONDS = 0.001


@dataclass(frozen=True)
class TimeLimits:
    """How long one task may run, in seconds; 0 means that there is no limit."""

    #: Then it is killed.
    hard: float = 0.0
    #: Then it is stopped as a task that is cancelled, and has the kill grace to end.
    soft: float = 0.0

    @classmethod
    def of(
        cls, labels: Mapping[str, Any], options: PoolOptions, is_async: bool = False
    ) -> "TimeLimits":
        """Return the limits of a task: each is that of its own label, else that of the worker.

        Args:
            labels: those of its message.
            options: those of the worker.
            is_async: whether it is a coroutine. Then taskiq itself ends it at its ``timeout``, in
                its event loop; if it blocks that, it is killed after the kill grace.

        Raises:
            ConfigError: a label is not a number of seconds.
        """
        hard = read_time(labels, TIME_LIMIT_LABEL) or options.time_limit or 0.0
        soft = read_time(labels, SOFT_TIME_LIMIT_LABEL) or options.soft_time_limit or 0.0
        timeout = _timeout_of(labels)
        if timeout is not None and is_async:
            hard = min(hard or math.inf, timeout + options.kill_grace)
        elif timeout is not None:
            soft = min(soft or math.inf, timeout)
        return cls(hard, soft)

    @contextmanager
    def enforced(self, on_exceeded: Callable[[str, bool], None]) -> Iterator[None]:
        """Report when the block runs longer than a limit.

        Args:
            on_exceeded: called for each limit that is exceeded, with one sentence for the user, and
                with whether it is the hard one.
        """
        loop = asyncio.get_running_loop()
        timers = []
        if self.hard:
            text = f"It exceeded its time limit of {self.hard:g} s."
            timers.append(loop.call_later(self.hard, on_exceeded, text, True))
        if self.soft:
            text = f"It exceeded its soft time limit of {self.soft:g} s."
            timers.append(loop.call_later(self.soft, on_exceeded, text, False))
        try:
            yield
        finally:
            for timer in timers:
                timer.cancel()


def _timeout_of(labels: Mapping[str, Any]) -> float | None:
    """Return taskiq's label ``timeout``, if there is one: more than 0, as 0 stands for no limit.

    Raises:
        ConfigError: it is not a number.
    """
    value = labels.get(TIMEOUT_LABEL)
    if value is None:
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ConfigError(
            f'The label "{TIMEOUT_LABEL}" must be a number of seconds, but it is {value!r}.'
        )
    return max(seconds, SHORTEST_SECONDS)


def may_run_another(options: PoolOptions, tasks_done: int, resident_bytes: int) -> bool:
    """Return whether a child may be given another task.

    Args:
        options: its worker's, with the limits for a child.
        tasks_done: how many tasks it has run.
        resident_bytes: how much memory it holds after the last of them, in bytes.
    """
    most_tasks, most_bytes = options.max_tasks_per_child, options.max_memory_per_child
    if most_tasks is not None and tasks_done >= most_tasks:
        return False
    return most_bytes is None or resident_bytes <= most_bytes
