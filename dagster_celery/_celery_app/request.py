"""What a running task reads about itself: ``self.request``."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from dagster_taskiq.execution.task_context import current_context, current_message, holding
from dagster_taskiq.wire.labels import PRIORITY_LABEL, QUEUE_LABEL, RUN_LABEL


@dataclass(frozen=True)
class Request:
    """What a bound task reads as ``self.request``."""

    id: str | None = None
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    #: The worker's name.
    hostname: str = ""
    #: How often the task was tried before: never, since Dagster retries a step as a new task.
    retries: int = 0
    called_directly: bool = True
    is_eager: bool = False
    delivery_info: Mapping[str, Any] = field(default_factory=dict)
    #: The run whose loop has sent the task; empty for any other task.
    run_id: str = ""

    @property
    def root_id(self) -> str | None:
        """The task's own id, since tasks are not chained here."""
        return self.id


#: The request of a task that runs eagerly, in the process that called it.
_EAGER: ContextVar[Request | None] = ContextVar("dagster_celery_eager_request", default=None)


def eagerly(request: Request) -> AbstractContextManager[None]:
    """Make a request the current one for the time of a call in this process."""
    return holding(_EAGER, request)


def current_request() -> Request:
    """Return the request of the task that runs now; an empty one if none runs."""
    eager = _EAGER.get()
    if eager is not None:
        return eager
    message = current_message()
    if message is None:
        return Request()
    labels = message.labels
    queue, priority = labels.get(QUEUE_LABEL, ""), labels.get(PRIORITY_LABEL, 0)
    return Request(
        id=message.task_id,
        args=message.args,
        kwargs=message.kwargs,
        hostname=current_context().worker,
        called_directly=False,
        delivery_info={"routing_key": queue, "priority": priority, "redelivered": False},
        run_id=str(labels.get(RUN_LABEL, "")),
    )
