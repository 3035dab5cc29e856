"""Sending tasks the way a user of taskiq does, from tests that are not async."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from anyio.from_thread import BlockingPortal
from taskiq import AsyncTaskiqTask, BrokerMessage, TaskiqResult
from taskiq.kicker import AsyncKicker

from dagster_taskiq import app
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.home_loop import background

USER_TASKS = "compat_tests.user_tasks"


class Sender:
    """A broker and its backend, open on the loop that this process has in the background."""

    def __init__(self, broker: QueueBroker, portal: BlockingPortal) -> None:
        self.broker = broker
        self._portal = portal

    def send(self, name: str, *args: object, **labels: object) -> str:
        """Send a task of the user's module, and return its id; labels go with the message."""
        full = name if ":" in name else f"{USER_TASKS}:{name}"
        kicker: AsyncKicker[Any, Any] = AsyncKicker(full, self.broker, labels)
        return self._portal.call(lambda: kicker.kiq(*args)).task_id

    def call(self, work: Callable[..., Awaitable[Any]], *args: object) -> Any:
        """Run something else on the loop of the broker."""
        return self._portal.call(work, *args)

    def put(self, message: BrokerMessage) -> None:
        """Send a message as it is."""
        self._portal.call(self.broker.kick, message)

    def result(self, task_id: str) -> TaskiqResult[Any]:
        """Wait until a task has ended, and return how."""
        task: AsyncTaskiqTask[Any] = AsyncTaskiqTask(task_id, self.broker.result_backend)
        return self._portal.call(lambda: task.wait_result(check_interval=0.02, timeout=90))

    def value(self, task_id: str) -> Any:
        """Wait until a task has ended, and return its value; raise its error."""
        return self.result(task_id).raise_for_error().return_value

    def error(self, task_id: str) -> BaseException:
        """Wait until a task has failed, and return its error."""
        result = self.result(task_id)
        assert result.is_err, result
        assert result.error is not None
        return result.error


@contextmanager
def open_sender(settings: Settings) -> Iterator[Sender]:
    portal = background().portal
    broker = app.make(settings)
    portal.call(broker.startup)
    try:
        yield Sender(broker, portal)
    finally:
        portal.call(broker.shutdown)
