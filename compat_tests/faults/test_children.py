"""Processes of steps that die in every way there is: what the log says, and who does not notice."""

import os
import signal
import time

import pytest
from dagster import DagsterEventType, DagsterRunStatus

from compat_tests.executor.runs import House, Outcome
from compat_tests.executor.scratch import Scratch
from compat_tests.faults import children_jobs
from compat_tests.faults.children_jobs import DEATHS, ONCE
from compat_tests.faults.conftest import Figure

#: What the log says of each death.
SAID = {
    "exits": "exit code 7",
    "is_killed": "SIGKILL",
    "crashes": "SIGSEGV",
    "aborts": "SIGABRT",
    "runs_out_of_memory": "MemoryError",
    "waits_to_be_killed": "SIGKILL",
}
BESIDE = ("beside_a", "beside_b")
BEGUN = tuple(f"{name}-began" for name in BESIDE)


def time_of(outcome: Outcome, kind: DagsterEventType, step: str) -> float:
    """Return when a step's event of a kind was written, in seconds since the epoch."""
    (found,) = (
        entry.timestamp
        for entry in outcome.instance.all_logs(outcome.run_id, of_type=kind)
        if entry.step_key == step
    )
    return found


@pytest.mark.oldest
def test_a_step_whose_process_is_killed_fails_or_is_retried_alone(
    fleet: House, scratch: Scratch, figure: Figure
) -> None:
    job = children_jobs.deaths_beside_others
    outcome = fleet.create(job, scratch)
    killed: list[float] = []

    def kill_then_let_go() -> None:
        all_there = all(scratch.count(name) for name in ("victim", *BEGUN))
        if not killed and all_there:
            os.kill(int(scratch.lines("victim")[0]), signal.SIGKILL)
            killed.append(time.time())
        # The others are there for as long as anybody dies.
        over = all(scratch.count(f"{name}{ONCE}-ended") for name in DEATHS)
        if over and outcome.failed == SAID.keys() and not scratch.count("go"):
            scratch.note("go")

    fleet.execute(outcome, job, meanwhile=kill_then_let_go)
    assert (outcome.status, outcome.failed) == (DagsterRunStatus.FAILURE, set(SAID))
    for step, words in SAID.items():
        assert words in outcome.failure(step)
    # Each process that died had begun its step once, and did not come to its end.
    for name in DEATHS:
        assert (scratch.count(name), scratch.count(f"{name}-ended")) == (1, 0)
        assert (scratch.count(f"{name}{ONCE}"), scratch.count(f"{name}{ONCE}-ended")) == (2, 1)
    assert scratch.count("victim") == 1
    # The other slots: each step in one process from its beginning to its end, once.
    for name in BESIDE:
        assert scratch.lines(f"{name}-began") == scratch.lines(f"{name}-ended")
        assert scratch.count(f"{name}-began") == 1
    died = {name: float(scratch.lines(name)[0]) for name in DEATHS}
    died["waits_to_be_killed"] = killed[0]
    for step, moment in died.items():
        took = time_of(outcome, DagsterEventType.STEP_FAILURE, step) - moment
        figure(f"{step}: from the death to the step's failure in the log", f"{took:.2f} s")
