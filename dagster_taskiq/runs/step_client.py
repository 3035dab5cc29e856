"""What the loop of a run asks of broker and backend.

Not every loop sends its steps by itself: an executor as projects on dagster-celery have it brings a
function that does. Both kinds of client do what is written here, and nothing else is asked of them.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from taskiq import TaskiqMessage, TaskiqResult

from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.eviction import Eviction
from dagster_taskiq.wire.notifications import Notification
from dagster_taskiq.wire.records import Task, Worker
from dagster_taskiq.wire.task_request import TaskRequest


class InProcessTasks(Protocol):
    """Tasks that are sent to this process, which has to run them itself."""

    @property
    def broker(self) -> QueueBroker:
        """The broker that has the functions of the tasks."""

    def claim_in_process(self) -> tuple[TaskiqMessage, Task] | None:
        """Start the next waiting task; ``None`` when nothing waits."""

    def finish_in_process(self, task: Task, result: TaskiqResult[Any]) -> None:
        """Record how a task that was started here has ended."""


class StepClient(Protocol):
    """Where the loop of a run sends its steps, and learns what became of their tasks.

    Every method raises ``ServerUnavailableError`` where the server does not answer. The methods are
    those of :class:`dagster_taskiq.client.Client`, where their arguments are described.
    """

    @property
    def in_process(self) -> InProcessTasks | None:
        """The tasks that this process has to run itself; ``None`` where they run elsewhere."""

    def submit(self, *orders: TaskRequest) -> list[str]:
        """Send tasks, in this order, and return their ids.

        Where it raises, some of them may have been sent: the loop sends all of them again.
        """

    def revoke(self, task_ids: Sequence[str], reason: str) -> None:
        """Cancel tasks: what waits is not started, what runs is stopped."""

    def tasks(self, task_ids: Sequence[str]) -> dict[str, Task]:
        """Return what is known of these tasks, by id."""

    def mark_lost(self, task: Task, error: str) -> bool:
        """Record that a task's worker is lost; ``False`` when the task has ended meanwhile."""

    def workers(self) -> list[Worker]:
        """Return the workers that are known, the lost ones too."""

    def is_empty(self, queue: str) -> bool:
        """Return whether no message of a queue waits or is being taken."""

    def evictions(self) -> dict[str, Eviction]:
        """Return how servers delete messages or records to make room, by URL; of those that do."""

    def wait(
        self, channel: str, after: str, timeout: float, interrupted: Callable[[], bool]
    ) -> list[Notification]:
        """Return the mail of a channel after a cursor; wait for it, up to ``timeout`` seconds."""

    def close_channel(self, channel: str) -> None:
        """Delete the mail of a channel that nobody will read any more."""
