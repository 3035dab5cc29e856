"""Runs whose process died: what goes on is adopted, what has ended stays so, what died is rerun."""

import signal
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from dagster import DagsterEventType, DagsterRunStatus

from compat_tests.conftest import StartWorker, on_each_broker_and_storage
from compat_tests.executor import fault_jobs
from compat_tests.executor.conftest import SLOTS, make_instance
from compat_tests.executor.runs import House, Outcome
from compat_tests.executor.scratch import Scratch
from compat_tests.waiting import eventually
from dagster_taskiq.client import client_for

SUCCESS = DagsterRunStatus.SUCCESS
POOL = "gate"


@pytest.fixture
def gate(request: pytest.FixtureRequest) -> Iterator[None]:
    """A pool with one slot, in the house of the test."""
    name = "fleet" if "fleet" in request.fixturenames else "own"
    storage = request.getfixturevalue(name).instance.event_log_storage
    storage.set_concurrency_slots(POOL, 1)
    yield
    storage.delete_concurrency_limit(POOL)


def reach_the_middle(house: House, scratch: Scratch) -> Outcome:
    """Execute the job with a rich past up to where only held steps are left, and kill it there."""
    with house.started(fault_jobs.rich_past, scratch) as process:
        outcome = process.outcome
        scratch.wait_for("fan-1")
        scratch.wait_for("pool-began")
        scratch.wait_for("long_wait")
        finished = {"chooses", "once", "spreads", "held_number[m0]", "held_number[m2]"}
        finished |= {"second_try", "after_retry"}
        eventually(lambda: finished <= outcome.succeeded, "all but the held steps have ended")
        eventually(
            lambda: outcome.steps(DagsterEventType.STEP_UP_FOR_RETRY).count(
                "waits_long_for_its_retry"
            )
        )
        process.kill()
    return outcome


def assert_nothing_was_repeated(
    outcome: Outcome, scratch: Scratch, died: Collection[str] = ()
) -> None:
    assert outcome.status is SUCCESS
    assert outcome.skipped == {"never"}
    once = ["chooses", "counts-once", "spreads", "total", "fan-end-0", "fan-end-1", "fan-end-2"]
    once += ["counts-after_retry", "counts-after_long", "fan-0", "fan-2"]
    assert {name: scratch.count(name) for name in once} == dict.fromkeys(once, 1)
    assert scratch.lines("total") == ["[0, 1, 2]"]
    assert (scratch.count("second_try"), scratch.count("long_wait")) == (2, 2)
    assert sorted(scratch.lines("pool-ended")) == ["pool_a", "pool_b"]
    info = outcome.instance.event_log_storage.get_concurrency_info(POOL)
    assert (info.active_slot_count, info.pending_step_count) == (0, 0)
    outcome.assert_sound(died)


@on_each_broker_and_storage
@pytest.mark.usefixtures("gate")
def test_steps_that_ran_on_without_their_run_are_adopted_and_none_is_repeated(
    fleet: House, scratch: Scratch
) -> None:
    outcome = reach_the_middle(fleet, scratch)
    # One of the held steps comes to its end while nobody looks, the other under the new process.
    scratch.note("go-fan")
    eventually(lambda: "held_number[m1]" in outcome.succeeded)
    with fleet.resumed(outcome) as process:
        eventually(lambda: outcome.says("pool_a", "going on with it"), "pool_a is adopted")
        scratch.note("go-pool")
        process.wait()
    assert_nothing_was_repeated(outcome, scratch)
    assert (scratch.count("fan-1"), scratch.count("pool-began")) == (1, 2)


@pytest.mark.usefixtures("gate")
def test_steps_that_died_with_their_worker_are_run_again_and_no_others(
    own: House, start_worker: StartWorker, scratch: Scratch
) -> None:
    doomed = start_worker("-c", "3", name="doomed")
    outcome = reach_the_middle(own, scratch)
    doomed.signal(signal.SIGKILL)
    client = client_for(own.settings)
    eventually(lambda: all(each.is_lost for each in client.workers()), "the lease has run out")
    start_worker("-c", "2", name="successor")
    scratch.note("go-fan")
    scratch.note("go-pool")
    with own.resumed(outcome) as process:
        process.wait()
    assert_nothing_was_repeated(outcome, scratch, died={"held_number[m1]", "pool_a"})
    assert (scratch.count("fan-1"), scratch.count("pool-began")) == (2, 3)
    assert outcome.says("held_number[m1]", "run again", "its worker was lost")


@pytest.fixture
def resuming(fleet: House, tmp_path: Path) -> Iterator[House]:
    """A house whose runs Dagster resumes; its steps go to the shared worker."""
    extra = """
run_launcher: {module: compat_tests.executor.launchers, class: ResumingLauncher}
run_monitoring: {enabled: true, max_resume_run_attempts: 3}
"""
    with make_instance(tmp_path, extra) as instance:
        yield House(fleet.settings, instance)


def test_an_interrupt_of_a_run_that_will_be_resumed_leaves_its_steps_alone(
    resuming: House, scratch: Scratch
) -> None:
    with resuming.started(fault_jobs.all_slots_held, scratch) as process:
        scratch.wait_for("held-began", SLOTS)
        resuming.wait_until_queued(20)
        # As when the machine of the run's process is drained: nobody wants the run to end.
        process.signal(signal.SIGTERM)
        outcome = process.wait()
    assert outcome.status is DagsterRunStatus.STARTED
    assert resuming.waiting() == 20
    # From here on steps end all the time, also while the new process takes stock of them.
    scratch.note("go")
    with resuming.resumed(outcome) as process:
        process.wait()
    assert outcome.status is SUCCESS
    assert (scratch.count("held-began"), scratch.count("held-ended")) == (SLOTS, SLOTS)
    assert sorted(scratch.lines("quick")) == sorted(f"quick_{number}" for number in range(20))
    outcome.assert_sound()
