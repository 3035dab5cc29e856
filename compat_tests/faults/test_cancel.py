"""Runs that are cancelled, at every moment: nothing of them is left, and nothing runs later."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterEventType, DagsterRunStatus
from dagster._core.workspace.load_target import EmptyWorkspaceTarget

from compat_tests.brokers import BROKERS, Limit, has_limit
from compat_tests.conftest import StartWorker
from compat_tests.executor.runs import House, Outcome
from compat_tests.executor.scratch import Scratch
from compat_tests.faults import cancel_jobs
from compat_tests.faults.cancel_jobs import WAITING
from compat_tests.faults.conftest import Figure
from compat_tests.launcher.deaths import ends_of, is_running
from compat_tests.launcher.fleet import open_fleet
from compat_tests.waiting import eventually
from dagster_taskiq.client import client_for

CANCELED, SUCCESS = DagsterRunStatus.CANCELED, DagsterRunStatus.SUCCESS

#: A run under way, and what cancels it.
UnderWay = tuple[Outcome, Callable[[], object]]
#: Starts the run of a job, for as long as the test wants it.
Way = Callable[[House, Any, Scratch], AbstractContextManager[UnderWay]]


@contextmanager
def in_its_own_process(house: House, job: Any, scratch: Scratch) -> Iterator[UnderWay]:
    with house.started(job, scratch) as process:

        def cancel() -> None:
            if process.outcome.status is DagsterRunStatus.CANCELING:
                process.signal(signal.SIGTERM)
            else:
                process.terminate_run()

        yield process.outcome, cancel


@contextmanager
def launched(house: House, job: Any, scratch: Scratch) -> Iterator[UnderWay]:
    home = scratch.directory / "home"
    home.mkdir()
    with open_fleet(home, house.settings, EmptyWorkspaceTarget()) as fleet:
        outcome = House(house.settings, fleet.instance).create(job, scratch)
        fleet.instance.launch_run(outcome.run_id, fleet.workspace.create_request_context())
        yield outcome, lambda: fleet.instance.run_launcher.terminate(outcome.run_id)


def pids_at(scratch: Scratch, moment: str) -> list[int]:
    """Return the processes that have come to a moment, those that they started included."""
    scratch.wait_for(moment)
    return [int(pid) for line in scratch.lines(moment) for pid in line.split()]


def wait_until_gone(pid: int) -> None:
    eventually(lambda: not is_running(pid), f"process {pid} is gone")


def wait_until_nothing_is_left(house: House, outcome: Outcome) -> None:
    """Wait until no queue, no worker and no record has anything of a run that has ended."""
    client = client_for(house.settings)
    sent = outcome.of(DagsterEventType.STEP_WORKER_STARTING)
    ids = [str(each.engine_event_data.metadata["task_id"].value) for each in sent]
    eventually(
        lambda: all(task.state.is_final for task in client.tasks([*ids, outcome.run_id]).values()),
        "all its tasks have ended",
    )
    eventually(
        lambda: not any(each.running for each in client.workers() if not each.is_lost),
        "the workers are free",
    )
    if has_limit(house.settings, Limit.DISCARD):
        eventually(lambda: house.waiting() == 0, "the workers have dropped what was cancelled")
    assert house.waiting() == 0


def notes_of(scratch: Scratch) -> dict[str, int]:
    """Return what the ops have done so far."""
    files = [path for path in scratch.directory.iterdir() if path.is_file()]
    return {path.name: scratch.count(path.name) for path in files if path.suffix != ".log"}


#: Where the steps of ``held_at_every_moment`` are held that are not waiting for a slot.
MOMENTS = ("starting", "running", "leaving", "deaf")


def cancel_at_every_moment(house: House, way: Way, scratch: Scratch, figure: Figure) -> None:
    """Hold a run with its steps at every moment, cancel it twice, and look at what is left."""
    with way(house, cancel_jobs.held_at_every_moment, scratch) as (outcome, cancel):
        pids = {moment: pids_at(scratch, moment) for moment in MOMENTS}
        house.wait_until_queued(WAITING)
        asked_at = time.monotonic()
        cancel()
        cancel()
        wait_until_gone(*pids["running"])
        figure(f"{way.__name__}: from the request to a dead step", since(asked_at))
        house.wait_until_queued(0)
        figure(f"{way.__name__}: until none of {WAITING} steps waits", since(asked_at))
        eventually(lambda: outcome.run.is_finished, "the run ends")
        figure(f"{way.__name__}: until the run has ended, one step being deaf", since(asked_at))
        still = {moment for moment, each in pids.items() if any(is_running(pid) for pid in each)}
        assert still == set(), "processes of steps outlive their run"
        wait_until_nothing_is_left(house, outcome)
        assert outcome.status is CANCELED
        assert ends_of(outcome) == [DagsterEventType.RUN_CANCELED]
    assert scratch.count("cleaned-up") == 1
    assert (scratch.count("worked"), scratch.total("beyond-"), scratch.count("quick")) == (1, 0, 0)


def since(began_at: float) -> str:
    return f"{time.monotonic() - began_at:.2f} s"


def test_a_cancelled_run_leaves_nothing_whatever_its_steps_were_doing(
    own: House, start_worker: StartWorker, tmp_path: Path, figure: Figure
) -> None:
    worker = start_worker("-c", str(len(MOMENTS)), "--kill-grace", "2")
    scratches = []
    for way in (in_its_own_process, launched):
        scratches.append(Scratch(tmp_path / way.__name__))
        scratches[-1].directory.mkdir()
        cancel_at_every_moment(own, way, scratches[-1], figure)
    before = [notes_of(each) for each in scratches]
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    start_worker("-c", "1")
    later = Scratch(tmp_path / "later")
    later.directory.mkdir()
    assert own.run(cancel_jobs.one_quick, later).status is SUCCESS
    assert later.count("quick") == 1
    assert [notes_of(each) for each in scratches] == before


# That steps wait, run and stop is the broker's; how the run's own process takes it is not.
@pytest.mark.parametrize(
    ("fleet", "way"),
    [*((kind, launched) for kind in BROKERS), ("embedded", in_its_own_process)],
    indirect=["fleet"],
    ids=[*(f"{kind}-launched" for kind in BROKERS), "embedded-own-process"],
)
@pytest.mark.parametrize("moment", ["unsent", "loading", "leaving"])
def test_a_run_is_cancelled_before_its_first_step_and_after_its_last(
    fleet: House, scratch: Scratch, way: Way, moment: str
) -> None:
    jobs = {
        "unsent": cancel_jobs.held_unsent,
        "loading": cancel_jobs.held_while_loading,
        "leaving": cancel_jobs.held_in_teardown,
    }
    with way(fleet, jobs[moment], scratch) as (outcome, cancel):
        (pid,) = pids_at(scratch, moment)
        if moment == "leaving":
            eventually(lambda: outcome.succeeded == {"leaving"}, "the step has ended")
        cancel()
        scratch.note("begin")
        eventually(lambda: outcome.run.is_finished, "the run ends")
        if moment != "unsent":
            assert not is_running(pid), "a process of a step outlives its run"
        wait_until_nothing_is_left(fleet, outcome)
        assert outcome.status is CANCELED
        assert ends_of(outcome) == [DagsterEventType.RUN_CANCELED]
    assert (scratch.count("quick"), scratch.total("beyond-")) == (0, 0)
