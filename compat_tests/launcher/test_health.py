"""How a run is, asked from any process: no false alarm, no silence, and words for a person."""

import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from dagster import DagsterEvent, DagsterEventType, DagsterRunStatus
from dagster._core.launcher import WorkerStatus
from dagster._core.workspace.load_target import GrpcServerTarget

from compat_tests.executor.runs import Outcome
from compat_tests.executor.scratch import Scratch
from compat_tests.launcher.another_process import in_another_process
from compat_tests.launcher.deaths import (
    ATTEMPTS,
    ON_NOBODY,
    kill,
    reopened,
    task_of,
    wait_until_taken,
    wait_until_task_ended,
    wait_until_unhealthy,
)
from compat_tests.launcher.fleet import Fleet, open_fleet
from compat_tests.servers import own_redis
from compat_tests.waiting import eventually
from compat_tests.workers import running_worker
from dagster_taskiq import app
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.tags import OLDER_NAMES, TASK_ID_TAG
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.wire.records import TaskState

pytest_plugins = ["compat_tests.launcher.monitored_fleets"]

STARTED, SUCCESS = DagsterRunStatus.STARTED, DagsterRunStatus.SUCCESS


def ask_in_another_process(home: Path, run_id: str) -> tuple[WorkerStatus, str]:
    status, message, _ = in_another_process(home, "ask", [run_id], home)[run_id]
    return WorkerStatus(status), message


def test_a_run_is_well_to_its_end_for_an_instance_that_did_not_launch_it(
    fleet: Fleet, code_server: GrpcServerTarget, scratch: Scratch
) -> None:
    outcome = fleet.launch("whole_that_waits", scratch)
    scratch.wait_for("waiting")
    with reopened(fleet, code_server) as other:
        health = other.health(outcome)
        assert (health.status, health.run_worker_id) == (WorkerStatus.RUNNING, outcome.run_id)
        assert "STARTED" in str(health.msg)
        scratch.note("release")
        fleet.wait(outcome)
        wait_until_task_ended(fleet, outcome)
        assert other.health(outcome).status is WorkerStatus.SUCCESS
    assert outcome.status is SUCCESS


# On one broker only: starting processes takes long, and they open a client as any other does.
@pytest.mark.parametrize("fleet", ["redis"], indirect=True)
def test_another_process_sees_a_run_alive_and_dead_after_its_launcher_closed(
    fleet: Fleet, code_server: GrpcServerTarget, tmp_path: Path, scratch: Scratch
) -> None:
    home = tmp_path / "closed"
    home.mkdir()
    monitoring = {"enabled": True, "max_resume_run_attempts": ATTEMPTS}
    with open_fleet(home, fleet.settings, code_server, run_monitoring=monitoring) as launching:
        run_id = launching.launch("whole_that_waits", scratch).run_id
        scratch.wait_for("waiting")
    assert ask_in_another_process(home, run_id)[0] is WorkerStatus.RUNNING
    kill(int(scratch.lines("waiting")[0]))
    eventually(lambda: fleet.client.tasks([run_id])[run_id].state.is_final, "its task has ended")
    status, message = ask_in_another_process(home, run_id)
    assert status is WorkerStatus.FAILED
    assert "SIGKILL" in message


def test_the_exit_code_of_a_dead_process_is_in_its_runs_health(
    resuming: Fleet, scratch: Scratch
) -> None:
    outcome = resuming.launch("whole_that_dies", scratch)
    health = wait_until_unhealthy(resuming, outcome)
    assert "exit code 7" in str(health.msg)
    assert (scratch.count("died"), outcome.status) == (1, STARTED)


@pytest.fixture
def impatient(
    settings: Settings, code_server: GrpcServerTarget, dagster_home: Path
) -> Iterator[Fleet]:
    """A fleet with a very short lease, and without any worker."""
    short = settings.replace(heartbeat_interval=0.1, lease=0.3)
    with open_fleet(dagster_home, short, code_server) as fleet:
        yield fleet


def healths_over_leases(fleet: Fleet, outcome: Outcome) -> set[WorkerStatus]:
    """Return all that is said of a run's health while three leases go by."""
    found = set()
    deadline = time.monotonic() + 3 * fleet.settings.lease
    while time.monotonic() < deadline:
        found.add(fleet.health(outcome).status)
    return found


def test_no_run_is_given_up_without_evidence(impatient: Fleet, scratch: Scratch) -> None:
    queued = impatient.launch("whole", scratch)
    assert healths_over_leases(impatient, queued) == {WorkerStatus.RUNNING}
    assert "WAITING" in str(impatient.health(queued).msg)
    # Launched by another launcher, before this one was configured.
    foreign = impatient.create("whole", scratch)
    assert healths_over_leases(impatient, foreign) == {WorkerStatus.RUNNING}
    assert TASK_ID_TAG in str(impatient.health(foreign).msg)


#: The tag that dagster-celery's own launcher leaves on a run.
OF_OLD_FLEET = {OLDER_NAMES[TASK_ID_TAG]: "some-celery-task"}


def started_elsewhere(fleet: Fleet, scratch: Scratch, tags: dict[str, str]) -> Outcome:
    """Make a run that somebody else has started, and that nobody works on here."""
    outcome = fleet.create("whole", scratch, tags=tags)
    start = DagsterEvent(DagsterEventType.RUN_START.value, job_name=outcome.run.job_name)
    fleet.instance.report_dagster_event(start, outcome.run_id)
    assert outcome.status is STARTED
    return outcome


# On one broker only: it is not asked.
@pytest.mark.parametrize("watched", ["embedded"], indirect=True)
def test_monitoring_ends_a_run_of_the_old_fleet_and_no_run_of_others(
    watched: Fleet, scratch: Scratch
) -> None:
    older = started_elsewhere(watched, scratch, OF_OLD_FLEET)
    foreign = started_elsewhere(watched, scratch, {})
    health = watched.health(older)
    assert health.status is WorkerStatus.UNKNOWN
    assert "sent by dagster-celery, as Celery's task some-celery-task" in str(health.msg)
    assert watched.health(foreign).status is WorkerStatus.RUNNING

    assert watched.monitor() == []

    assert older.status is DagsterRunStatus.FAILURE
    assert "some-celery-task" in older.run_failure()
    assert foreign.status is STARTED


@pytest.mark.parametrize("fleet", ["embedded"], indirect=True)
def test_a_run_of_the_old_fleet_that_has_begun_is_unknown_when_terminated(
    fleet: Fleet, scratch: Scratch
) -> None:
    older = started_elsewhere(fleet, scratch, OF_OLD_FLEET)
    told = fleet.instance.run_launcher.get_run_worker_debug_info(older.run)
    assert "some-celery-task was sent by dagster-celery" in str(told)
    assert "UNKNOWN" in str(told)

    assert fleet.instance.run_launcher.terminate(older.run_id) is False

    assert older.says("sent by dagster-celery, as Celery's task some-celery-task", "UNKNOWN")
    assert older.status is STARTED


@pytest.mark.parametrize("fleet", ["embedded"], indirect=True)
def test_a_run_of_the_old_fleet_that_waits_is_canceled_when_terminated(
    fleet: Fleet, scratch: Scratch
) -> None:
    older = fleet.create("whole", scratch, tags=OF_OLD_FLEET)
    assert fleet.health(older).status is WorkerStatus.UNKNOWN
    assert fleet.instance.run_launcher.terminate(older.run_id) is True
    assert older.status is DagsterRunStatus.CANCELED
    (canceled,) = older.of(DagsterEventType.RUN_CANCELED)
    assert "sent by dagster-celery, as Celery's task some-celery-task" in str(canceled.message)


@pytest.mark.parametrize("resuming", ["embedded"], indirect=True)
def test_where_runs_are_resumed_one_of_the_old_fleet_goes_on_here(
    resuming: Fleet, scratch: Scratch
) -> None:
    older = started_elsewhere(resuming, scratch, OF_OLD_FLEET)
    assert resuming.monitor() == []
    resuming.wait(older)
    assert older.status is SUCCESS
    assert TASK_ID_TAG in older.run.tags


def test_a_run_whose_task_the_backend_has_forgotten_is_given_up_after_a_lease(
    impatient: Fleet, scratch: Scratch
) -> None:
    outcome = impatient.create("whole", scratch, tags={TASK_ID_TAG: "long-gone"})
    assert impatient.health(outcome).status is WorkerStatus.RUNNING
    health = wait_until_unhealthy(impatient, outcome)
    assert "known nothing of its task long-gone" in str(health.msg)


def test_a_run_whose_worker_is_not_on_record_yet_is_well(fleet: Fleet, scratch: Scratch) -> None:
    outcome = fleet.launch("whole_that_waits", scratch)
    scratch.wait_for("waiting")
    worker = task_of(fleet, outcome).worker

    async def forget() -> None:
        # As before its first heartbeat, or when the backend has lost its data.
        backend = app.make(fleet.settings).result_backend
        assert isinstance(backend, StateBackend)
        backend.home.use_running_loop()
        await backend.startup()
        await backend.deregister(worker)
        await backend.shutdown()

    def known() -> bool:
        return worker in [each.id for each in fleet.client.workers()]

    anyio.run(forget)
    statuses = {fleet.health(outcome).status}
    while not known():
        statuses.add(fleet.health(outcome).status)
    assert statuses == {WorkerStatus.RUNNING}
    scratch.note("release")
    assert fleet.wait(outcome).status is SUCCESS


def test_a_redis_that_is_away_and_comes_back_gives_no_run_up(
    code_server: GrpcServerTarget, dagster_home: Path, tmp_path: Path, scratch: Scratch
) -> None:
    with own_redis() as server:
        # The lease is longer than the outage: with a shorter one the worker itself ends its runs.
        settings = Settings(broker=server.url, heartbeat_interval=0.5, lease=60.0)
        with (
            open_fleet(dagster_home, settings, code_server) as fleet,
            running_worker(settings, tmp_path, "-c", "1"),
        ):
            outcome = fleet.launch("whole_that_waits", scratch)
            scratch.wait_for("waiting")
            assert fleet.health(outcome).status is WorkerStatus.RUNNING
            server.stop()
            away = fleet.health(outcome)
            assert (away.status, away.transient) == (WorkerStatus.RUNNING, True)
            assert "does not answer" in str(away.msg)
            assert "does not answer" in str(
                fleet.instance.run_launcher.get_run_worker_debug_info(outcome.run)
            )
            server.start()

            def answers() -> bool:
                health = fleet.health(outcome)
                assert health.status is WorkerStatus.RUNNING
                return not health.transient

            eventually(answers, "the backend answers again")
            scratch.note("release")
            assert fleet.wait(outcome).status is SUCCESS
            assert scratch.count("waiting") == 1


def test_what_is_known_of_a_run_is_told_in_sentences(fleet: Fleet, scratch: Scratch) -> None:
    def told(outcome: Outcome) -> str:
        return str(fleet.instance.run_launcher.get_run_worker_debug_info(outcome.run))

    unlaunched = fleet.create("whole", scratch)
    assert fleet.instance.run_launcher.get_run_worker_debug_info(unlaunched.run) is None
    unknown = fleet.create("whole", scratch, tags={TASK_ID_TAG: "long-gone"})
    assert "long-gone: the backend knows nothing of it" in told(unknown)

    queued = fleet.launch("whole", scratch, tags=ON_NOBODY)
    for words in (f"Task {queued.run_id}", "WAITING", 'queue "nobody"', "Sent 20"):
        assert words in told(queued)
    assert "Started" not in told(queued)
    assert fleet.terminate(queued)
    assert "REVOKED" in told(queued)

    running = fleet.launch("whole_that_waits", scratch)
    scratch.wait_for("waiting")
    pid = scratch.lines("waiting")[0]
    assert pid == str(wait_until_taken(running))
    # The worker's next heartbeat tells what runs there.
    eventually(lambda: f"There it runs in process {pid}" in told(running))
    (worker,) = [
        each for each in fleet.client.workers() if each.id == task_of(fleet, running).worker
    ]
    for words in ("STARTED", "Started 20", f"Worker {worker.name}", worker.host, "is alive"):
        assert words in told(running)
    assert f"pid {worker.pid}" in told(running)
    scratch.note("release")
    fleet.wait(running)
    wait_until_task_ended(fleet, running)
    for words in (TaskState.SUCCESS.value, "Ended 20"):
        assert words in told(running)
    assert "There it runs" not in told(running)
