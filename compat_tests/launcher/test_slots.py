"""A slot is for work: runs that wait for their own steps hold none, and are bounded by seats."""

import itertools

from dagster import DagsterRunStatus

from compat_tests.conftest import StartWorker
from compat_tests.executor.scratch import Scratch
from compat_tests.launcher.conftest import OwnFleet
from compat_tests.waiting import eventually
from dagster_taskiq.wire.records import Worker


def most_at_once(scratch: Scratch) -> int:
    """Return how many ops worked at the same moment, by what they noted themselves."""
    steps = [1 if line.startswith("+") else -1 for line in scratch.lines("working")]
    return max(itertools.accumulate(steps))


def test_one_slot_is_enough_for_a_run_and_its_steps(
    own_fleet: OwnFleet, start_worker: StartWorker, scratch: Scratch
) -> None:
    fleet = own_fleet()
    start_worker("-c", "1")
    runs = [fleet.launch("spread_that_meets", scratch) for _ in range(3)]
    for outcome in runs:
        assert fleet.wait(outcome).status is DagsterRunStatus.SUCCESS
        outcome.assert_sound()
    assert sorted(scratch.lines("finished")) == sorted(outcome.run_id for outcome in runs)
    assert most_at_once(scratch) == 1
    assert fleet.client.depths() == []


def test_many_runs_on_two_slots_finish_within_the_bounds_of_slots(
    own_fleet: OwnFleet, start_worker: StartWorker, scratch: Scratch, broker_kind: str
) -> None:
    fleet = own_fleet()
    # Each costs a second of work, and what bounds them is the worker, not the broker.
    number = 20 if broker_kind == "redis" else 15
    runs = [fleet.launch("spread_that_meets", scratch) for _ in range(number)]
    start_worker("-c", "2", "--max-runs", "4")
    held, busy = set(), set()

    def all_ended() -> bool:
        worker = fleet.worker
        held.add(sum(not each.step_key for each in worker.running))
        busy.add(worker.busy_slots)
        return scratch.count("finished") == number and all(each.run.is_finished for each in runs)

    eventually(all_ended, "all runs end", timeout=150)
    assert {outcome.status for outcome in runs} == {DagsterRunStatus.SUCCESS}
    assert len(set(scratch.lines("finished"))) == number
    assert most_at_once(scratch) <= 2
    # The worker says so itself, at each of its heartbeats that came by.
    assert max(held) <= 4
    assert max(busy) <= 2
    assert fleet.client.depths() == []


def test_a_run_takes_a_seat_and_frees_its_slot_once_it_only_waits(
    own_fleet: OwnFleet, start_worker: StartWorker, scratch: Scratch
) -> None:
    fleet = own_fleet()
    start_worker("-c", "1", "--max-runs", "1")
    first = fleet.launch("spread_that_waits", scratch)
    scratch.wait_for("waiting")
    second = fleet.launch("whole", scratch)  # no seat is free for it, nor a slot

    def seated() -> Worker | None:
        worker = fleet.worker
        return worker if len(worker.running) == 2 else None

    worker = eventually(seated, "run and step are shown")
    (run,) = [each for each in worker.running if not each.step_key]
    (step,) = [each for each in worker.running if each.step_key]
    assert (run.orchestrating, step.orchestrating) == (True, False)
    assert run.pid != step.pid
    assert (worker.busy_slots, worker.concurrency, worker.max_runs) == (1, 1, 1)
    assert fleet.waiting() == {f"{fleet.settings.queue}:runs": 1}
    scratch.note("release")
    assert fleet.wait(first).status is DagsterRunStatus.SUCCESS
    assert fleet.wait(second).status is DagsterRunStatus.SUCCESS


def test_runs_that_work_themselves_hold_their_slots(
    own_fleet: OwnFleet, start_worker: StartWorker, scratch: Scratch
) -> None:
    fleet = own_fleet()
    runs = [fleet.launch("whole_that_waits", scratch) for _ in range(3)]
    start_worker("-c", "2", "--max-runs", "3")
    scratch.wait_for("waiting", 2)
    eventually(lambda: len(fleet.worker.running) == 2)
    assert fleet.worker.busy_slots == 2
    assert scratch.count("waiting") == 2
    scratch.note("release")
    for outcome in runs:
        assert fleet.wait(outcome).status is DagsterRunStatus.SUCCESS
    assert scratch.count("released") == 3
