"""What a worker does with a message whose task has been recorded as started."""

import logging
import uuid
from types import SimpleNamespace
from typing import Any

import pytest
from taskiq import TaskiqMessage, TaskiqResult

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport import registry
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.worker.activity import Activity
from dagster_taskiq.worker.task_counts import WorkerCounts
from dagster_taskiq.worker.task_handler import TaskHandler

pytestmark = pytest.mark.anyio


class Pool:
    """A pool whose tasks return at once."""

    worker_name = "w"
    has_hooks = False
    slots = SimpleNamespace(release_reservation=lambda task_id: None)

    def __init__(self) -> None:
        self.ran: list[str] = []

    async def run(self, message: TaskiqMessage, end: Any) -> TaskiqResult[Any]:
        self.ran.append(message.task_id)
        return TaskiqResult(is_err=False, return_value=7, execution_time=0.0)


@pytest.mark.parametrize(
    "error", [ConfigError("It does not permit DeleteMessage."), ValueError("Something else.")]
)
async def test_a_started_task_runs_even_if_its_message_cannot_be_deleted(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broker = registry.make(Settings(broker=f"memory://{uuid.uuid4().hex}"))
    broker.use_running_loop()
    await broker.startup()

    async def refuse(task_id: str) -> None:
        raise error

    monkeypatch.setattr(broker.listener, "acknowledge", refuse)
    pool: Any = Pool()
    backend, wake_ups = broker.result_backend, SimpleNamespace(note_woken=lambda run_id: None)
    assert isinstance(backend, StateBackend)
    activity = Activity(WorkerCounts(()), lambda: None)
    handler = TaskHandler(broker, backend, pool, wake_ups, activity, "w")  # type: ignore[arg-type]
    message = TaskiqMessage(task_id="t", task_name="own", labels={}, args=[], kwargs={})
    with caplog.at_level(logging.WARNING):
        ended = await handler.run(message)
    assert isinstance(ended, TaskiqResult)
    assert (ended.return_value, pool.ran) == (7, ["t"])
    (logged,) = caplog.messages
    assert logged == f"Could not acknowledge task t, whose message may come again: {error}"
    await broker.shutdown()
