"""A project's own middlewares run in the worker, and one that raises costs its task only."""

from pathlib import Path

from compat_tests.conftest import StartWorker
from compat_tests.waiting import eventually
from dagster_taskiq.client import client_for
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.wire.records import TaskState
from dagster_taskiq.wire.task_request import TaskRequest


def test_a_middleware_that_raises_fails_its_task_and_frees_its_slot(
    settings: Settings, dagster_home: Path, start_worker: StartWorker
) -> None:
    client = client_for(settings)
    names = ["raises_before", "raises_after", "is_left_alone"]
    for name in names:  # one slot: each needs the one that the last has freed
        client.submit(TaskRequest(id=name, name=name, kwargs={}, queue="dagster"))
    start_worker("-A", "compat_tests.broken_app", "-c", "1")
    eventually(lambda: all(task.state.is_final for task in client.tasks(names).values()))
    ended = client.tasks(names)
    assert [ended[name].state for name in names] == [
        TaskState.FAILURE,
        TaskState.FAILURE,
        TaskState.SUCCESS,
    ]
    assert "not this one" in ended["raises_before"].error
    assert "not that one" in ended["raises_after"].error
    eventually(lambda: client.depths() == [])
