"""The context in which a task is executed: its message, and its worker."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass

from taskiq import TaskiqMessage


def _leave_as_it_is(what: str) -> AbstractContextManager[None]:
    """Load something, whatever it does to the process."""
    del what
    return nullcontext()


@dataclass(frozen=True)
class StopRequest:
    """What the worker has said of why it stops the task that is performed now."""

    #: The reason, in words that make a sentence.
    reason: str
    #: Somebody wants the task not to be done, and so not again either. Otherwise it is the worker
    #: that cannot go on with it, or may not: it is shut down, or a time limit is over.
    is_cancellation: bool


@dataclass(frozen=True)
class TaskContext:
    """On whose behalf a task runs, and whom it tells what."""

    #: The worker's name.
    worker: str
    #: To be called when the loop of the task's run should look at the event log.
    wake: Callable[[], None] = lambda: None
    #: To be called when the task does nothing any more but wait for its own steps.
    orchestrating: Callable[[], None] = lambda: None
    #: Returns why the task is being stopped, once the worker has asked it to stop.
    stop_request: Callable[[], StopRequest | None] = lambda: None
    #: To be entered while something is loaded that stays in the process, with all that it sets
    #: there; takes a text that tells it from others.
    loading: Callable[[str], AbstractContextManager[None]] = _leave_as_it_is


#: The message whose task is executed now.
_message: ContextVar[TaskiqMessage] = ContextVar("dagster_taskiq_message")

_context: ContextVar[TaskContext] = ContextVar("dagster_taskiq_context")
_NO_CONTEXT = TaskContext("")


@contextmanager
def task_context(context: TaskContext) -> Iterator[None]:
    """Execute the tasks inside in this context."""
    token = _context.set(context)
    try:
        yield
    finally:
        _context.reset(token)


def current_context() -> TaskContext:
    """Return the context of the task that is executed now; an empty one outside a task."""
    return _context.get(_NO_CONTEXT)


@contextmanager
def executing(message: TaskiqMessage) -> Iterator[None]:
    """Make a message the current one while its task is executed."""
    token = _message.set(message)
    try:
        yield
    finally:
        _message.reset(token)


def current_message() -> TaskiqMessage | None:
    """Return the message whose task is executed now; ``None`` outside a task."""
    return _message.get(None)
