"""Errors of tasks and results as programs expect them that catch Celery's.

Celery is not imported here. A program that catches one of its errors has imported it, and so it is
looked for among the modules that are there, at the moment an error is raised.
"""

import sys
from collections.abc import Mapping
from typing import TypeVar

from dagster_celery._celery_app.task_errors import (
    ChordError,
    Ignore,
    MaxRetriesExceededError,
    Reject,
    Retry,
    SoftTimeLimitExceeded,
)
from dagster_taskiq.errors import ChildDiedError, TaskRevokedError, TimeLimitError, WorkerLostError

E = TypeVar("E", bound=BaseException)

#: The error of Celery's, in ``celery.exceptions``, for each kind of error that a result or a task
#: may raise; the first that it is counts.
_CELERYS: Mapping[type[BaseException], str] = {
    TimeLimitError: "TimeLimitExceeded",
    TimeoutError: "TimeoutError",
    TaskRevokedError: "TaskRevokedError",
    WorkerLostError: "WorkerLostError",
    ChildDiedError: "WorkerLostError",
    ChordError: "ChordError",
    Ignore: "Ignore",
    MaxRetriesExceededError: "MaxRetriesExceededError",
    Reject: "Reject",
    Retry: "Retry",
    SoftTimeLimitExceeded: "SoftTimeLimitExceeded",
}


def as_celerys(error: E) -> E:
    """Return an error that is one of Celery's as well, if this process has imported Celery.

    Args:
        error: what a result is about to raise or return.

    Returns:
        An error of a class derived from that of ``error`` and of Celery's error for the same, with
        the same text and attributes. ``error`` itself, if Celery is not there or has no such error.
    """
    celerys = _celerys_error(error)
    if celerys is None or isinstance(error, celerys):
        return error
    both = _class_of_both(type(error), celerys)
    made = both.__new__(both, *error.args)
    made.args = error.args
    made.__dict__.update(vars(error))
    made.__cause__, made.__context__ = error.__cause__, error.__context__
    return made.with_traceback(error.__traceback__)


def kinds(*ours: type[BaseException]) -> tuple[type[BaseException], ...]:
    """Return these kinds of error, and Celery's for the same, to be caught together."""
    module = sys.modules.get("celery.exceptions")
    theirs = (getattr(module, _CELERYS[each], each) for each in ours)
    return (*ours, *theirs)


def is_revoked(error: Exception) -> bool:
    """Return whether an error is that of a task that was revoked, ours or Celery's."""
    celerys = getattr(sys.modules.get("celery.exceptions"), "TaskRevokedError", TaskRevokedError)
    return isinstance(error, TaskRevokedError | celerys)


def _celerys_error(error: BaseException) -> type[BaseException] | None:
    module = sys.modules.get("celery.exceptions")
    name = next((name for ours, name in _CELERYS.items() if isinstance(error, ours)), "")
    if isinstance(error, TimeLimitError) and "soft time limit" in str(error):
        name = f"Soft{name}"
    found = getattr(module, name, None) if name else None
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def _class_of_both(ours: type[E], celerys: type[BaseException]) -> type[E]:
    """Return a class that derives from both; its text is as ours has it.

    Another process unpickles one of its errors as ours: Celery need not be there.
    """
    members = {
        "__module__": ours.__module__,
        "__doc__": ours.__doc__,
        "__str__": ours.__str__,
        "__repr__": ours.__repr__,
        "__reduce__": lambda error: (ours, error.args),
    }
    return type(ours.__name__, (ours, celerys), members)
