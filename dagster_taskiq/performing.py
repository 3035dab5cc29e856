"""How a process performs the task that a message asks for, and what the task knows of that."""

import asyncio
import inspect
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_type_hints

from dagster._utils.error import serializable_error_info_from_exc_info
from taskiq import AsyncBroker, TaskiqMessage, TaskiqResult
from taskiq.receiver import Receiver
from taskiq.receiver.params_parser import parse_params
from taskiq_dependencies import DependencyGraph

from dagster_taskiq.errors import DagsterTaskiqError, OtherReleaseError, UnknownTaskError
from dagster_taskiq.version import __version__

#: The module of the tasks that this package sends itself.
_OUR_TASKS = "dagster_taskiq.tasks"


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
class Surroundings:
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


#: The message whose task is performed now.
_message: ContextVar[TaskiqMessage] = ContextVar("dagster_taskiq_message")

_surroundings: ContextVar[Surroundings] = ContextVar("dagster_taskiq_surroundings")
_NOWHERE = Surroundings("")


@contextmanager
def surrounded_by(surroundings: Surroundings) -> Iterator[None]:
    """Let the tasks performed inside have these surroundings."""
    token = _surroundings.set(surroundings)
    try:
        yield
    finally:
        _surroundings.reset(token)


def surroundings() -> Surroundings:
    """Return the surroundings of the task that is performed now, if one is."""
    return _surroundings.get(_NOWHERE)


def current_message() -> TaskiqMessage | None:
    """Return the message whose task is performed now, if one is."""
    return _message.get(None)


def perform(broker: AsyncBroker, message: TaskiqMessage) -> TaskiqResult[Any]:
    """Run the task that ``message`` asks for, in this thread, and return how it ended.

    A plain function without dependencies is called directly, with no event loop running, so that
    it may start one; all others run as taskiq runs them.
    """
    token = _message.set(message)
    try:
        return _perform(broker, message)
    finally:
        _message.reset(token)


def _perform(broker: AsyncBroker, message: TaskiqMessage) -> TaskiqResult[Any]:
    started = time.monotonic()
    task = broker.find_task(message.task_name)
    error: BaseException | None = None
    value: Any = None
    if task is None:
        known = ", ".join(sorted(broker.get_all_tasks()))
        error = UnknownTaskError(
            f"This worker has no task named {message.task_name!r}. Start it with --include naming "
            f"the module that defines it. It has: {known}."
        )
    elif _is_plain(task.original_func):
        try:
            function = task.original_func
            _check_arguments(function, message)
            parse_params(inspect.signature(function), get_type_hints(function), message)
            value = function(*message.args, **message.kwargs)
        except BaseException as problem:
            error = problem
    else:
        receiver = Receiver(broker, run_startup=False, max_async_tasks=1)
        return _loop_for(broker).run_until_complete(receiver.run_task(task.original_func, message))
    return TaskiqResult(
        is_err=error is not None,
        return_value=value,
        execution_time=round(time.monotonic() - started, 3),
        labels=message.labels,
        error=error,
    )


def _check_arguments(function: Callable[..., Any], message: TaskiqMessage) -> None:
    """Refuse a message of a task of ours that another release has sent, with other arguments.

    Raises:
        OtherReleaseError: it cannot be called so.
    """
    if function.__module__ != _OUR_TASKS:
        return
    try:
        inspect.signature(function).bind(*message.args, **message.kwargs)
    except TypeError as error:
        raise OtherReleaseError(
            f"This worker's {message.task_name} cannot do what its message asks for: {error}. It "
            "was sent by another release of dagster-taskiq than this worker's, which is "
            f"{__version__}. Let both run the same one."
        ) from None


def describe_failure(error: BaseException) -> str:
    """Return the text that tells the run's event log why a task failed."""
    if isinstance(error, DagsterTaskiqError):
        return str(error)
    info = serializable_error_info_from_exc_info(
        (type(error), error, error.__traceback__)  # type: ignore[arg-type] # may be None
    )
    return info.to_string()


@lru_cache(maxsize=1)
def _loop_for(broker: AsyncBroker) -> asyncio.AbstractEventLoop:
    """Return this process's loop for async tasks, with the broker open on it to send more."""
    loop = asyncio.new_event_loop()
    # Its threads stay as long as it does, and are known by their names.
    loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix="dagster-taskiq-tasks"))
    with surroundings().loading("the startup of the broker"):
        loop.run_until_complete(broker.startup())
    return loop


@lru_cache(maxsize=256)
def _is_plain(function: Callable[..., Any]) -> bool:
    return not inspect.iscoroutinefunction(function) and DependencyGraph(function).is_empty()
