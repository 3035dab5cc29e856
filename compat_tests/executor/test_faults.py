"""Steps, workers and servers that die in the middle: what is said, repeated, and never repeated."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from dagster import DagsterEventType, DagsterRunStatus

from compat_tests.brokers import Limit, has_limit
from compat_tests.conftest import StartWorker, on_each_broker_and_storage
from compat_tests.executor import fault_jobs
from compat_tests.executor.outages import restart, run_through
from compat_tests.executor.runs import House, Outcome
from compat_tests.executor.scratch import Scratch
from compat_tests.life_errors import LOG_ENV
from compat_tests.servers import own_redis
from compat_tests.waiting import eventually
from dagster_taskiq.client import client_for
from dagster_taskiq.transport.registry import make_broker
from dagster_taskiq.wire.commands import Command, command

SUCCESS, FAILURE = DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE


@on_each_broker_and_storage
@pytest.mark.oldest
def test_a_process_that_dies_fails_its_step_by_name_of_the_cause_and_no_other(
    fleet: House, scratch: Scratch
) -> None:
    outcome = fleet.run(fault_jobs.deaths, scratch)
    assert outcome.status is FAILURE
    assert outcome.failed == {"exits", "is_killed", "crashes"}
    assert "exit code 3" in outcome.failure("exits")
    assert "SIGKILL" in outcome.failure("is_killed")
    assert "SIGSEGV" in outcome.failure("crashes")
    assert outcome.succeeded == {"dies_once", "lives"}
    # Each of the three once, for they have no policy; the one that has is tried again.
    assert scratch.count("dies") == 3
    assert scratch.lines("dies_once") == ["0", "1"]
    assert scratch.count("below") == 0


def test_a_step_that_died_is_not_tried_again_by_a_middleware(
    own: House, start_worker: StartWorker, scratch: Scratch
) -> None:
    start_worker("-i", "compat_tests.retrying", "-c", "2")
    outcome = own.run(fault_jobs.deaths, scratch)
    assert outcome.status is FAILURE
    assert outcome.failed == {"exits", "is_killed", "crashes"}
    assert outcome.succeeded == {"dies_once", "lives"}
    # As often as their policies have it.
    assert scratch.count("dies") == 3
    assert scratch.lines("dies_once") == ["0", "1"]
    assert client_for(own.settings).depths() == []


@pytest.mark.oldest
def test_where_lost_steps_are_retried_they_are_with_an_end(fleet: House, scratch: Scratch) -> None:
    outcome = fleet.run(fault_jobs.unprotected_deaths, scratch, executor={"worker_lost": "retry"})
    assert (outcome.failed, outcome.succeeded) == ({"always_dies"}, {"dies_first"})
    assert scratch.count("dies_first") == 2
    assert scratch.count("always_dies") == 4


def test_middlewares_see_steps_and_decide_nothing_about_them(
    own: House,
    scratch: Scratch,
    start_worker: StartWorker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = tmp_path / "hooks"
    monkeypatch.setenv(LOG_ENV, str(log))
    start_worker("-A", "compat_tests.deciding_app", "-c", "2")
    outcome = own.run(fault_jobs.deaths, scratch)
    assert outcome.failed == {"exits", "is_killed", "crashes"}
    assert outcome.succeeded == {"dies_once", "lives"}
    assert scratch.count("dies") == 3
    assert scratch.lines("dies_once") == ["0", "1"]
    assert client_for(own.settings).depths() == []
    eventually(lambda: "post_save another lives" in log.read_text().splitlines())
    seen = log.read_text().splitlines()
    assert {"pre_execute", "post_execute", "post_save"} == {
        line.split()[0] for line in seen if line.endswith(" lives")
    }
    assert seen.count("pre_execute execute_plan is_killed") == 1
    told = [f"{hook} execute_plan is_killed" for hook in ("post_execute", "post_save")]
    eventually(lambda: all(log.read_text().splitlines().count(line) == 1 for line in told))


def test_where_retries_are_disabled_a_lost_step_is_not_retried(
    fleet: House, scratch: Scratch
) -> None:
    executor = {"worker_lost": "retry", "retries": {"disabled": {}}}
    outcome = fleet.run(fault_jobs.unprotected_deaths, scratch, executor=executor)
    assert outcome.failed == {"always_dies", "dies_first"}
    assert (scratch.count("dies_first"), scratch.count("always_dies")) == (1, 1)


def test_a_worker_that_is_killed_loses_what_it_ran_and_nothing_that_waited(
    own: House, start_worker: StartWorker, scratch: Scratch
) -> None:
    doomed = start_worker("-c", "2", name="doomed")
    outcome = own.create(fault_jobs.two_held_and_more, scratch)
    deeds: list[str] = []

    def kill_then_replace() -> None:
        if deeds or not (scratch.count("held-began") and scratch.count("policy-began")):
            return
        deeds.append("killed")
        doomed.signal(signal.SIGKILL)
        start_worker("-c", "2", name="successor")
        scratch.note("go")

    own.execute(outcome, fault_jobs.two_held_and_more, meanwhile=kill_then_replace)
    assert (outcome.status, outcome.failed) == (FAILURE, {"held"})
    assert "doomed" in outcome.failure("held")
    assert "silent" in outcome.failure("held")
    # What began under the dead worker never came to its end there: its processes died with it.
    assert (scratch.count("held-began"), scratch.count("held-ended")) == (1, 0)
    assert (scratch.count("policy-began"), scratch.count("policy-ended")) == (2, 1)
    assert sorted(scratch.lines("quick")) == [f"quick_{number}" for number in range(6)]


def pid_of_step(outcome: Outcome) -> int:
    """Return the process that has a run's one step."""
    (started,) = outcome.of(DagsterEventType.STEP_WORKER_STARTED)
    return int(str(started.engine_event_data.metadata["pid"].value))


@pytest.mark.parametrize("fleet", ["embedded"], indirect=True)
def test_after_a_signal_of_others_the_log_says_so_and_the_retry_policy_decides(
    fleet: House, scratch: Scratch
) -> None:
    outcome = fleet.create(fault_jobs.one_protected, scratch)

    def signal_then_let_go() -> None:
        if scratch.count("policy-began") == 1 and not scratch.count("signalled"):
            scratch.note("signalled")
            os.kill(pid_of_step(outcome), signal.SIGTERM)
        elif scratch.count("policy-began") == 2:
            scratch.note("go")

    fleet.execute(outcome, fault_jobs.one_protected, meanwhile=signal_then_let_go)
    assert (outcome.status, outcome.succeeded) == (SUCCESS, {"protected"})
    assert outcome.steps(DagsterEventType.STEP_UP_FOR_RETRY) == ["protected"]
    assert outcome.says('Step "protected" is stopped', "was sent SIGTERM, and not by this worker")


@pytest.mark.parametrize("broker_kind", ["embedded"], indirect=True)
def test_a_worker_that_ends_at_once_says_so_in_the_log_of_each_step_it_stops(
    own: House, start_worker: StartWorker, scratch: Scratch
) -> None:
    client = client_for(own.settings)
    leaving = start_worker("-c", "3", "--kill-grace", "1", name="leaving")
    outcome = own.create(fault_jobs.held_with_and_without_policy_and_deaf, scratch)
    deeds: list[str] = []

    def end_then_replace() -> None:
        begun = ("held-began", "policy-began", "deaf")
        if deeds or not all(scratch.count(each) for each in begun):
            return
        deeds.append("ended")
        (worker,) = client.workers()
        client.send_command(worker.id, command(Command.KILL))
        assert leaving.wait() == 1
        start_worker("-c", "1", name="successor")
        scratch.note("go")

    job = fault_jobs.held_with_and_without_policy_and_deaf
    own.execute(outcome, job, meanwhile=end_then_replace)
    assert (outcome.failed, outcome.succeeded) == ({"held", "deaf"}, {"protected"})
    assert scratch.count("policy-began") == 2
    for step in ("held", "protected"):
        said = [text for text in outcome.engine_says if f'Step "{step}" is stopped' in text]
        assert len(said) == 1
        assert "worker leaving" in said[0]
        assert "received the command to end at once" in said[0]
    # It was killed, and cannot have said so itself.
    assert "Worker leaving" in outcome.failure("deaf")
    assert "received the command to end at once" in outcome.failure("deaf")


def test_steps_whose_messages_have_gone_from_the_queue_are_sent_again(
    own: House, start_worker: StartWorker, scratch: Scratch
) -> None:
    start_worker("-c", "2")

    async def empty_the_queue() -> int:
        broker = make_broker(own.settings)
        broker.queues = (own.settings.queue,)
        broker.use_running_loop()
        await broker.startup()
        count = 0
        while (delivery := await broker.claim()) is not None:
            await broker.acknowledge(delivery)
            count += 1
        await broker.shutdown()
        return count

    counts: list[int] = []
    outcome = run_through(own, scratch, lambda _: counts.append(asyncio.run(empty_the_queue())))
    assert counts == [6]
    assert sum("its message is not in queue" in each for each in outcome.engine_says) == 6


def test_a_restarted_redis_delays_a_run_and_loses_nothing_of_it(
    own_house: Callable[[str], House], scratch: Scratch
) -> None:
    with own_redis() as server:
        house = own_house(server.url)
        outcome = run_through(house, scratch, lambda run: restart(server, run))
    assert outcome.says("answer again")


@on_each_broker_and_storage
@pytest.mark.parametrize("asked_for", [True, False], ids=["terminated", "interrupted"])
def test_what_runs_when_its_run_is_stopped_is_stopped_and_cleans_up(
    fleet: House, scratch: Scratch, asked_for: bool
) -> None:
    with fleet.started(fault_jobs.cleans_up_job, scratch) as process:
        scratch.wait_for("working")
        if asked_for:
            process.terminate_run()
        else:
            process.signal(signal.SIGTERM)
        outcome = process.wait()
    # Nobody asked for the end of the run in the second case, so to Dagster it has failed.
    assert outcome.status is (DagsterRunStatus.CANCELED if asked_for else FAILURE)
    assert scratch.count("cleaned-up") == 1
    outcome.assert_sound()


def test_a_terminated_run_stops_what_runs_and_what_waits_never_runs(
    own: House, start_worker: StartWorker, scratch: Scratch
) -> None:
    worker = start_worker("-c", "1")
    with own.started(fault_jobs.held_before_fifty, scratch) as process:
        scratch.wait_for("held-began")
        eventually(lambda: own.waiting() == 50)
        process.terminate_run()
        outcome = process.wait()
    assert outcome.status is DagsterRunStatus.CANCELED
    if not has_limit(own.settings, Limit.DISCARD):
        assert own.waiting() == 0
    # The worker is free again, and after a restart it takes other work; nothing of this run.
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    scratch.note("go")
    start_worker("-c", "1")
    assert own.run(fault_jobs.held_once, scratch).status is SUCCESS
    assert scratch.count("held-ended") == 1
    assert scratch.count("quick") == 0
    eventually(lambda: own.waiting() == 0)
    outcome.assert_sound()


def test_a_step_that_ignores_the_request_to_end_is_killed_with_what_it_started(
    fleet: House, scratch: Scratch
) -> None:
    with fleet.started(fault_jobs.deaf_job, scratch) as process:
        scratch.wait_for("deaf")
        process.terminate_run()
        outcome = process.wait()
    assert outcome.status is DagsterRunStatus.CANCELED
    for pid in map(int, scratch.lines("deaf")[0].split()):
        eventually(lambda pid=pid: not is_running(pid), f"{pid} is gone")
    outcome.assert_sound()


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # One that nobody has waited for yet is dead all the same.
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


def test_a_step_whose_run_has_ended_while_it_waited_is_dropped_by_the_worker(
    own: House, start_worker: StartWorker, scratch: Scratch
) -> None:
    # The process of the run dies without a word, and then somebody marks the run as canceled:
    # nobody is left to take its steps back, yet they must not run.
    with own.started(fault_jobs.held_before_fifty, scratch) as process:
        own.wait_until_queued(51)
        process.kill()
    outcome = process.outcome
    own.instance.report_run_canceled(outcome.run)
    start_worker("-c", "2")
    eventually(lambda: own.waiting() == 0, "the queue is empty")
    client = client_for(own.settings)
    eventually(lambda: not any(each.running for each in client.workers()))
    assert (scratch.count("held-began"), scratch.count("quick")) == (0, 0)
    assert outcome.says("Dropped step quick_0", "CANCELED")
    assert outcome.of(DagsterEventType.STEP_START) == []


@pytest.mark.parametrize("fleet", ["embedded"], indirect=True)
@pytest.mark.parametrize("ends_by", ["itself", "SIGKILL"])
def test_a_step_that_outlives_its_run_keeps_its_pool_slot_until_it_ends(
    fleet: House, scratch: Scratch, ends_by: str
) -> None:
    storage = fleet.instance.event_log_storage
    storage.set_concurrency_slots("gate", 1)
    with fleet.started(fault_jobs.one_in_pool, scratch) as process:
        scratch.wait_for("pool-began")
        process.kill()
    outcome = process.outcome
    fleet.instance.report_run_failed(outcome.run)
    assert storage.get_concurrency_info("gate").active_run_ids == {outcome.run_id}
    if ends_by == "itself":
        scratch.note("go-pool")
    else:
        os.kill(pid_of_step(outcome), signal.SIGKILL)
    eventually(lambda: not storage.get_concurrency_info("gate").active_run_ids, "the slot is free")
    assert scratch.count("pool-ended") == (ends_by == "itself")


@pytest.mark.oldest
def test_a_run_that_is_marked_as_canceled_meanwhile_starts_no_more_steps(
    house: House, scratch: Scratch
) -> None:
    # Dagster's "force termination" only marks the run, and leaves its process as it is.
    outcome = house.run(fault_jobs.canceled_from_within, scratch, sound=False)
    assert outcome.run.is_finished
    assert scratch.count("below") == 0
    assert outcome.says("Dropped step below", "CANCELED")
