"""Workers that are killed or frozen in the midst of a run, beside one that goes on.

The other one is the warm worker that most tests share. Who began what, in which process, and came
to its end, is counted in the notes of the steps themselves.
"""

import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
import pytest
from dagster import DagsterEventType, DagsterRunStatus

from compat_tests.executor.conftest import SLOTS
from compat_tests.executor.runs import House, Outcome
from compat_tests.executor.scratch import Scratch
from compat_tests.faults import workers_jobs
from compat_tests.faults.conftest import Figure
from compat_tests.faults.workers_jobs import GO, go_of
from compat_tests.waiting import eventually
from compat_tests.workers import WorkerProcess, freeze, running_worker
from dagster_taskiq.client import client_for

SUCCESS, FAILURE = DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE
RETRY = DagsterEventType.STEP_UP_FOR_RETRY

#: What becomes of a step that was under way on a lost worker: by the mode, those without a policy.
FAILS_WITHOUT_POLICY = {"fail": True, "retry": False}


@contextmanager
def second_worker(house: House, scratch: Scratch, name: str) -> Iterator[WorkerProcess]:
    """Start a worker beside the one the house has; its name is this test's own."""
    # What other tests have killed stays on record, and must not be taken for it.
    name = f"{name}-{scratch.directory.parent.name}"
    with running_worker(house.settings, scratch.directory, "-c", str(SLOTS), name=name) as worker:
        yield worker


def tree_of(worker: WorkerProcess) -> list[psutil.Process]:
    """Return a worker's process and all that it has started."""
    parent = psutil.Process(worker.pid)
    return [parent, *parent.children(recursive=True)]


def begun_by(scratch: Scratch, pids: set[int]) -> set[str]:
    """Return the steps that were begun in one of these processes."""
    rows = (line.split() for line in scratch.lines("began"))
    return {step for step, pid in rows if int(pid) in pids}


def times(scratch: Scratch, name: str) -> Counter[str]:
    """Return how often each step noted this."""
    return Counter(line.split()[0] for line in scratch.lines(name))


def is_dead(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def first_time_of(outcome: Outcome, kinds: set[DagsterEventType], steps: set[str]) -> float:
    """Return when the first event of these kinds of one of these steps was written."""
    entries = outcome.instance.all_logs(outcome.run_id, of_type=kinds)
    return min(entry.timestamp for entry in entries if entry.step_key in steps)


@contextmanager
def the_run_ending(scratch: Scratch) -> Iterator[None]:
    """Let the run end when this has been done, also where it fails: the test waits for both."""
    try:
        yield
    finally:
        scratch.note(GO)


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param("fail", marks=pytest.mark.test_all("executor/test_faults.py has such steps")),
        "retry",
    ],
)
def test_a_worker_that_is_killed_among_twenty_steps_loses_those_it_ran_alone(
    fleet: House, scratch: Scratch, figure: Figure, mode: str
) -> None:
    outcome = fleet.create(workers_jobs.twenty, scratch, executor={"worker_lost": mode})
    killed: list[float] = []
    lost: set[str] = set()

    with second_worker(fleet, scratch, "doomed") as doomed:

        def kill_then_let_go() -> None:
            if killed or scratch.count("began") < 2 * SLOTS:
                return
            with the_run_ending(scratch):
                tree = tree_of(doomed)
                lost.update(begun_by(scratch, {each.pid for each in tree}))
                doomed.signal(signal.SIGKILL)
                killed.append(time.time())
                # Nothing of it may be there to see that it could go on.
                eventually(lambda: all(map(is_dead, tree)), "all its processes are gone")

        fleet.execute(outcome, workers_jobs.twenty, meanwhile=kill_then_let_go)
    assert len(lost) == SLOTS
    without_policy = {step for step in lost if step.startswith("plain")}
    failed = without_policy if FAILS_WITHOUT_POLICY[mode] else set()
    assert outcome.failed == failed
    assert outcome.status is (FAILURE if failed else SUCCESS)
    for step in failed:
        assert doomed.name in outcome.failure(step)
        assert "silent" in outcome.failure(step)
    began, ended = times(scratch, "began"), times(scratch, "ended")
    assert len(began) == 20
    assert began == Counter([*began.keys(), *(lost - failed)])
    assert ended == Counter(began.keys() - failed)

    given_up = first_time_of(outcome, {DagsterEventType.STEP_FAILURE, RETRY}, lost)
    waited = set(began) - set(list(began)[: 2 * SLOTS])
    taken = first_time_of(outcome, {DagsterEventType.STEP_START}, waited)
    figure("its lease", f"{fleet.settings.lease:.0f} s")
    figure("from SIGKILL to the first of its steps given up", f"{given_up - killed[0]:.2f} s")
    figure("from SIGKILL to the first that waited begun elsewhere", f"{taken - killed[0]:.2f} s")


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(
            1,  # a worker's own process; those of its steps go on
            marks=pytest.mark.test_all("that all of it is frozen is the harder case"),
            id="parent",
        ),
        pytest.param(None, id="all"),  # as a machine that is paused does
    ],
)
def test_what_a_worker_frozen_beyond_its_lease_reports_later_does_not_count(
    fleet: House,
    scratch: Scratch,
    figure: Figure,
    first: int | None,
) -> None:
    outcome = fleet.create(workers_jobs.six, scratch, executor={"worker_lost": "retry"})
    client = client_for(fleet.settings)
    woken: list[float] = []
    lost: set[str] = set()

    with second_worker(fleet, scratch, "sleeper") as sleeper:

        def is_free() -> bool:
            mine = [each for each in client.workers() if each.name == sleeper.name]
            return all(not each.is_lost and not each.running for each in mine)

        def freeze_then_wake() -> None:
            if woken or scratch.count("began") < 6:
                return
            with the_run_ending(scratch):
                freeze_and_wake()

        def freeze_and_wake() -> None:
            tree = tree_of(sleeper)
            pids = {each.pid for each in tree}
            lost.update(begun_by(scratch, pids))
            frozen_at = time.time()
            freeze(tree[:first], fleet.settings)
            for step in times(scratch, "began").keys() - lost:
                scratch.note(go_of(step, 0))
            eventually(lambda: lost <= set(outcome.steps(RETRY)), "they are given up")
            figure("from SIGSTOP to being given up", f"{time.time() - frozen_at:.2f} s")
            # What it had begun would go on now, if it were still there to do so.
            for step in lost:
                scratch.note(go_of(step, 0))
            scratch.wait_for("began", 6 + len(lost))
            # Whoever begins them anew is alone with them: frozen or not, they have ended here.
            assert tree[0].status() == psutil.STATUS_STOPPED
            assert not alive_among(lost, scratch, pids)
            for process in tree:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT)
            eventually(lambda: "longer than the lease" in sleeper.output(), "it notices")
            eventually(is_free, "it beats again, and holds nothing")
            assert not outcome.succeeded & lost
            assert not times(scratch, "ended").keys() & lost
            woken.append(time.time())

        fleet.execute(outcome, workers_jobs.six, meanwhile=freeze_then_wake)
        eventually(is_free)
        assert "Dropped the result of task" in sleeper.output()
    assert lost
    assert (outcome.status, len(outcome.succeeded)) == (SUCCESS, 6)
    assert times(scratch, "began") == Counter([*outcome.succeeded, *lost])
    assert times(scratch, "ended") == Counter(outcome.succeeded)


def alive_among(steps: set[str], scratch: Scratch, pids: set[int]) -> set[int]:
    """Return those of these processes that have begun one of these steps, and still live."""
    rows = [line.split() for line in scratch.lines("began")]
    theirs = {int(pid) for step, pid in rows if step in steps} & pids
    return {pid for pid in theirs if psutil.pid_exists(pid) and not is_dead(psutil.Process(pid))}
