"""Executing the task of a message in this process."""

import inspect
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import lru_cache
from typing import Any, get_type_hints

from dagster._utils.error import serializable_error_info_from_exc_info
from taskiq import AsyncBroker, TaskiqMessage, TaskiqResult
from taskiq.exceptions import NoResultError
from taskiq.receiver.params_parser import parse_params
from taskiq_dependencies import DependencyGraph

from dagster_taskiq.errors import (
    DagsterTaskiqError,
    OtherReleaseError,
    UnknownTaskError,
    UnusableMessageError,
)
from dagster_taskiq.execution.own_tasks import RunningLife, TaskLife, own_tasks_of
from dagster_taskiq.execution.task_context import current_context, executing
from dagster_taskiq.execution.typed_messages import with_typed_values
from dagster_taskiq.tracing import spans
from dagster_taskiq.tracing.span import Span
from dagster_taskiq.transport.current_task import executing_own_task
from dagster_taskiq.transport.results import PutBack, failure
from dagster_taskiq.version import __version__
from dagster_taskiq.wire.labels import ATTEMPT_LABEL, attempt_of
from dagster_taskiq.wire.task_names import INTERNAL, NAMES, is_own_task

logger = logging.getLogger(__name__)

#: The package of the tasks that executor, launcher and workers send.
_OUR_PACKAGE = "dagster_taskiq"


def perform(broker: AsyncBroker, message: TaskiqMessage) -> TaskiqResult[Any] | PutBack:
    """Execute the task of a message, on the main thread of this process.

    A plain function for which no middleware has a hook, and which has no dependencies, is called
    directly, as are the steps and runs of Dagster. With all others, taskiq's receiver does what it
    does with any message; see :mod:`dagster_taskiq.execution.own_tasks`.

    Args:
        broker: has the tasks, by their names.
        message: names the task and has its arguments.

    Returns:
        The task's value or error; or that it is to be executed again. It raises nothing.
    """
    span = spans.begin_execution(message, current_context().worker)
    try:
        with spans.executing(span):
            ended = _perform(broker, message)
        _note_end(span, ended)
    finally:
        span.end()
    return ended


def _perform(broker: AsyncBroker, message: TaskiqMessage) -> TaskiqResult[Any] | PutBack:
    """Execute the task of a message, as :func:`perform` does."""
    if is_own_task(message.task_name, message.labels):
        message = _for_next_attempt(message)
    try:
        decoded = with_typed_values(message)
    except (RecursionError, ValueError) as problem:
        unusable = UnusableMessageError(f"Its arguments cannot be used. {problem}")
        return _failure_without_execution(broker, message, unusable)
    with executing(decoded):
        task = broker.find_task(message.task_name)
        if task is None:
            return _failure_without_execution(broker, message, _unknown(broker, message))
        try:
            return _execute(broker, task.original_func, message, decoded)
        except BaseException as error:  # whatever a function raises is its result
            return failure(error, message.labels)


def begin(broker: AsyncBroker, message: TaskiqMessage) -> RunningLife:
    """Begin to execute a user's own task that is a coroutine, beside others of this process.

    Args:
        broker: has the task.
        message: names the task and has its arguments.

    Returns:
        The task, which may have ended already.

    Raises:
        Exception: it cannot begin: that of a start-up handler, or of an argument that is no value
            of its type.
    """
    span = spans.begin_execution(message, current_context().worker)

    def end(future: Future[TaskiqResult[Any] | PutBack]) -> None:
        if not future.cancelled() and future.exception() is None:
            _note_end(span, future.result())
        span.end()

    message = _for_next_attempt(message)
    try:
        with spans.executing(span), executing(with_typed_values(message)):
            running = own_tasks_of(broker).begin(message)
    except Exception as error:
        span.note_error(error)
        span.end()
        raise
    running.future.add_done_callback(end)
    return running


def _note_end(span: Span, ended: TaskiqResult[Any] | PutBack) -> None:
    if isinstance(ended, TaskiqResult) and ended.error is not None:
        span.note_error(ended.error)


def async_tasks_of(broker: AsyncBroker) -> list[str]:
    """Return the names of the users' own tasks that :func:`begin` can execute."""
    return [
        name
        for name, task in broker.get_all_tasks().items()
        if name not in NAMES and inspect.iscoroutinefunction(task.original_func)
    ]


def _for_next_attempt(message: TaskiqMessage) -> TaskiqMessage:
    """Return a message so that a copy of it that is sent again is for the next attempt."""
    labels = {**message.labels, ATTEMPT_LABEL: attempt_of(message.labels) + 1}
    return message.model_copy(update={"labels": labels})


def _execute(
    broker: AsyncBroker,
    function: Callable[..., Any],
    message: TaskiqMessage,
    decoded: TaskiqMessage,
) -> TaskiqResult[Any] | PutBack:
    """Execute a task.

    Args:
        broker: has the middlewares.
        function: the task's.
        message: as it was sent.
        decoded: the same with its arguments as they were before.

    Raises:
        BaseException: what a function has raised that was called directly.
    """
    _check_arguments(function, decoded)
    tasks = own_tasks_of(broker)
    is_own = is_own_task(message.task_name, message.labels)
    is_internal = message.task_name in INTERNAL
    is_read_again = is_own and tasks.has_own_serializer
    if not is_internal and (tasks.has_hooks or is_read_again or not _is_plain(function)):
        return tasks.execute(message, is_own=is_own)
    if is_own and tasks.has_startup:
        tasks.start()
    started = time.monotonic()
    error: BaseException | None = None
    value: Any = None
    life = TaskLife(message, may_be_put_back=is_own)
    try:
        parse_params(*_parameters_of(function), decoded)
        with executing_own_task(life):
            value = function(*decoded.args, **decoded.kwargs)
    except NoResultError:
        return life.without_result()
    except BaseException as problem:
        error = problem
        if is_own:
            logger.exception("Task %s (%s) failed.", message.task_id, message.task_name)
    return TaskiqResult(
        is_err=error is not None,
        return_value=value,
        execution_time=round(time.monotonic() - started, 3),
        labels=message.labels,
        error=error,
    )


@lru_cache(maxsize=256)
def _parameters_of(function: Callable[..., Any]) -> tuple[inspect.Signature, dict[str, Any]]:
    return inspect.signature(function), get_type_hints(function)


def _unknown(broker: AsyncBroker, message: TaskiqMessage) -> UnknownTaskError:
    known = ", ".join(sorted(broker.get_all_tasks()))
    return UnknownTaskError(
        f"This worker has no task named {message.task_name!r}. Start it with --include naming "
        f"the module that defines it. It has: {known}."
    )


def _failure_without_execution(
    broker: AsyncBroker, message: TaskiqMessage, error: BaseException
) -> TaskiqResult[Any]:
    """Return the failure of a task that taskiq could not execute; tell the middlewares of it."""
    result = failure(error, message.labels)
    tasks = own_tasks_of(broker)
    if is_own_task(message.task_name, message.labels) and tasks.has_hooks:
        current_context().record_end(result)
        read = message.model_copy(update={"labels": dict(message.labels)})
        read.parse_labels()
        tasks.observe_end(read, result)
    return result


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


@lru_cache(maxsize=256)
def _is_plain(function: Callable[..., Any]) -> bool:
    return not inspect.iscoroutinefunction(function) and DependencyGraph(function).is_empty()
