"""Which tasks are left in their queue when a run is stopped."""

from dataclasses import replace

import pytest

from dagster_taskiq.wire.records import Task, TaskState
from dagster_taskiq.wire.watching_tasks import EXECUTE_STEP_DOCKER, is_to_end_its_step

NEXT = Task("run:step:1.1", EXECUTE_STEP_DOCKER, state=TaskState.WAITING)


@pytest.mark.parametrize(
    "task",
    [
        replace(NEXT, id="run:step:1"),
        replace(NEXT, name="execute_plan"),
        replace(NEXT, state=TaskState.STARTED),
    ],
    ids=["nothing was started", "it runs the step itself", "it is stopped, and ends it"],
)
def test_all_others_are_cancelled(task: Task) -> None:
    assert not is_to_end_its_step(task)


def test_the_next_task_of_an_attempt_ends_what_the_first_has_started() -> None:
    assert is_to_end_its_step(NEXT)
    assert is_to_end_its_step(replace(NEXT, id="run:step[a.b]:0.2"))
