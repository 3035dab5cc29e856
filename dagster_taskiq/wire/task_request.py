"""The request to send a task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from taskiq import TaskiqMessage

from dagster_taskiq.wire.labels import (
    DELAY_LABEL,
    EXPIRES_AT_LABEL,
    JOB_LABEL,
    PRIORITY_LABEL,
    QUEUE_LABEL,
    RUN_LABEL,
    STEP_LABEL,
)


@dataclass(frozen=True)
class TaskRequest:
    """A request to execute a task, as it is made before it becomes a message."""

    id: str
    #: The name under which workers have the task's function.
    name: str
    kwargs: Mapping[str, Any]
    queue: str
    #: Higher runs first.
    priority: int = 0
    #: The run it belongs to; empty for a task that belongs to none.
    run_id: str = ""
    #: The step it executes; empty for a task that is not a step.
    step_key: str = ""
    #: Seconds for which the broker keeps it before a worker may claim it.
    delay: float = 0.0
    #: The Dagster job to which the run or step belongs; empty for another task.
    job: str = ""
    #: When it expires if it has not started, in seconds since the epoch; 0 for never.
    expires_at: float = 0.0
    #: More labels of the message.
    labels: Mapping[str, Any] = field(default_factory=dict)
    #: Positional arguments, before those by name.
    args: Sequence[Any] = ()

    def message(self) -> TaskiqMessage:
        """Return the request as a message of taskiq."""
        labels = {
            **self.labels,
            QUEUE_LABEL: self.queue,
            PRIORITY_LABEL: self.priority,
            RUN_LABEL: self.run_id,
            STEP_LABEL: self.step_key,
            JOB_LABEL: self.job,
            DELAY_LABEL: self.delay or "",
            EXPIRES_AT_LABEL: self.expires_at or "",
        }
        return TaskiqMessage(
            task_id=self.id,
            task_name=self.name,
            labels={name: value for name, value in labels.items() if value != ""},
            args=list(self.args),
            kwargs=dict(self.kwargs),
        )
