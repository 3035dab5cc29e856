"""What the loop of a run calls of broker and backend.

Not every loop sends its steps itself: an executor that a project brought from dagster-celery has a
function that sends them. The client of either kind has the methods below, and the loop calls no
others.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from taskiq import BrokerMessage, TaskiqMessage, TaskiqResult

from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.eviction import Eviction
from dagster_taskiq.wire.notifications import Notification
from dagster_taskiq.wire.records import Task, Worker
from dagster_taskiq.wire.task_request import TaskRequest


class InProcessTasks(Protocol):
    """Tasks that are sent to this process, which has to execute them itself."""

    @property
    def broker(self) -> QueueBroker:
        """The broker that has the functions of the tasks."""

    def claim(self) -> tuple[TaskiqMessage, Task] | None:
        """Start the next waiting task; ``None`` if nothing waits."""

    def finish(self, task: Task, result: TaskiqResult[Any]) -> None:
        """Record how a task that was started here has ended."""

    def put_back(self, task: Task, message: BrokerMessage | None) -> None:
        """Have a task that was started here wait again, with its new message if it has one."""


class StepClient(Protocol):
    """Sends the steps of a run, and knows what became of their tasks.

    Every method raises ``ServerUnavailableError`` if the server does not answer. The methods are
    those of :class:`dagster_taskiq.client.Client`, where their arguments are described.
    """

    @property
    def in_process(self) -> InProcessTasks | None:
        """The tasks that this process has to execute itself; ``None`` if workers do that."""

    def submit(self, *requests: TaskRequest) -> list[str]:
        """Send tasks, in this order, and return their ids.

        If it raises, some of them may have been sent: the loop sends all of them again.
        """

    def revoke(self, task_ids: Sequence[str], reason: str) -> None:
        """Cancel tasks: what waits is not started, what runs is stopped."""

    def tasks(self, task_ids: Sequence[str]) -> dict[str, Task]:
        """Return the records of these tasks, by id, as far as there are any."""

    def mark_lost(self, task: Task, error: str) -> bool:
        """Record that a task's worker is lost; ``False`` when the task has ended meanwhile."""

    def workers(self) -> list[Worker]:
        """Return the workers that are known, the lost ones too."""

    def is_empty(self, queue: str) -> bool:
        """Return whether no message of a queue waits or is being taken, apart from runs."""

    def evictions(self) -> dict[str, Eviction]:
        """Return how servers delete messages or records to make room, by URL; of those that do."""

    def wait(
        self, channel: str, after: str, timeout: float, interrupted: Callable[[], bool]
    ) -> list[Notification]:
        """Return the notifications of a channel after a cursor; if there are none, wait for some.

        Waits ``timeout`` seconds at most.
        """

    def close_channel(self, channel: str) -> None:
        """Delete a channel that is not read any more."""
