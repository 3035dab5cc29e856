"""Steps of a worker with time limits: they fail as any other, and their own policy decides."""

import pytest
from dagster import DagsterEventType, DagsterRunStatus

from compat_tests.conftest import StartWorker
from compat_tests.executor import fault_jobs
from compat_tests.executor.runs import House
from compat_tests.executor.scratch import Scratch

pytestmark = pytest.mark.parametrize("broker_kind", ["embedded"], indirect=True)


def let_go_at_the_second_try(scratch: Scratch) -> None:
    if scratch.count("policy-began") == 2:
        scratch.note("go")


@pytest.mark.parametrize("option", ["--time-limit", "--soft-time-limit"])
def test_a_step_over_the_limit_fails_or_is_tried_again_by_its_policy(
    own: House, start_worker: StartWorker, scratch: Scratch, option: str
) -> None:
    # One slot: the step that fails comes first, and then nobody holds the one that is let go.
    start_worker("-c", "1", option, "5")
    outcome = own.create(fault_jobs.two_held_and_more, scratch)

    def meanwhile() -> None:
        let_go_at_the_second_try(scratch)

    own.execute(outcome, fault_jobs.two_held_and_more, meanwhile=meanwhile)
    assert (outcome.status, outcome.failed) == (DagsterRunStatus.FAILURE, {"held"})
    assert (scratch.count("held-began"), scratch.count("held-ended")) == (1, 0)
    assert (scratch.count("policy-began"), scratch.count("policy-ended")) == (2, 1)
    assert outcome.steps(DagsterEventType.STEP_UP_FOR_RETRY) == ["protected"]
    assert scratch.count("quick") == 6
    if option == "--time-limit":
        assert "It exceeded its time limit of 5 s." in outcome.failure("held")
    else:
        for step in ("held", "protected"):
            assert outcome.says(
                f'Step "{step}" is stopped: it exceeded its soft time limit of 5 s.'
            )
