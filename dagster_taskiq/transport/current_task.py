"""The user's own task that is executed now, as broker and backend need to know it.

taskiq's middlewares and ``Context.requeue`` send a task again under its own id, and taskiq's
receiver gives the end of a task to the result backend, all in the process that executes the task.
But only the worker that owns the task may put it back or record its end. So broker and backend ask
here first, and give what concerns the current task to whatever executes it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from taskiq import BrokerMessage, TaskiqResult


class OwnTask(Protocol):
    """A user's own task while taskiq's life cycle of it goes on."""

    @property
    def task_id(self) -> str:
        """Its id."""

    def keep(self, message: BrokerMessage) -> None:
        """Keep a message by which it is to be executed again, until this execution has ended."""

    async def record_end(self, result: TaskiqResult[Any]) -> None:
        """Return when its end is on record."""


_current: ContextVar[OwnTask | None] = ContextVar("dagster_taskiq_own_task", default=None)


@contextmanager
def executing_own_task(task: OwnTask) -> Iterator[None]:
    """Let a task be the current one inside the block, and in what is started there."""
    token = _current.set(task)
    try:
        yield
    finally:
        _current.reset(token)


def current_own_task() -> OwnTask | None:
    """Return the current task, if there is one."""
    return _current.get()


def own_task(task_id: str) -> OwnTask | None:
    """Return the current task if it has this id, else ``None``."""
    current = _current.get()
    return current if current is not None and current.task_id == task_id else None
