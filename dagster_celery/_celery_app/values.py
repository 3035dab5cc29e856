"""Arguments and results of tasks as Celery's JSON has them."""

import sys
from collections.abc import Mapping
from typing import Any

from dagster_taskiq.wire import typed_values


def as_json(value: Any) -> Any:
    """Return a value with each object that has a form of its own for JSON in that form.

    Args:
        value: an object with a method ``__json__`` is what that returns, and a lazy text of
            Django's is its text, as in Celery; at any depth.
    """
    reduce = getattr(value, "__json__", None)
    if reduce is not None and not isinstance(value, type):
        return as_json(reduce())
    if isinstance(value, Mapping):
        return {key: as_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    return str(value) if _is_lazy_text(value) else value


def to_result(value: Any) -> Any:
    """Return a task's value as it is stored; :func:`from_result` is the opposite."""
    return typed_values.encode(as_json(value))


def from_result(value: Any) -> Any:
    """Return a task's value from what is stored; as it is, if it cannot be read."""
    try:
        return typed_values.decode(value)
    except ValueError:
        return value


def _is_lazy_text(value: Any) -> bool:
    lazy = getattr(sys.modules.get("django.utils.functional"), "Promise", None)
    return isinstance(lazy, type) and isinstance(value, lazy)
