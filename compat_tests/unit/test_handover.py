"""Which workers can take over what a worker that drains hands over."""

from dataclasses import replace

from taskiq import TaskiqMessage

from compat_tests.unit.doubles import LEASE, QUEUE, make_worker
from dagster_taskiq.wire.labels import QUEUE_LABEL
from dagster_taskiq.wire.queues import run_queue
from dagster_taskiq.wire.records import Running
from dagster_taskiq.wire.task_names import EXECUTE_JOB
from dagster_taskiq.worker.handover import Takers


def message(queue: str) -> TaskiqMessage:
    labels = {QUEUE_LABEL: queue}
    return TaskiqMessage(task_id="t", task_name="n", labels=labels, args=[], kwargs={})


RUN, STEP = message(run_queue(QUEUE)), message(QUEUE)


def test_a_run_takes_a_place_and_a_step_needs_none() -> None:
    takers = Takers([replace(make_worker(), max_runs=2)])
    assert [takers.may_take(RUN) for _ in range(3)] == [True, True, False]
    assert all(takers.may_take(STEP) for _ in range(3))


def test_runs_that_a_worker_holds_have_their_places() -> None:
    held = Running("r", EXECUTE_JOB, "r", "", 1, 1.0, orchestrating=True)
    takers = Takers([replace(make_worker(), max_runs=1, running=(held,))])
    assert not takers.may_take(RUN)


def test_workers_that_are_lost_drain_or_serve_other_queues_take_nothing() -> None:
    able = replace(make_worker(), max_runs=9)
    lost = replace(able, age=LEASE + 1)
    draining = replace(able, draining=True)
    elsewhere = replace(able, queues=("other",))
    takers = Takers([lost, draining, elsewhere])
    assert not takers.may_take(RUN)
    assert not takers.may_take(STEP)
