"""Launching: where runs go, what their tags and their event log say, and what runs them."""

import pytest
from dagster import DagsterEventType, DagsterRunStatus

from compat_tests.executor.scratch import Scratch
from compat_tests.launcher.fleet import Fleet
from dagster_taskiq.tags import TASK_ID_TAG


@pytest.mark.parametrize("job", ["whole", "spread"])
def test_a_launched_run_is_executed_by_the_worker(fleet: Fleet, scratch: Scratch, job: str) -> None:
    outcome = fleet.run(job, scratch)

    assert outcome.status is DagsterRunStatus.SUCCESS
    assert scratch.count("first") == scratch.count("second") == 1
    assert outcome.run.tags[TASK_ID_TAG] == outcome.run_id
    assert outcome.says("Sent the run to queue", fleet.settings.queue)
    assert len(outcome.of(DagsterEventType.RUN_START)) == 1
