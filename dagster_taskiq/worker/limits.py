"""How long a task may run, and how much a child may be used before it is replaced."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dagster_taskiq.wire.labels import SOFT_TIME_LIMIT_LABEL, TIME_LIMIT_LABEL, read_time
from dagster_taskiq.worker.options import PoolOptions


@dataclass(frozen=True)
class TimeLimits:
    """How long one task may run, in seconds; 0 means that there is no limit."""

    #: Then it is killed.
    hard: float = 0.0
    #: Then it is stopped as a task that is cancelled, and has the kill grace to end.
    soft: float = 0.0

    @classmethod
    def of(cls, labels: Mapping[str, Any], options: PoolOptions) -> "TimeLimits":
        """Return the limits of a task: each is that of its own label, else that of the worker.

        Raises:
            ConfigError: a label is not a number of seconds.
        """
        return cls(
            hard=read_time(labels, TIME_LIMIT_LABEL) or options.time_limit or 0.0,
            soft=read_time(labels, SOFT_TIME_LIMIT_LABEL) or options.soft_time_limit or 0.0,
        )

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
