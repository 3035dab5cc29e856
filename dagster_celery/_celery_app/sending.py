"""The request that is made of a call of a task."""

import uuid
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any
from zoneinfo import ZoneInfo

from dagster_celery._celery_app.carried import label_of
from dagster_celery._celery_app.values import as_json
from dagster_celery._step_watchers.watchers import for_watcher
from dagster_taskiq.wire.labels import TYPED_LABEL
from dagster_taskiq.wire.task_request import TaskRequest
from dagster_taskiq.wire.typed_values import encode, holds_typed

#: The step whose task is being sent, as the run loop requests it. A function that sends steps calls
#: a task of its app; what it sends gets the id and labels of this request.
STEP_REQUEST: ContextVar[TaskRequest | None] = ContextVar(
    "dagster_celery_step_request", default=None
)

#: The options that a worker reads from the labels of a message, in seconds.
_LIMITS = ("time_limit", "soft_time_limit")


def task_request(
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    queue: str,
    default_priority: int,
    zone: str | None,
    now: float,
) -> TaskRequest:
    """Return the request for a call of a task.

    Args:
        name: the task's name.
        args: its positional arguments.
        kwargs: its arguments by name.
        options: see :meth:`dagster_celery._celery_app.task.Task.apply_async`.
        queue: the queue it goes to.
        default_priority: its priority if the options have none.
        zone: the name of the time zone of times that have none; UTC for ``None``.
        now: the time, in seconds since the epoch.

    Returns:
        The request; if the run loop has a step sent (:data:`STEP_REQUEST`), under the id of that
        step's task and for its run.
    """
    priority = options.get("priority")
    args, kwargs = as_json(args), as_json(kwargs)
    labels: dict[str, Any] = {each: options[each] for each in _LIMITS if options.get(each)}
    if holds_typed((args, kwargs)):
        args, kwargs, labels[TYPED_LABEL] = encode(args), encode(kwargs), 1
    delay = _delay(options.get("countdown"), options.get("eta"), zone, now)
    expires_at = _expiry(options.get("expires"), zone, now)
    has_eta = options.get("eta") is not None or options.get("countdown")
    times = {"eta": now + delay if has_eta else 0.0, "expires": expires_at}
    labels |= label_of({**options, **{name: _as_text(each) for name, each in times.items()}})
    request = TaskRequest(
        id=str(options.get("task_id") or uuid.uuid4()),
        name=name,
        args=list(args),
        kwargs=dict(kwargs),
        queue=queue,
        priority=default_priority if priority is None else priority,
        delay=delay,
        expires_at=expires_at,
        labels=labels,
    )
    step = STEP_REQUEST.get()
    if step is None:
        return request
    return for_watcher(
        replace(
            request,
            id=step.id,
            run_id=step.run_id,
            step_key=step.step_key,
            job=step.job,
            labels={**step.labels, **request.labels},
        )
    )


def _delay(
    countdown: float | None, eta: datetime | str | None, zone: str | None, now: float
) -> float:
    """Return the seconds until a task may start: until ``eta``, else ``countdown``."""
    if eta is not None:
        return max(0.0, _timestamp(eta, zone) - now)
    return max(0.0, float(countdown or 0))


def _expiry(expires: float | datetime | str | None, zone: str | None, now: float) -> float:
    """Return when a task expires, in seconds since the epoch; 0 for never."""
    if expires is None:
        return 0.0
    if isinstance(expires, datetime | str):
        return _timestamp(expires, zone)
    return now + float(expires)


def _as_text(timestamp: float) -> str | None:
    """Return a time as ``self.request`` has it; ``None`` for 0."""
    return datetime.fromtimestamp(timestamp, timezone.utc).isoformat() if timestamp else None


def _timestamp(when: datetime | str, zone: str | None) -> float:
    """Return a time as seconds since the epoch; one without a time zone is in ``zone``.

    Raises:
        ValueError: a text that is no time in the form of ISO 8601.
    """
    if isinstance(when, str):
        # Python 3.10 does not read the Z.
        when = datetime.fromisoformat(f"{when[:-1]}+00:00" if when.endswith("Z") else when)
    if when.tzinfo is None:
        when = when.replace(tzinfo=ZoneInfo(zone) if zone else timezone.utc)
    return when.timestamp()
