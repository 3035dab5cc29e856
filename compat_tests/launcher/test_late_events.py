"""Launched runs whose events become visible late, as on a database server."""

import pytest
from dagster import DagsterEventType, DagsterRunStatus

from compat_tests.brokers import POSTGRES_STORAGE
from compat_tests.executor.scratch import Scratch
from compat_tests.late_rows import LateRows
from compat_tests.launcher.deaths import ends_of, kill, wait_until_taken, wait_until_task_ended
from compat_tests.launcher.fleet import Fleet
from compat_tests.waiting import eventually


@pytest.mark.parametrize("fleet", [POSTGRES_STORAGE], indirect=True)
def test_a_run_that_is_killed_while_its_success_is_committed_has_succeeded(
    fleet: Fleet, scratch: Scratch, late_rows: LateRows
) -> None:
    kind = DagsterEventType.RUN_SUCCESS.value
    with late_rows.held(f"NEW.dagster_event_type = '{kind}'"):
        outcome = fleet.launch("whole", scratch)
        eventually(lambda: late_rows.holds, "the run's end is being written")
        kill(wait_until_taken(outcome))
        eventually(lambda: outcome.says("SIGKILL"), "its worker has noticed")
        late_rows.release()  # the database goes on without the process
        fleet.wait(outcome)
        wait_until_task_ended(fleet, outcome)
    assert outcome.status is DagsterRunStatus.SUCCESS
    assert ends_of(outcome) == [DagsterEventType.RUN_SUCCESS]
