"""Events that become visible late, as on a database server: each counts, once, and in order."""

import os
import signal
from collections import Counter

import pytest
from dagster import DagsterEventType, DagsterRunStatus

from compat_tests.brokers import POSTGRES_STORAGE
from compat_tests.executor import storage_jobs
from compat_tests.executor.runs import House, Outcome
from compat_tests.executor.scratch import Scratch
from compat_tests.late_rows import LateRows
from dagster_taskiq.client import client_for

SUCCESS = DagsterRunStatus.SUCCESS

pytestmark = pytest.mark.parametrize("fleet", [POSTGRES_STORAGE], indirect=True)


def is_late(kind: str) -> str:
    """Return the condition of SQL for one event of the step ``late``."""
    return f"NEW.step_key = 'late' AND NEW.dagster_event_type = '{kind}'"


def assert_each_step_succeeded_once(outcome: Outcome, steps: int) -> None:
    ends = (DagsterEventType.STEP_SUCCESS, DagsterEventType.STEP_FAILURE)
    counts = Counter((each.step_key, each.event_type) for each in outcome.events)
    found = {key: count for key, count in counts.items() if key[1] in ends}
    assert set(found.values()) == {1}
    assert len(found) == len(outcome.succeeded) == steps
    assert (outcome.status, outcome.skipped) == (SUCCESS, set())


@pytest.mark.parametrize("kind", ["STEP_OUTPUT", "STEP_SUCCESS"])
def test_a_row_that_is_committed_after_later_ones_counts(
    fleet: House, scratch: Scratch, late_rows: LateRows, kind: str
) -> None:
    with late_rows.delayed(is_late(kind), "pg_sleep(2)"):
        outcome = fleet.run(storage_jobs.late_among_six, scratch)
    assert_each_step_succeeded_once(outcome, 8)
    assert scratch.lines("after") == ["1"]
    order = [str(each.event_type_value) for each in outcome.yielded if each.step_key == "late"]
    assert order.index("STEP_OUTPUT") < order.index("STEP_SUCCESS")


def test_a_step_is_not_failed_where_its_end_has_been_passed_over(
    fleet: House, scratch: Scratch, late_rows: LateRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where a transaction takes longer than a missing row is waited for.
    monkeypatch.setattr("dagster_taskiq.execution.late_rows.GAP_SECONDS", 0.0)
    with late_rows.delayed(is_late("STEP_SUCCESS"), "pg_sleep(2)"):
        outcome = fleet.run(storage_jobs.late_among_six, scratch)
    assert_each_step_succeeded_once(outcome, 8)


def test_of_many_steps_that_end_together_each_ends_once(
    fleet: House, scratch: Scratch, late_rows: LateRows
) -> None:
    # What a busy disk does to commits, only more of it.
    with late_rows.delayed("NEW.dagster_event_type = 'STEP_SUCCESS'", "pg_sleep(0.3 * random())"):
        outcome = fleet.run(storage_jobs.fan_of_40, scratch)
    assert_each_step_succeeded_once(outcome, 40)


def test_a_step_that_is_killed_while_its_success_is_committed_has_succeeded(
    fleet: House, scratch: Scratch, late_rows: LateRows
) -> None:
    outcome = fleet.create(storage_jobs.late_among_six, scratch)
    task_id = f"{outcome.run_id}:late:0"
    missing_before = late_rows.missing
    killed: list[int] = []

    def kill_it_then_commit() -> None:
        # The row has its number, and others have higher ones.
        if not killed:
            if late_rows.holds and late_rows.missing > missing_before:
                killed.append(int(scratch.lines("late")[0]))
                os.kill(killed[0], signal.SIGKILL)
        elif client_for(fleet.settings).tasks([task_id])[task_id].state.is_final:
            late_rows.release()  # the database goes on without the process

    with late_rows.held(is_late("STEP_SUCCESS")):
        fleet.execute(outcome, storage_jobs.late_among_six, meanwhile=kill_it_then_commit)
    assert killed
    assert_each_step_succeeded_once(outcome, 8)
