"""Slots of Dagster's pools: what a step held that could not end by itself, the next run gets."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from dagster import DagsterRunStatus

from compat_tests.executor.runs import Outcome
from compat_tests.executor.scratch import Scratch
from compat_tests.launcher.deaths import (
    ON_SECOND,
    SECOND_QUEUE,
    SecondWorker,
    kill,
    wait_until_gone,
    wait_until_taken,
    wait_until_unhealthy,
)
from compat_tests.launcher.fleet import Fleet
from compat_tests.launcher.pool_jobs import POOL
from compat_tests.launcher.test_terminating import unserved_queue
from compat_tests.waiting import eventually

pytest_plugins = ["compat_tests.launcher.monitored_fleets"]

#: The slots are the event log's; what is sent and stopped where, other tests hold on each broker.
on_embedded = pytest.mark.parametrize("fleet", ["embedded"], indirect=True)

CANCELED, FAILURE, SUCCESS = (
    DagsterRunStatus.CANCELED,
    DagsterRunStatus.FAILURE,
    DagsterRunStatus.SUCCESS,
)


def launch_in_pool(fleet: Fleet, job: str, scratch: Scratch, **arguments: object) -> Outcome:
    """Launch a run that is alone with the one slot of the pool."""
    fleet.instance.event_log_storage.set_concurrency_slots(POOL, 1)
    assert steps_in_pool(fleet) == {}
    return fleet.launch(job, scratch, **arguments)


def steps_in_pool(fleet: Fleet) -> dict[str, set[str]]:
    """Return the steps that hold a slot, or wait for one, by run."""
    pool = fleet.instance.event_log_storage.get_concurrency_info(POOL)
    found: dict[str, set[str]] = {}
    for slot in pool.claimed_slots:
        found.setdefault(slot.run_id, set()).add(slot.step_key)
    for step in pool.pending_steps:
        found.setdefault(step.run_id, set()).add(step.step_key)
    return found


def assert_next_run_gets_the_slot(fleet: Fleet, tmp_path: Path) -> None:
    eventually(lambda: not steps_in_pool(fleet), "the pool is empty")
    scratch = Scratch(tmp_path / "next")
    scratch.directory.mkdir()
    assert fleet.run("whole_next", scratch).status is SUCCESS
    assert scratch.count("came-next") == 1


def terminate(fleet: Fleet, outcome: Outcome) -> DagsterRunStatus:
    assert fleet.terminate(outcome)
    return CANCELED


def kill_its_process(fleet: Fleet, outcome: Outcome) -> DagsterRunStatus:
    del fleet
    kill(wait_until_taken(outcome))
    return FAILURE


End = Callable[[Fleet, Outcome], DagsterRunStatus]


@on_embedded
@pytest.mark.parametrize(
    ("job", "end"),
    [
        ("whole_in_pool", terminate),
        ("spread_in_pool", terminate),
        ("multiprocess_in_pool", terminate),
        ("whole_in_pool", kill_its_process),
        ("spread_in_pool", kill_its_process),
    ],
)
def test_a_step_that_is_killed_with_its_run_leaves_its_pool_slot_to_the_next(
    fleet: Fleet, scratch: Scratch, tmp_path: Path, job: str, end: End
) -> None:
    outcome = launch_in_pool(fleet, job, scratch)
    scratch.wait_for("in-pool")
    (pid,) = map(int, scratch.lines("in-pool"))
    status = end(fleet, outcome)
    fleet.wait(outcome)
    assert outcome.status is status
    assert_next_run_gets_the_slot(fleet, tmp_path)
    wait_until_gone(pid)
    assert scratch.count("came-next") == 0


@on_embedded
@pytest.mark.parametrize("end", [terminate, kill_its_process])
def test_a_step_that_never_starts_leaves_its_slot_to_the_next_run(
    fleet: Fleet, scratch: Scratch, tmp_path: Path, end: End
) -> None:
    queue = unserved_queue()
    config = {"execution": {"config": {"queue": queue}}}
    outcome = launch_in_pool(fleet, "spread_held_in_pool", scratch, config=config)
    eventually(lambda: fleet.waiting().get(queue) == 1, "the step waits for a worker")
    status = end(fleet, outcome)
    fleet.wait(outcome)
    assert outcome.status is status
    assert_next_run_gets_the_slot(fleet, tmp_path)
    assert scratch.count("in-pool") == 0


@on_embedded
def test_a_step_whose_process_is_killed_leaves_its_slot_to_the_next_step(
    fleet: Fleet, scratch: Scratch, tmp_path: Path
) -> None:
    outcome = launch_in_pool(fleet, "spread_held_in_pool", scratch)
    scratch.wait_for("in-pool")
    kill(int(scratch.lines("in-pool")[0]))
    fleet.wait(outcome)
    assert (outcome.failed, outcome.succeeded) == ({"runs_until_released"}, {"comes_next"})
    assert_next_run_gets_the_slot(fleet, tmp_path)


@on_embedded
def test_a_step_whose_worker_is_killed_leaves_its_slot_to_the_next_step(
    fleet: Fleet, second_worker: SecondWorker, scratch: Scratch, tmp_path: Path
) -> None:
    worker = second_worker(fleet)
    config = {"execution": {"config": {"queue": SECOND_QUEUE}}}
    outcome = launch_in_pool(fleet, "spread_held_in_pool", scratch, config=config)
    scratch.wait_for("in-pool")
    worker.signal(signal.SIGKILL)
    fleet.wait(outcome)
    assert (outcome.failed, outcome.succeeded) == ({"runs_until_released"}, {"comes_next"})
    assert_next_run_gets_the_slot(fleet, tmp_path)


@on_embedded
def test_when_the_worker_of_a_run_is_killed_its_steps_keep_their_pool_slots(
    fleet: Fleet, second_worker: SecondWorker, scratch: Scratch, tmp_path: Path
) -> None:
    worker = second_worker(fleet)
    outcome = launch_in_pool(fleet, "spread_in_pool", scratch, tags=ON_SECOND)
    scratch.wait_for("in-pool")
    (pid,) = map(int, scratch.lines("in-pool"))
    worker.signal(signal.SIGKILL)
    eventually(
        lambda: any(each.name == worker.name and each.is_lost for each in fleet.client.workers()),
        "its lease is over",
    )
    assert steps_in_pool(fleet)[outcome.run_id] >= {"is_in_native_code"}
    # Nobody is there to end the run; its step is on the shared worker.
    assert fleet.terminate(outcome)
    assert outcome.status is CANCELED
    assert_next_run_gets_the_slot(fleet, tmp_path)
    wait_until_gone(pid)


@pytest.mark.parametrize("resuming", ["embedded"], indirect=True)
def test_a_run_that_will_be_resumed_keeps_the_slots_of_its_steps(
    resuming: Fleet, scratch: Scratch, tmp_path: Path
) -> None:
    outcome = launch_in_pool(resuming, "spread_held_in_pool", scratch)
    scratch.wait_for("in-pool")
    kill(wait_until_taken(outcome))
    wait_until_unhealthy(resuming, outcome)
    assert "runs_until_released" in steps_in_pool(resuming)[outcome.run_id]
    assert resuming.monitor() == []
    wait_until_taken(outcome, 2)
    assert "runs_until_released" in steps_in_pool(resuming)[outcome.run_id]
    scratch.note("release")
    resuming.wait(outcome)
    assert outcome.status is SUCCESS
    assert scratch.count("in-pool") == scratch.count("came-next") == 1
    assert_next_run_gets_the_slot(resuming, tmp_path)
