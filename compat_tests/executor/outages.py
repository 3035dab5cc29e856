"""Harm that is done to a server in the middle of a run, whichever server it is."""

import time
from collections.abc import Callable
from typing import Protocol

from dagster import DagsterRunStatus

from compat_tests.executor import fault_jobs
from compat_tests.executor.runs import House, Outcome
from compat_tests.executor.scratch import Scratch
from compat_tests.proxy import Proxy
from compat_tests.waiting import eventually
from compat_tests.workers import WorkerProcess

QUICK = [f"quick_{number}" for number in range(6)]
FIFTY = [f"quick_{number}" for number in range(50)]


class Server(Protocol):
    """One of the tests' own."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def kill(self) -> None: ...

    def freeze(self) -> None: ...

    def thaw(self) -> None: ...


def assert_each_once(outcome: Outcome) -> None:
    """Check that each step of ``two_held_and_more`` was done, and once."""
    scratch = outcome.scratch
    assert outcome.status is DagsterRunStatus.SUCCESS
    assert (scratch.count("held-began"), scratch.count("policy-began")) == (1, 1)
    assert (scratch.count("held-ended"), scratch.count("policy-ended")) == (1, 1)
    assert sorted(scratch.lines("quick")) == QUICK


def run_through(house: House, scratch: Scratch, harm: Callable[[Outcome], object]) -> Outcome:
    """Run a job, do harm once while two of its steps are held, and check that each is done once.

    Args:
        harm: what is done; it is told the run. Afterwards the two steps are let go, if it has not.
    """
    outcome = house.create(fault_jobs.two_held_and_more, scratch)
    done: list[bool] = []

    def meanwhile() -> None:
        if not done and scratch.count("held-began") and scratch.count("policy-began"):
            done.append(True)
            harm(outcome)
            scratch.note("go")

    house.execute(outcome, fault_jobs.two_held_and_more, meanwhile=meanwhile)
    assert done
    assert_each_once(outcome)
    return outcome


def restart(server: Server, outcome: Outcome, *, kill: bool = False) -> None:
    """Stop or kill a server, and start it again once the run has noticed."""
    server.kill() if kill else server.stop()
    eventually(lambda: outcome.says("does not answer"), "the outage is said")
    server.start()


def freeze(server: Server, worker: WorkerProcess, outcome: Outcome, seconds: float = 0.0) -> float:
    """Freeze a server until run and worker have said so, and for some seconds at the least.

    Returns:
        For how long it was frozen, in seconds.
    """
    before = worker.output().count("Cannot send a heartbeat")
    since = time.monotonic()
    server.freeze()
    try:
        eventually(lambda: outcome.says("does not answer"), "the run says it")
        eventually(
            lambda: worker.output().count("Cannot send a heartbeat") > before, "so does the worker"
        )
        time.sleep(max(0.0, seconds - (time.monotonic() - since)))
    finally:
        server.thaw()
    return time.monotonic() - since


def end_steps(scratch: Scratch) -> None:
    """Let the two steps go, and wait until they have done their work."""
    scratch.note("go")
    scratch.wait_for("held-ended")
    scratch.wait_for("policy-ended")


def shut(door: Proxy, outcome: Outcome) -> None:
    """Let nobody reach a server until the run says so; what ends meanwhile cannot tell."""
    door.refuse()
    end_steps(outcome.scratch)
    eventually(lambda: outcome.says("does not answer"), "the outage is said")
    door.accept()


def run_while_cut(house: House, door: Proxy, scratch: Scratch) -> int:
    """Run a job whose connections are cut again and again, and check that each step is done once.

    Returns:
        How often they were cut.
    """
    outcome = house.create(fault_jobs.held_before_fifty, scratch)
    cuts: list[int] = []

    def cut() -> None:
        # Once for every five steps that have gone through, and while the others wait.
        if scratch.count("held-began") and scratch.count("quick") >= 5 * len(cuts):
            cuts.append(door.cut())
        if len(cuts) == 9 and not scratch.count("go"):
            scratch.note("go")

    house.execute(outcome, fault_jobs.held_before_fifty, meanwhile=cut)
    assert outcome.status is DagsterRunStatus.SUCCESS
    assert len([each for each in cuts if each]) >= 5, cuts
    assert (scratch.count("held-began"), scratch.count("held-ended")) == (1, 1)
    assert sorted(scratch.lines("quick")) == sorted(FIFTY)
    return len(cuts)
