"""Steps that run one after the other in one process: each finds it as a new one would be."""

import json

import pytest
from dagster import DagsterRunStatus

from compat_tests.conftest import StartWorker
from compat_tests.executor.runs import House
from compat_tests.executor.scratch import Scratch
from compat_tests.executor.test_features import logs_of
from compat_tests.faults import dirty_jobs


@pytest.mark.parametrize("broker_kind", ["embedded"], indirect=True)
def test_steps_find_their_process_as_a_new_one_or_another_one_if_that_cannot_be(
    own: House, start_worker: StartWorker, scratch: Scratch
) -> None:
    worker = start_worker("-c", "1")
    outcome = own.run(dirty_jobs.many, scratch)
    assert outcome.status is DagsterRunStatus.SUCCESS
    first, *others = map(json.loads, scratch.lines("found"))
    assert len(others) == dirty_jobs.MANY - 1
    assert [each for each in others if each != first] == []
    (process,) = set(scratch.lines("processes"))

    outcome = own.run(dirty_jobs.what_cannot_be_restored, scratch)
    assert outcome.status is DagsterRunStatus.SUCCESS
    begun, closed, threaded, last = scratch.lines("processes")[dirty_jobs.MANY :]
    assert begun == closed == process
    assert len({process, threaded, last}) == 3
    for sentence in (
        f'Step "closes_its_output" of run {outcome.run_id} left behind: a closed sys.stdout. Its '
        f"process (pid {closed}) is replaced, so that the next task finds a clean one.",
        f'Step "leaves_a_thread" of run {outcome.run_id} left behind: threads that still run: '
        f"prints later. Its process (pid {threaded}) is replaced, ",
    ):
        assert sentence in worker.output()
    assert logs_of(outcome, "closes_its_output")[0] == "before it is closed\n"
    assert logs_of(outcome, "ends")[0] == ""
