"""Launched runs on a worker with time limits: a run over the limit fails, and says why."""

import pytest
from dagster import DagsterEventType, DagsterRunStatus

from compat_tests.conftest import StartWorker
from compat_tests.executor.scratch import Scratch
from compat_tests.launcher.conftest import OwnFleet
from compat_tests.launcher.deaths import (
    ATTEMPTS,
    ends_of,
    wait_until_gone,
    wait_until_taken,
    wait_until_task_ended,
)

#: With this in ``dagster.yaml``, Dagster resumes runs whose process has died.
RESUMING = {"enabled": True, "max_resume_run_attempts": ATTEMPTS}

#: Of a pair of values of which each is in a pair of every push too.
OTHER_PAIR = pytest.mark.test_all("each limit, and each run monitoring, with the other value")

pytestmark = pytest.mark.parametrize("broker_kind", ["embedded"], indirect=True)


@pytest.mark.parametrize(
    ("option", "monitoring"),
    [
        pytest.param("--time-limit", RESUMING, id="hard-resuming"),
        pytest.param("--soft-time-limit", {}, id="soft-never-resumed"),
        pytest.param("--time-limit", {}, id="hard-never-resumed", marks=OTHER_PAIR),
        pytest.param("--soft-time-limit", RESUMING, id="soft-resuming", marks=OTHER_PAIR),
    ],
)
def test_a_run_over_the_limit_fails_and_leaves_no_step_behind(
    own_fleet: OwnFleet,
    start_worker: StartWorker,
    scratch: Scratch,
    option: str,
    monitoring: dict[str, object],
) -> None:
    fleet = own_fleet(run_monitoring=monitoring)
    start_worker("-c", "2", option, "12")
    outcome = fleet.launch("relay", scratch)
    scratch.wait_for("held-began")
    fleet.wait(outcome)
    assert outcome.status is DagsterRunStatus.FAILURE
    wait_until_task_ended(fleet, outcome)
    wait_until_gone(int(scratch.lines("held-began")[0]))
    assert (scratch.count("held-began"), scratch.count("held-ended")) == (1, 0)
    assert ends_of(outcome) == [DagsterEventType.RUN_FAILURE]
    if option == "--time-limit":
        assert "stopped the run. It exceeded its time limit of 12 s." in outcome.run_failure()
    else:
        assert outcome.says("run is stopped: it exceeded its soft time limit of 12 s.")


def test_a_run_whose_task_is_cancelled_is_not_resumed(
    own_fleet: OwnFleet, start_worker: StartWorker, scratch: Scratch
) -> None:
    fleet = own_fleet(run_monitoring=RESUMING)
    start_worker("-c", "2")
    outcome = fleet.launch("relay", scratch)
    wait_until_taken(outcome)
    scratch.wait_for("held-began")
    fleet.client.revoke([outcome.run_id], "it is not wanted")
    fleet.wait(outcome)
    wait_until_task_ended(fleet, outcome)
    wait_until_gone(int(scratch.lines("held-began")[0]))
    assert ends_of(outcome) == [DagsterEventType.RUN_FAILURE]
    assert fleet.monitor() == []
    assert (outcome.status, scratch.count("held-began")) == (DagsterRunStatus.FAILURE, 1)
