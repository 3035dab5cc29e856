"""The process that runs a run's loop is killed: the run goes on, and no step is repeated."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterEventType, DagsterRunStatus
from dagster._core.workspace.load_target import EmptyWorkspaceTarget

from compat_tests.conftest import StartWorker
from compat_tests.executor.conftest import SLOTS
from compat_tests.executor.runs import House, Outcome
from compat_tests.executor.scratch import Scratch
from compat_tests.faults import orchestrator_jobs
from compat_tests.faults.conftest import Figure
from compat_tests.faults.orchestrator_jobs import HELD, held_name
from compat_tests.launcher.deaths import (
    ends_of,
    kill,
    wait_until_taken,
    wait_until_task_ended,
    wait_until_unhealthy,
)
from compat_tests.launcher.fleet import Fleet, open_fleet
from compat_tests.waiting import eventually
from dagster_taskiq.client import client_for
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.tags import TASK_ID_TAG

SUCCESS, FAILURE = DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE

#: Dagster's run monitoring, of which the tests make the polls.
MONITORING = {"enabled": True, "max_resume_run_attempts": 3}


@pytest.fixture
def monitored(fleet: House, tmp_path: Path) -> Iterator[Fleet]:
    """An instance with run monitoring, whose runs the shared worker executes."""
    home = tmp_path / "monitored"
    home.mkdir()
    workspace = EmptyWorkspaceTarget()
    with open_fleet(home, fleet.settings, workspace, run_monitoring=MONITORING) as opened:
        yield opened


@pytest.fixture
def own_monitored(settings: Settings, dagster_home: Path) -> Iterator[Fleet]:
    """An instance with run monitoring, for a test with workers of its own."""
    workspace = EmptyWorkspaceTarget()
    with open_fleet(dagster_home, settings, workspace, run_monitoring=MONITORING) as opened:
        yield opened


def launch(fleet: Fleet, scratch: Scratch) -> Outcome:
    outcome = House(fleet.settings, fleet.instance).create(orchestrator_jobs.ten_held, scratch)
    fleet.instance.launch_run(outcome.run_id, fleet.workspace.create_request_context())
    return outcome


def wait_until_begun(scratch: Scratch, *numbers: int) -> None:
    for number in numbers:
        scratch.wait_for(f"began-{held_name(number)}")


def let_go(scratch: Scratch, *numbers: int) -> None:
    for number in numbers:
        scratch.note(f"go-{held_name(number)}")


def times(scratch: Scratch, what: str) -> dict[int, int]:
    """Return how often each held step "began" or "ended"."""
    return {number: scratch.count(f"{what}-{held_name(number)}") for number in range(HELD)}


@pytest.mark.test_all("launcher/test_resuming.py kills the process of a run once")
def test_a_run_whose_process_is_killed_twice_goes_on_and_repeats_no_step(
    monitored: Fleet, scratch: Scratch, figure: Figure
) -> None:
    outcome = launch(monitored, scratch)
    wait_until_begun(scratch, *range(SLOTS))
    for attempt in range(2):
        kill_and_resume(monitored, outcome, attempt, figure)
    let_go(scratch, *range(4, HELD))
    monitored.wait(outcome)
    wait_until_task_ended(monitored, outcome)
    assert outcome.status is SUCCESS
    assert outcome.run.tags[TASK_ID_TAG] == f"{outcome.run_id}.2"
    assert times(scratch, "began") == times(scratch, "ended") == dict.fromkeys(range(HELD), 1)
    assert scratch.count("below") == 1
    outcome.assert_sound()


def kill_and_resume(fleet: Fleet, outcome: Outcome, attempt: int, figure: Figure) -> None:
    """Kill a run's process when steps wait, run and have just ended; see them adopted."""
    scratch = outcome.scratch
    ends, ends_later = 2 * attempt, 2 * attempt + 1
    starts = SLOTS + ends
    pid = wait_until_taken(outcome, attempt + 1)
    eventually(lambda: sum(fleet.waiting().values()) == HELD - starts, "the others wait")
    # It sees nothing of what happens now: a step ends, and another one takes its slot.
    os.kill(pid, signal.SIGSTOP)
    let_go(scratch, ends)
    eventually(lambda: held_name(ends) in outcome.succeeded, "the step has ended")
    wait_until_begun(scratch, starts)
    killed_at = time.monotonic()
    kill(pid)
    assert "SIGKILL" in str(wait_until_unhealthy(fleet, outcome).msg)
    figure(f"from SIGKILL {attempt + 1} until the run's health is FAILED", since(killed_at))
    assert fleet.monitor() == []
    # All slots are taken by its own steps: it goes on when one of them is free.
    let_go(scratch, ends_later)
    adopted = f'"{held_name(starts)}" is STARTED'
    eventually(lambda: outcome.says(adopted, "going on with it"), "the steps are adopted")
    figure(f"from SIGKILL {attempt + 1} until its steps are adopted", since(killed_at))
    wait_until_begun(scratch, starts + 1)


def since(began_at: float) -> str:
    return f"{time.monotonic() - began_at:.2f} s"


def test_a_run_that_dies_with_the_worker_of_its_steps_repeats_only_what_died(
    own_monitored: Fleet, start_worker: StartWorker, scratch: Scratch, figure: Figure
) -> None:
    fleet = own_monitored
    doomed = start_worker("-c", str(SLOTS), name="doomed")
    outcome = launch(fleet, scratch)
    wait_until_begun(scratch, *range(SLOTS))
    let_go(scratch, 0)
    wait_until_begun(scratch, SLOTS)
    eventually(lambda: held_name(0) in outcome.succeeded)
    running = range(1, SLOTS + 1)
    killed_at = time.monotonic()
    doomed.signal(signal.SIGKILL)
    assert "doomed" in str(wait_until_unhealthy(fleet, outcome).msg)
    lease = f"with a lease of {fleet.settings.lease:g} s"
    figure(f"from the worker's SIGKILL until health is FAILED, {lease}", since(killed_at))
    start_worker("-c", str(SLOTS), name="successor")
    let_go(scratch, *range(1, HELD))
    assert fleet.monitor() == []
    fleet.wait(outcome)
    wait_until_task_ended(fleet, outcome)
    assert outcome.status is SUCCESS
    twice = dict.fromkeys(range(HELD), 1) | dict.fromkeys(running, 2)
    assert times(scratch, "began") == twice
    assert times(scratch, "ended") == dict.fromkeys(range(HELD), 1)
    assert scratch.count("below") == 1
    outcome.assert_sound({held_name(number) for number in running})


# What becomes of a step that ends without a word: the same on every broker, so on one.

on_one = pytest.mark.parametrize("fleet", ["embedded"], indirect=True)
on_own = pytest.mark.parametrize("broker_kind", ["embedded"], indirect=True)
RETRY = {"worker_lost": "retry"}


@on_one
def test_how_often_a_step_was_lost_is_remembered_when_its_run_is_resumed(
    fleet: House, scratch: Scratch
) -> None:
    job = orchestrator_jobs.dies_again_and_again
    with fleet.started(job, scratch, executor=RETRY) as process:
        scratch.wait_for("attempt", 3)
        process.kill()
    with fleet.resumed(process.outcome) as process:
        eventually(lambda: process.outcome.says("going on with it"), "the step is adopted")
        scratch.note("go")
        outcome = process.wait()
    assert outcome.status is FAILURE
    # Three times more than once, as in a run that nobody has killed.
    assert scratch.count("attempt") == 4
    outcome.assert_sound()


@on_own
@pytest.mark.test_all("executor/test_time_limits.py")
def test_a_step_over_its_time_limit_is_not_taken_for_a_lost_one(
    own: House, start_worker: StartWorker, scratch: Scratch
) -> None:
    start_worker("-c", "2", "--time-limit", "10")
    outcome = own.run(orchestrator_jobs.too_long, scratch, executor=RETRY)
    assert outcome.failed == {"stays", "stays_with_policy"}
    assert "exceeded its time limit" in outcome.failure("stays")
    assert (scratch.count("stays"), scratch.count("stays-with-policy")) == (1, 2)


@on_own
def test_a_step_that_exceeded_its_time_limit_without_its_run_is_not_run_again(
    own: House, start_worker: StartWorker, scratch: Scratch
) -> None:
    start_worker("-c", "1", "--time-limit", "10")
    with own.started(orchestrator_jobs.too_long_once, scratch, executor=RETRY) as process:
        scratch.wait_for("stays")
        process.kill()
    outcome = process.outcome
    task_id = f"{outcome.run_id}:stays:0"
    client = client_for(own.settings)
    eventually(lambda: client.tasks([task_id])[task_id].state.is_final, "its task has ended")
    with own.resumed(outcome) as process:
        process.wait()
    assert (outcome.status, outcome.failed) == (FAILURE, {"stays"})
    assert "exceeded its time limit" in outcome.failure("stays")
    assert scratch.count("stays") == 1
    assert ends_of(outcome) == [DagsterEventType.RUN_FAILURE]


@on_one
def test_a_step_whose_code_does_not_load_is_not_taken_for_a_lost_one(
    fleet: House, scratch: Scratch
) -> None:
    outcome = fleet.run(orchestrator_jobs.loads_only_here, scratch, executor=RETRY)
    assert outcome.failed == {"stays", "stays_with_policy"}
    assert "no such code here" in outcome.failure("stays")
    assert outcome.steps(DagsterEventType.STEP_UP_FOR_RETRY) == ["stays_with_policy"]


@on_own
def test_a_step_whose_worker_is_killed_by_a_third_signal_is_lost(
    own: House, start_worker: StartWorker, scratch: Scratch
) -> None:
    doomed = start_worker("-c", "1", name="doomed")
    job = orchestrator_jobs.deaf_to_the_first_worker
    outcome = own.create(job, scratch, executor=RETRY)
    deeds: list[str] = []

    def kill_and_replace() -> None:
        if deeds or not scratch.count("deaf-at-first"):
            return
        deeds.append("killed")
        for said in ("Draining", "Second signal", "Third signal"):
            doomed.signal(signal.SIGTERM)
            eventually(lambda said=said: said in doomed.output(), said)
        start_worker("-c", "1", name="successor")

    own.execute(outcome, job, meanwhile=kill_and_replace)
    assert outcome.status is SUCCESS
    assert scratch.count("deaf-at-first") == 2
