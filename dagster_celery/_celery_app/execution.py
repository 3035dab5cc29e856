"""One execution of a task of an app: its function, and what is called around it."""

import logging
import traceback as tracebacks
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from taskiq.exceptions import NoResultError

from dagster_celery._celery_app.celery_errors import as_celerys, kinds
from dagster_celery._celery_app.celerys_state import running_task
from dagster_celery._celery_app.current_app import AppTask
from dagster_celery._celery_app.following import fail_rest, follow
from dagster_celery._celery_app.reported_ends import value_of_end
from dagster_celery._celery_app.request import Request, running
from dagster_celery._celery_app.results import EagerResult
from dagster_celery._celery_app.retrying import seconds_of_backoff
from dagster_celery._celery_app.signals import Signals
from dagster_celery._celery_app.soft_time_limit import raising_soft_time_limit
from dagster_celery._celery_app.task_errors import Ignore, Reject, Replaced, Retry
from dagster_celery._celery_app.values import to_result
from dagster_taskiq.errors import DagsterTaskiqError, TaskRevokedError, TimeLimitError
from dagster_taskiq.execution.task_context import holding
from dagster_taskiq.wire.labels import EXPIRED

logger = logging.getLogger("dagster_celery")

#: The ids of the last tasks that this process has executed, of which its own signals have told.
told: deque[str] = deque(maxlen=256)

SUCCESS, FAILURE, RETRY, IGNORED, REJECTED = "SUCCESS", "FAILURE", "RETRY", "IGNORED", "REJECTED"


class ExceptionInfo:
    """An exception as the hooks of tasks get it; as a text, its traceback."""

    internal = False

    def __init__(self, exception: BaseException) -> None:
        self.type = type(exception)
        self.exception = exception
        self.tb: TracebackType | None = exception.__traceback__
        self.traceback = "".join(tracebacks.format_exception(exception))

    def __str__(self) -> str:
        return self.traceback


@dataclass
class Outcome:
    """How an execution has ended."""

    state: str = ""
    #: The value of the function, or what it has raised.
    value: Any = None


#: The task whose function is about to be called by an execution, and not by a user's code.
_about_to_run: ContextVar[AppTask | None] = ContextVar("dagster_celery_about_to_run", default=None)


def called_by_execution(task: AppTask) -> bool:
    """Return, the first time in an execution, whether it is that of a task."""
    is_its = _about_to_run.get() is task
    if is_its:
        _about_to_run.set(None)
    return is_its


def execute_for_worker(task: AppTask, request: Request, call: Callable[..., Any]) -> Any:
    """Execute a task in a worker, and return its value as it is stored.

    Args:
        task: the task.
        request: its request.
        call: calls its function, with its arguments.

    Raises:
        NoResultError: it is executed again.
        Exception: that of the task.
    """
    outcome = _execute(task, request, call)
    is_late = task.app.acknowledges_late if task.acks_late is None else task.acks_late
    if outcome.state == IGNORED and isinstance(outcome.value, Replaced):
        raise NoResultError
    if outcome.state == RETRY and getattr(outcome.value, "is_sent", False):
        raise NoResultError
    if outcome.state == REJECTED and getattr(outcome.value, "requeue", False) and is_late:
        with running(request):
            task.send_back()
        raise NoResultError
    if outcome.state in (IGNORED, REJECTED):
        return value_of_end(outcome.state, request.reported)
    if outcome.state in (FAILURE, RETRY):
        raise outcome.value
    return None if _drops_value(task, request) else to_result(outcome.value)


def tell_of_end(task: AppTask, request: Request, error: BaseException) -> None:
    """Send the signal about a task that its worker has ended, or that has ended with its process.

    Args:
        task: the task.
        request: its request.
        error: why it has ended.
    """
    signals = Signals(task, request)
    is_limit = isinstance(error, TimeLimitError) or "time limit" in str(error)
    if isinstance(error, TaskRevokedError) and not is_limit:
        signals.revoked(is_expired=str(error) == EXPIRED)
    elif str(request.id) not in told:
        error = as_celerys(error)
        signals.failure(error, ExceptionInfo(error))


def execute_here(task: AppTask, request: Request, throw: bool | None) -> EagerResult:
    """Execute a task in the process that called it, and return its result.

    Args:
        task: the task.
        request: its request.
        throw: whether its exception is raised here; as the app is configured for ``None``.

    Raises:
        Exception: that of the task.
    """
    outcome = _execute(task, request, task)
    if outcome.state in (RETRY, IGNORED) and getattr(outcome.value, "sig", None) is not None:
        # A task that is tried again has its id in that call; one that is replaced has not.
        found: EagerResult = outcome.value.sig.apply(throw=throw)
        return found if outcome.state == RETRY else replace(found, id=str(request.id))
    if outcome.state == FAILURE:
        fail_rest(task.app, request, outcome.value)
        propagates = task.app.propagates_eagerly if throw is None else throw
        if propagates:
            raise outcome.value
    text = None
    if isinstance(outcome.value, BaseException):
        is_ours = isinstance(outcome.value, DagsterTaskiqError)
        text = str(outcome.value if is_ours else ExceptionInfo(outcome.value))
    return EagerResult(str(request.id), outcome.value, outcome.state, text)


def _drops_value(task: AppTask, request: Request) -> bool:
    wishes = (request.ignore_result, task.ignore_result, task.app.ignores_results)
    return bool(next((each for each in wishes if each is not None), False))


def _execute(task: AppTask, request: Request, call: Callable[..., Any]) -> Outcome:
    task.app.annotate(task)
    args, kwargs, task_id = request.args, request.kwargs, str(request.id)
    signals = Signals(task, request)
    told.append(task_id)
    outcome = Outcome()
    with running(request), running_task(task):
        signals.prerun()
        try:
            try:
                task.before_start(task_id, args, kwargs)
                outcome.value = _call(task, call, request)
            except kinds(Reject) as error:
                outcome.state, outcome.value = REJECTED, error
            except kinds(Ignore) as error:
                outcome.state, outcome.value = IGNORED, error
            except kinds(Retry) as error:
                _note_retry(task, request, signals, outcome, error)
            except Exception as error:
                _note_failure(task, request, signals, outcome, error)
            else:
                _note_success(task, request, signals, outcome)
            if outcome.state in (SUCCESS, FAILURE):
                _hook(task.after_return, outcome.state, outcome.value, task_id, args, kwargs, None)
        finally:
            signals.postrun(outcome.value, outcome.state)
    return outcome


def _call(task: AppTask, call: Callable[..., Any], request: Request) -> Any:
    """Call the function of a task; an error of ``autoretry_for`` has it executed again."""
    again, never = tuple(task.autoretry_for), tuple(task.dont_autoretry_for)
    try:
        # Dagster has its own way with a step that is interrupted.
        limit = nullcontext() if request.run_id else raising_soft_time_limit()
        with holding(_about_to_run, task), limit:
            return call(*request.args, **request.kwargs)
    except kinds(Ignore, Reject, Retry):
        raise
    except never:
        raise
    except again as error:
        given = dict(task.retry_kwargs)
        if task.retry_backoff:
            given["countdown"] = seconds_of_backoff(
                float(task.retry_backoff),
                request.retries,
                task.retry_backoff_max,
                task.retry_jitter,
            )
        if task.override_max_retries is not None:
            given["max_retries"] = task.override_max_retries
            task.override_max_retries = None
        raise task.retry(exc=error, **given) from error


def _note_success(task: AppTask, request: Request, signals: Signals, outcome: Outcome) -> None:
    try:
        follow(task.app, request, outcome.value)
    except Exception as error:
        _note_failure(task, request, signals, outcome, error)
        return
    outcome.state = SUCCESS
    _hook(task.on_success, outcome.value, str(request.id), request.args, request.kwargs)
    signals.success(outcome.value)


def _note_failure(
    task: AppTask, request: Request, signals: Signals, outcome: Outcome, error: Exception
) -> None:
    outcome.state, outcome.value = FAILURE, error
    info = ExceptionInfo(error)
    _hook(task.on_failure, error, str(request.id), request.args, request.kwargs, info)
    signals.failure(error, info)


def _note_retry(
    task: AppTask, request: Request, signals: Signals, outcome: Outcome, error: Any
) -> None:
    outcome.state, outcome.value = RETRY, error
    info = ExceptionInfo(error)
    _hook(task.on_retry, error.exc, str(request.id), request.args, request.kwargs, info)
    signals.retry(error, info)


def _hook(hook: Callable[..., Any], *args: Any) -> None:
    """Call a hook of a task; the end of the task is decided, whatever it raises."""
    try:
        hook(*args)
    except Exception:
        logger.exception("%s of the task raised an error.", getattr(hook, "__name__", "A hook"))
