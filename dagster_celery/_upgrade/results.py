"""The result of a step as Celery writes it, in JSON."""

import json
from collections.abc import Sequence
from datetime import datetime, timezone


def success(task_id: str, events: Sequence[str]) -> bytes:
    """Return the result of a step: the events of it, serialized, as dagster-celery's task does."""
    return _result(task_id, "SUCCESS", list(events))


def failure(task_id: str, why: str) -> bytes:
    """Return the result of a task that has failed for a reason; the run loop fails the run."""
    error = {"exc_type": "RuntimeError", "exc_message": [why], "exc_module": "builtins"}
    return _result(task_id, "FAILURE", error)


def revoked(task_id: str, why: str) -> bytes:
    """Return the result of a task that was cancelled for a reason."""
    error = {
        "exc_type": "TaskRevokedError",
        "exc_message": [why],
        "exc_module": "celery.exceptions",
    }
    return _result(task_id, "REVOKED", error)


def _result(task_id: str, status: str, result: object) -> bytes:
    document = {
        "status": status,
        "result": result,
        "traceback": None,
        "children": [],
        "date_done": datetime.now(timezone.utc).isoformat(),
        "task_id": task_id,
    }
    return json.dumps(document).encode()
