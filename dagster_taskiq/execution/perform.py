"""Executing the task of a message in this process."""

import asyncio
import inspect
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, get_type_hints

from dagster._utils.error import serializable_error_info_from_exc_info
from taskiq import AsyncBroker, TaskiqMessage, TaskiqResult
from taskiq.receiver import Receiver
from taskiq.receiver.params_parser import parse_params
from taskiq_dependencies import DependencyGraph

from dagster_taskiq.errors import (
    DagsterTaskiqError,
    OtherReleaseError,
    UnknownTaskError,
    UnusableMessageError,
)
from dagster_taskiq.execution.task_context import current_context, executing
from dagster_taskiq.version import __version__
from dagster_taskiq.wire.labels import TYPED_LABEL
from dagster_taskiq.wire.typed_values import decode

#: The package of the tasks that executor, launcher and workers send.
_OUR_PACKAGE = "dagster_taskiq"


def perform(broker: AsyncBroker, message: TaskiqMessage) -> TaskiqResult[Any]:
    """Execute the task of a message in this thread.

    A plain function without dependencies is called directly, with no event loop running, so that
    it may start one; all others run as taskiq runs them.

    Args:
        broker: has the tasks, by their names.
        message: names the task and has its arguments.

    Returns:
        The task's value or error. It raises nothing.
    """
    try:
        message = _with_typed_values(message)
    except (RecursionError, ValueError) as problem:
        error = UnusableMessageError(f"Its arguments cannot be used. {problem}")
        return TaskiqResult(
            is_err=True, return_value=None, execution_time=0.0, labels=message.labels, error=error
        )
    with executing(message):
        return _perform(broker, message)


def _with_typed_values(message: TaskiqMessage) -> TaskiqMessage:
    """Return a message with the arguments that JSON has no form for.

    Raises:
        ValueError: one of them is no value of its type.
        RecursionError: they are nested too deeply.
    """
    if not message.labels.get(TYPED_LABEL):
        return message
    restored = {"args": decode(message.args), "kwargs": decode(message.kwargs)}
    return message.model_copy(update=restored)


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
    """Check that a task of this package can be called with the arguments of a message.

    Raises:
        OtherReleaseError: it cannot; another release has sent the message.
    """
    if function.__module__.partition(".")[0] != _OUR_PACKAGE:
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
    """Return the text about a failed task for the run's event log.

    That of an error of this package is its message; of others, it has the traceback.
    """
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
    # Its threads stay as long as it does; process state is compared by their names.
    loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix="dagster-taskiq-tasks"))
    with current_context().loading("the startup of the broker"):
        loop.run_until_complete(broker.startup())
    return loop


@lru_cache(maxsize=256)
def _is_plain(function: Callable[..., Any]) -> bool:
    return not inspect.iscoroutinefunction(function) and DependencyGraph(function).is_empty()
