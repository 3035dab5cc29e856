"""The context in which a task is executed: its message, and its worker."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from taskiq import TaskiqMessage, TaskiqResult

from dagster_taskiq.wire.stop_causes import StopCause
from dagster_taskiq.wire.task_counts import Outcome

T = TypeVar("T")


def _leave_as_it_is(what: str) -> AbstractContextManager[None]:
    """Load something; its effects on the process are not recorded."""
    del what
    return nullcontext()


def _record_nothing(result: TaskiqResult[Any]) -> None:
    """Leave the end of the task to what executes it."""
    del result


def _note_nothing(outcome: Outcome, why: str) -> None:
    """Leave the end of the task to what its function returns."""
    del outcome, why


@dataclass(frozen=True)
class StopRequest:
    """Why the worker stops the task that is executed now."""

    #: The reason, in words that make a sentence.
    reason: str
    cause: StopCause


@dataclass(frozen=True)
class TaskContext:
    """The worker for which a task is executed, and what the task reports to it."""

    #: The worker's name.
    worker: str
    #: To be called when the loop of the task's run should look at the event log.
    wake: Callable[[], None] = lambda: None
    #: To be called when the task only waits for its own steps from now on.
    orchestrating: Callable[[], None] = lambda: None
    #: To be called when the task, a run, begins what no other process could go on with.
    begun: Callable[[], None] = lambda: None
    #: To be called when the task has work elsewhere that no other process could follow, so that it
    #: cannot be handed over to another worker.
    stay: Callable[[], None] = lambda: None
    #: To be called when the task waits for the results of others, and works on when it has them;
    #: the second returns when the task may work.
    waiting: Callable[[], None] = lambda: None
    working: Callable[[], None] = lambda: None
    #: To be called with the result of a user's own task; returns when that is on record.
    record_end: Callable[[TaskiqResult[Any]], None] = _record_nothing
    #: To be called with how a step or run has ended in Dagster, and why, in one line: its function
    #: returns in any case. The last call counts.
    note_outcome: Callable[[Outcome, str], None] = _note_nothing
    #: Returns why the task is being stopped, once the worker has asked it to stop.
    stop_request: Callable[[], StopRequest | None] = lambda: None
    #: To be entered while something is loaded that stays in the process with its effects; takes a
    #: text by which it is known.
    loading: Callable[[str], AbstractContextManager[None]] = _leave_as_it_is


#: The message whose task is executed now.
_message: ContextVar[TaskiqMessage] = ContextVar("dagster_taskiq_message")

_context: ContextVar[TaskContext] = ContextVar("dagster_taskiq_context")
_NO_CONTEXT = TaskContext("")


@contextmanager
def holding(variable: ContextVar[T], value: T) -> Iterator[None]:
    """Let a context variable have a value inside the block."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def task_context(context: TaskContext) -> AbstractContextManager[None]:
    """Execute the tasks inside in this context."""
    return holding(_context, context)


def current_context() -> TaskContext:
    """Return the context of the task that is executed now; an empty one outside a task."""
    return _context.get(_NO_CONTEXT)


def executing(message: TaskiqMessage) -> AbstractContextManager[None]:
    """Make a message the current one while its task is executed."""
    return holding(_message, message)


def current_message() -> TaskiqMessage | None:
    """Return the message whose task is executed now; ``None`` outside a task."""
    return _message.get(None)
