"""What a running task reads about itself: ``self.request``."""

import socket
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from taskiq import TaskiqMessage

from dagster_celery._celery_app.carried import carried_by
from dagster_taskiq.execution.task_context import current_context, current_message, holding
from dagster_taskiq.wire.labels import (
    PRIORITY_LABEL,
    QUEUE_LABEL,
    RUN_LABEL,
    SOFT_TIME_LIMIT_LABEL,
    TIME_LIMIT_LABEL,
)


@dataclass(frozen=True)
class Request:
    """What a bound task reads as ``self.request``."""

    id: str | None = None
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    #: The worker's name.
    hostname: str = ""
    #: How often the task was executed before, by ``self.retry()``.
    retries: int = 0
    called_directly: bool = True
    is_eager: bool = False
    delivery_info: Mapping[str, Any] = field(default_factory=dict)
    #: The run whose loop has sent the task; empty for any other task.
    run_id: str = ""
    #: The task's name.
    task: str = ""
    #: The first task of those that led to this one: itself, if it was not sent by another.
    root_id: str | None = None
    #: The task that has sent this one.
    parent_id: str | None = None
    #: The group it is in, and its place there.
    group: str | None = None
    group_index: int | None = None
    #: The signatures to be sent when it has succeeded, and when it has failed.
    callbacks: Sequence[Any] | None = None
    errbacks: Sequence[Any] | None = None
    #: The rest of its chain, the next one last.
    chain: Sequence[Any] | None = None
    #: The chord whose header it is in.
    chord: Mapping[str, Any] | None = None
    #: The sender's own.
    headers: Mapping[str, Any] | None = None
    #: When it was to start at the earliest, and at the latest, as the sender has given it.
    eta: str | None = None
    expires: str | None = None
    #: Its hard and its soft time limit in seconds.
    timelimit: Sequence[float | None] = (None, None)
    #: Whether the sender wants no result; ``None`` if the sender has not said.
    ignore_result: bool | None = None
    #: The state that the task has reported last, and what it has said of it.
    reported: dict[str, Any] = field(default_factory=dict, compare=False)

    def get(self, name: str, default: Any = None) -> Any:
        """Return one of these by its name (Celery's own method)."""
        return getattr(self, name, default)

    @property
    def correlation_id(self) -> str | None:
        """The same as ``id`` (Celery's own attribute)."""
        return self.id

    @property
    def carried(self) -> dict[str, Any]:
        """The options by which the task is sent again as it is."""
        return {
            "link": self.callbacks,
            "link_error": self.errbacks,
            "chain": self.chain,
            "chord": self.chord,
            "group_id": self.group,
            "group_index": self.group_index,
            "root_id": self.root_id,
            "parent_id": self.parent_id,
            "headers": self.headers,
            "ignore_result": self.ignore_result,
        }

    @classmethod
    def of_message(cls, message: TaskiqMessage) -> "Request":
        """Return that of a message that a worker executes."""
        labels = message.labels
        delivery_info = {
            "exchange": "",
            "routing_key": labels.get(QUEUE_LABEL, ""),
            "priority": labels.get(PRIORITY_LABEL, 0),
            "redelivered": False,
        }
        return cls(
            id=message.task_id,
            task=message.task_name,
            args=message.args,
            kwargs=message.kwargs,
            hostname=current_context().worker,
            called_directly=False,
            delivery_info=delivery_info,
            run_id=str(labels.get(RUN_LABEL, "")),
            timelimit=(labels.get(TIME_LIMIT_LABEL), labels.get(SOFT_TIME_LIMIT_LABEL)),
            **_fields(carried_by(labels), message.task_id),
        )

    @classmethod
    def of_call(
        cls,
        task_id: str | None,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> "Request":
        """Return that of a task that is executed in this process.

        Args:
            task_id: its id.
            name: its name.
            args: its positional arguments.
            kwargs: its arguments by name.
            options: those of the call.
        """
        known = {name: each for name, each in options.items() if name not in ("eta", "expires")}
        return cls(
            id=task_id,
            task=name,
            args=args,
            kwargs=kwargs,
            hostname=socket.gethostname(),
            called_directly=False,
            is_eager=True,
            delivery_info={"is_eager": True, "routing_key": options.get("queue")},
            **_fields(known, task_id),
        )


def _fields(carried: Mapping[str, Any], task_id: str | None) -> dict[str, Any]:
    return {
        "retries": int(carried.get("retries") or 0),
        "root_id": carried.get("root_id") or task_id,
        "parent_id": carried.get("parent_id"),
        "group": carried.get("group_id"),
        "group_index": carried.get("group_index"),
        "callbacks": _listed(carried.get("link")),
        "errbacks": _listed(carried.get("link_error")),
        "chain": carried.get("chain"),
        "chord": carried.get("chord"),
        "headers": carried.get("headers"),
        "eta": carried.get("eta"),
        "expires": carried.get("expires"),
        "ignore_result": carried.get("ignore_result"),
    }


def _listed(signatures: Any) -> list[Any] | None:
    return [signatures] if isinstance(signatures, Mapping) else signatures


#: The request of a task that runs in a call of this process, inside the one of the message.
_INNER: ContextVar[Request | None] = ContextVar("dagster_celery_request", default=None)


def running(request: Request) -> AbstractContextManager[None]:
    """Make a request the current one for the time of a call in this process."""
    return holding(_INNER, request)


def current_request() -> Request:
    """Return the request of the task that runs now; an empty one if none runs."""
    inner = _INNER.get()
    if inner is not None:
        return inner
    message = current_message()
    return Request() if message is None else Request.of_message(message)
