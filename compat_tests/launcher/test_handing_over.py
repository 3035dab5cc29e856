"""Workers that drain hand the runs they hold over to other workers, which go on with them."""

import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from dagster import DagsterRunStatus
from dagster._core.launcher import WorkerStatus
from dagster._core.workspace.load_target import GrpcServerTarget

from compat_tests.executor.runs import Outcome
from compat_tests.executor.scratch import Scratch
from compat_tests.launcher.conftest import OwnFleet
from compat_tests.launcher.deaths import (
    ON_SECOND,
    SECOND_QUEUE,
    ends_of,
    kill,
    taken_by,
    task_of,
    wait_until_gone,
    wait_until_taken,
    wait_until_task_ended,
)
from compat_tests.launcher.fleet import Fleet, open_fleet
from compat_tests.proxy import proxy_to
from compat_tests.servers import own_redis
from compat_tests.waiting import eventually
from compat_tests.workers import WorkerProcess, running_worker
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.tags import TASK_ID_TAG
from dagster_taskiq.wire.records import TaskState

SUCCESS, STARTED = DagsterRunStatus.SUCCESS, DagsterRunStatus.STARTED
CANCELED = DagsterRunStatus.CANCELED

#: Config of a run whose steps go to the queue of the workers that drain.
STEPS_ON_SECOND = {"execution": {"config": {"queue": SECOND_QUEUE}}}

#: Starts a worker of the second queue, or another one, for a fleet, with more options.
StartWorker = Callable[..., WorkerProcess]

pytest_plugins = ["compat_tests.launcher.monitored_fleets"]


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[StartWorker]:
    with ExitStack() as stack:

        def start(
            fleet: Fleet, name: str, *options: str, queue: str = SECOND_QUEUE
        ) -> WorkerProcess:
            arguments = ("-q", queue, "-c", "1", "--kill-grace", "2", *options)
            worker = running_worker(fleet.settings, tmp_path, *arguments, name=name)
            return stack.enter_context(worker)

        yield start


def hold_relay(fleet: Fleet, scratch: Scratch, config: dict[str, object] | None = None) -> Outcome:
    """Launch a run for the second queue, and return it when its second step runs."""
    outcome = fleet.launch("relay", scratch, tags=ON_SECOND, config=config or {})
    scratch.wait_for("held-began")
    return outcome


def hand_over_to_nobody(fleet: Fleet, start_worker: StartWorker, scratch: Scratch) -> Outcome:
    """Return a run that is in its queue again, since its worker had too little time to drain."""
    leaving = start_worker(fleet, "leaving", "--drain-timeout", "0.1")
    outcome = hold_relay(fleet, scratch)
    leaving.signal(signal.SIGTERM)
    leaving.wait()
    return outcome


def finish(fleet: Fleet, outcome: Outcome) -> None:
    """Let a relay that was handed over come to its end; check that nothing was done twice."""
    outcome.scratch.note("go")
    fleet.wait(outcome)
    wait_until_task_ended(fleet, outcome)
    scratch = outcome.scratch
    assert outcome.status is SUCCESS, outcome.run_failure()
    assert (scratch.count("begins"), scratch.count("ends-1")) == (1, 1)
    assert (scratch.count("held-began"), scratch.count("held-ended")) == (1, 1)
    assert outcome.run.tags[TASK_ID_TAG] == f"{outcome.run_id}.1"
    assert len(ends_of(outcome)) == 1
    outcome.assert_sound()


def test_the_run_of_a_worker_that_drains_goes_on_at_another(
    fleet: Fleet, start_worker: StartWorker, scratch: Scratch
) -> None:
    leaving = start_worker(fleet, "leaving")
    outcome = hold_relay(fleet, scratch)
    first = wait_until_taken(outcome)
    staying = start_worker(fleet, "staying")
    before = outcome.run

    leaving.signal(signal.SIGTERM)

    # Its step, at the shared worker, has not ended: it does not wait for that.
    assert leaving.wait() == 0
    assert scratch.count("held-ended") == 0
    assert not Path(f"/proc/{first}").exists()
    assert outcome.says("Worker leaving", "has handed the run over", f"{outcome.run_id}.1")
    wait_until_taken(outcome, 2)
    # Run monitoring may have read the run before, and checks it now.
    health = fleet.instance.run_launcher.check_run_worker_health(before)
    assert (health.status, health.run_worker_id) == (WorkerStatus.RUNNING, f"{outcome.run_id}.1")
    assert (
        f"task {outcome.run_id}.1 goes on"
        in fleet.client.tasks([outcome.run_id])[outcome.run_id].error
    )
    finish(fleet, outcome)
    staying.signal(signal.SIGTERM)
    assert staying.wait() == 0


def test_a_worker_that_drains_waits_for_its_step_alone(
    fleet: Fleet, start_worker: StartWorker, scratch: Scratch
) -> None:
    leaving = start_worker(fleet, "leaving")
    outcome = hold_relay(fleet, scratch, STEPS_ON_SECOND)
    leaving.signal(signal.SIGTERM)
    eventually(lambda: "another worker can go on with" in leaving.output(), "it drains")
    assert len(taken_by(outcome)) == 1

    start_worker(fleet, "staying")  # as in a rollout, where the new one comes last

    wait_until_taken(outcome, 2)
    eventually(lambda: outcome.says('"holds"', "going on with it"), "the held step is adopted")
    assert leaving.process.poll() is None
    finish(fleet, outcome)
    assert leaving.wait() == 0
    assert scratch.lines("held-began") == scratch.lines("held-ended")


def test_after_the_drain_timeout_a_run_waits_for_another_worker(
    fleet: Fleet, start_worker: StartWorker, scratch: Scratch
) -> None:
    outcome = hand_over_to_nobody(fleet, start_worker, scratch)

    assert outcome.status is STARTED
    assert task_of(fleet, outcome).state is TaskState.WAITING
    start_worker(fleet, "staying")
    wait_until_taken(outcome, 2)
    finish(fleet, outcome)


def test_a_run_that_was_handed_over_and_waits_can_be_terminated(
    fleet: Fleet, start_worker: StartWorker, scratch: Scratch
) -> None:
    outcome = hand_over_to_nobody(fleet, start_worker, scratch)

    assert fleet.terminate(outcome)

    assert outcome.status is CANCELED
    wait_until_gone(int(scratch.lines("held-began")[0]))
    assert scratch.count("held-ended") == 0


def test_runs_go_only_to_workers_that_have_a_place_for_them(
    fleet: Fleet, start_worker: StartWorker, scratch: Scratch, tmp_path: Path
) -> None:
    full = start_worker(fleet, "full", "--max-runs", "1")
    notes = tmp_path / "more"
    notes.mkdir()
    filling = hold_relay(fleet, Scratch(notes))
    leaving = start_worker(fleet, "leaving")
    outcome = hold_relay(fleet, scratch)
    leaving.signal(signal.SIGTERM)
    eventually(lambda: "another worker can go on with" in leaving.output(), "it drains")

    Scratch(notes).note("go")
    fleet.wait(filling)

    assert len(taken_by(filling)) == 1
    wait_until_taken(outcome, 2)
    assert leaving.wait() == 0
    finish(fleet, outcome)
    assert full.process.poll() is None


def test_a_run_that_executes_its_own_steps_is_not_handed_over(
    fleet: Fleet, start_worker: StartWorker, scratch: Scratch
) -> None:
    leaving = start_worker(fleet, "leaving")
    outcome = fleet.launch("whole_relay", scratch, tags=ON_SECOND)
    scratch.wait_for("held-began")
    start_worker(fleet, "staying")
    leaving.signal(signal.SIGTERM)
    eventually(lambda: "Draining" in leaving.output(), "it drains")

    scratch.note("go")

    assert leaving.wait() == 0
    assert outcome.status is SUCCESS
    assert len(taken_by(outcome)) == 1


def test_a_worker_killed_as_it_hands_a_run_over_loses_nothing(
    resuming: Fleet, start_worker: StartWorker, scratch: Scratch
) -> None:
    leaving = start_worker(resuming, "leaving")
    outcome = hold_relay(resuming, scratch)
    first = wait_until_taken(outcome)
    start_worker(resuming, "staying")
    leaving.signal(signal.SIGTERM)
    wait_until_gone(first)

    kill(leaving.pid)

    # Either the run was sent on before, or Dagster's run monitoring finds that its task is lost.
    def is_taken() -> bool:
        assert resuming.monitor() == []
        return len(taken_by(outcome)) > 1

    eventually(is_taken, "another worker has the run")
    finish(resuming, outcome)


def test_a_run_whose_code_is_still_being_loaded_is_begun_elsewhere(
    code_server: GrpcServerTarget, start_worker: StartWorker, scratch: Scratch, dagster_home: Path
) -> None:
    with own_redis() as server:
        settings = Settings(broker=server.url, include=["compat_tests.slow_module"])
        with open_fleet(dagster_home, settings, code_server) as fleet:
            leaving = start_worker(fleet, "leaving", "--drain-timeout", "0.1")
            outcome = fleet.launch("whole", scratch, tags=ON_SECOND)
            wait_until_taken(outcome)

            leaving.signal(signal.SIGTERM)

            assert leaving.wait() == 0
            assert task_of(fleet, outcome).state is TaskState.WAITING
            assert scratch.count("first") == 0
            start_worker(fleet, "staying")
            fleet.wait(outcome)
            assert outcome.status is SUCCESS
            assert (scratch.count("first"), len(taken_by(outcome))) == (1, 2)
            assert outcome.run.tags[TASK_ID_TAG] == f"{outcome.run_id}.1"


def test_a_hand_over_goes_on_when_the_drain_timeout_is_over(
    own_fleet: OwnFleet, start_worker: StartWorker, scratch: Scratch
) -> None:
    fleet = own_fleet()
    # Its step keeps the worker until the time is over, while the run's storage is slow.
    leaving = start_worker(fleet, "leaving", "--drain-timeout", "1")
    outcome = hold_relay(fleet, scratch, STEPS_ON_SECOND)
    first = wait_until_taken(outcome)
    start_worker(fleet, "staying")
    with storage_locked(fleet):
        leaving.signal(signal.SIGTERM)
        wait_until_gone(first)
        eventually(lambda: "drain timeout of 1 s is over" in leaving.output(), "it is over")
    leaving.wait()
    wait_until_taken(outcome, 2)
    fleet.wait(outcome)
    assert outcome.run.tags[TASK_ID_TAG] == f"{outcome.run_id}.1"


@contextmanager
def storage_locked(fleet: Fleet) -> Iterator[None]:
    """Let no process write to the runs of an instance on SQLite in the block."""
    (path,) = Path(fleet.instance.root_directory).glob("history/runs.db")
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def test_a_run_is_handed_over_when_its_broker_is_back(
    code_server: GrpcServerTarget, start_worker: StartWorker, scratch: Scratch, dagster_home: Path
) -> None:
    with (
        own_redis() as server,
        proxy_to(server.port) as door,
        open_fleet(
            dagster_home, Settings(broker=f"redis://127.0.0.1:{door.port}/0"), code_server
        ) as fleet,
    ):
        leaving = start_worker(fleet, "leaving", "--drain-timeout", "0.1")
        start_worker(fleet, "steps", queue=fleet.settings.queue)
        outcome = hold_relay(fleet, scratch)
        first = wait_until_taken(outcome)
        door.refuse()

        leaving.signal(signal.SIGTERM)

        wait_until_gone(first)
        eventually(lambda: "Could not hand over task" in leaving.output(), "it tries again")
        door.accept()
        leaving.wait()
        start_worker(fleet, "staying")
        wait_until_taken(outcome, 2)
        finish(fleet, outcome)
