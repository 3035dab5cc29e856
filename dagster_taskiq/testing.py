"""Tests of a project's own tasks, and of its jobs, without a server or a worker: a pytest plugin.

It is loaded before the modules of the project, by the configuration of pytest::

    [tool.pytest.ini_options]
    addopts = "-p dagster_taskiq.testing"

From then on every broker of the process is in its memory, whichever one the settings and the
environment name. A task is executed where it is sent, with the middlewares, dependencies and event
handlers of its broker, before ``kiq()`` returns; so is each step of a job whose executor is
``taskiq_executor`` or ``celery_executor``. Each test begins with nothing sent, and with the brokers
as they were made.
"""

import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, overload

import pytest
from taskiq import BrokerMessage, TaskiqMessage
from taskiq.decor import AsyncTaskiqDecoratedTask

from dagster_taskiq.execution.typed_messages import with_typed_values
from dagster_taskiq.transport import current
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.json_messages import PlainFormatter
from dagster_taskiq.transport.memory.server import MemoryServer, server_at

# Here and not in a hook: pytest imports the conftest.py of a project before it calls any.
current.keep_in_memory()

#: What a test may change on a broker, and is as it was for the next test.
_OF_BROKERS = (
    *("middlewares", "local_task_registry", "result_backend"),
    *("custom_dependency_context", "dependency_overrides", "state", "serializer", "formatter"),
)


class NamedTask(Protocol):
    """A task that has a name, as those of an app of ``dagster_celery``."""

    #: The name.
    name: str


class SentTasks(Sequence[TaskiqMessage]):
    """What a test has sent so far, in this order: taskiq's messages.

    Each has a ``task_id``, a ``task_name``, ``args``, ``kwargs`` and ``labels``. What is sent again
    under the same id, to be tried again, is not among them.
    """

    def __init__(self, server: MemoryServer) -> None:
        self._server = server

    @overload
    def __getitem__(self, index: int) -> TaskiqMessage: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[TaskiqMessage]: ...

    def __getitem__(self, index: int | slice) -> TaskiqMessage | Sequence[TaskiqMessage]:
        """Return one of them, or some."""
        return self._messages()[index]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._bodies())

    def __repr__(self) -> str:
        return repr(self._messages())

    def of(self, task: AsyncTaskiqDecoratedTask[..., Any] | NamedTask) -> list[TaskiqMessage]:
        """Return those of one task: of taskiq's, or of an app of ``dagster_celery``."""
        name = task.task_name if isinstance(task, AsyncTaskiqDecoratedTask) else task.name
        return [each for each in self if each.task_name == name]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let what is sent inside the block only be sent, and not be executed."""
        self._server.is_held = True
        try:
            yield
        finally:
            self._server.is_held = False

    def _messages(self) -> list[TaskiqMessage]:
        messages = [PlainFormatter().loads(each.message) for each in self._bodies()]
        for each in messages:
            each.parse_labels()
        return [with_typed_values(each) for each in messages]

    def _bodies(self) -> list[BrokerMessage]:
        return self._server.sent or []


@pytest.fixture
def sent_tasks(_own_tasks: MemoryServer) -> SentTasks:
    """The project's own tasks that the test has sent so far."""
    return SentTasks(_own_tasks)


@pytest.fixture(autouse=True)
def _own_tasks() -> Iterator[MemoryServer]:
    """Let the test begin with nothing sent, and leave nothing to the next one."""
    server = server_at(current.MEMORY_URL)
    server.clear()
    server.sent, server.is_held = [], False
    kept = [(broker, _parts_of(broker)) for broker in current.brokers_in_memory()]
    yield server
    for broker, parts in kept:
        vars(broker).update(parts)
    server.clear()
    server.sent, server.is_held = None, False


def _parts_of(broker: QueueBroker) -> dict[str, Any]:
    parts = {name: copy.copy(getattr(broker, name)) for name in _OF_BROKERS}
    handlers = {event: list(each) for event, each in broker.event_handlers.items()}
    return {**parts, "event_handlers": defaultdict(list, handlers)}
