"""The end of a task that has set its state by itself, and then raised ``Ignore`` or ``Reject``."""

import sys
from collections.abc import Mapping
from typing import Any

from dagster_celery._celery_app.values import to_result
from dagster_taskiq.errors import TaskFailedError, TaskRevokedError

#: The value of a task that has ended without one, with Celery's word for it.
WITHOUT_VALUE = "__dagster_celery__"


def described(error: BaseException) -> dict[str, Any]:
    """Return an exception as Celery describes one in JSON."""
    return {
        "exc_type": type(error).__qualname__,
        "exc_message": [each if isinstance(each, str) else repr(each) for each in error.args],
        "exc_module": type(error).__module__,
    }


def value_of_end(state: str, reported: Mapping[str, Any]) -> Any:
    """Return the value of a task that has ended so.

    Args:
        state: ``IGNORED`` or ``REJECTED``.
        reported: the state that it has reported last, and what it has said of it.

    Raises:
        Exception: the error that it has reported as its end.
    """
    own, meta = reported.get("state"), reported.get("meta")
    if own == "SUCCESS":
        return to_result(meta)
    if own == "REVOKED":
        raise TaskRevokedError(str(_error_of(meta)))
    if own == "FAILURE":
        raise _error_of(meta)
    return {WITHOUT_VALUE: state}


def _error_of(meta: Any) -> BaseException:
    """Return the exception that is meant, or one with that as its text."""
    if isinstance(meta, BaseException):
        return meta
    if not isinstance(meta, Mapping) or not isinstance(meta.get("exc_type"), str):
        return TaskFailedError("" if meta is None else str(meta))
    name, module = meta["exc_type"], meta.get("exc_module")
    kind: Any = sys.modules.get(str(module))
    for part in name.split("."):
        kind = getattr(kind, part, None)
    if not isinstance(kind, type) or not issubclass(kind, Exception):
        kind = type(name.rpartition(".")[2], (Exception,), {"__module__": str(module or __name__)})
    text = meta.get("exc_message", "")
    error: BaseException = kind(*text) if isinstance(text, list | tuple) else kind(text)
    return error
