"""The state of launched runs on RabbitMQ itself, ``rpc://``, as any process reads it at any time.

Celery's backend of that name answers only the process that has sent a task. Here each action and
each question is a process of its own, which ends before the next one begins.
"""

import time
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterRunStatus
from dagster._core.launcher import WorkerStatus
from dagster._core.workspace.load_target import GrpcServerTarget

from compat_tests.conftest import make_settings
from compat_tests.executor.runs import Outcome
from compat_tests.executor.scratch import Scratch
from compat_tests.launcher.another_process import in_another_process
from compat_tests.launcher.deaths import (
    ATTEMPTS,
    ON_NOBODY,
    kill,
    task_of,
    wait_until_taken,
    wait_until_task_ended,
)
from compat_tests.launcher.fleet import Fleet, open_fleet
from compat_tests.waiting import eventually
from compat_tests.workers import running_worker
from dagster_taskiq.tags import QUEUE_TAG
from dagster_taskiq.wire.records import TaskState

pytest_plugins = ["compat_tests.launcher.monitored_fleets"]

SUCCESS, FAILURE = DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE
STARTED, STARTING = DagsterRunStatus.STARTED, DagsterRunStatus.STARTING


def in_a_process(
    fleet: Fleet, code_server: GrpcServerTarget, action: str, *outcomes: Outcome
) -> dict[str, Any]:
    """Take an action in a process of its own, and return what it has found, by run."""
    assert code_server.port is not None
    run_ids = [each.run_id for each in outcomes]
    home, scratch = fleet.instance.root_directory, outcomes[0].scratch.directory.parent
    return in_another_process(home, action, run_ids, scratch, code_server.port)


@pytest.mark.parametrize("resuming", ["rabbitmq"], indirect=True)
def test_another_process_knows_the_health_of_runs_whose_launcher_is_gone(
    resuming: Fleet, code_server: GrpcServerTarget, tmp_path: Path
) -> None:
    def create(name: str, job: str, **arguments: Any) -> Outcome:
        (tmp_path / name).mkdir()
        return resuming.create(job, Scratch(tmp_path / name), **arguments)

    waits = create("waits", "whole", tags=ON_NOBODY)
    runs = create("runs", "whole_that_waits")
    succeeds = create("succeeds", "whole")
    dies = create("dies", "whole_that_dies")
    all_four = (waits, runs, succeeds, dies)
    in_a_process(resuming, code_server, "launch", *all_four)

    resuming.wait(succeeds)
    wait_until_task_ended(resuming, succeeds)
    assert wait_until_task_ended(resuming, dies).state is TaskState.FAILURE
    runs.scratch.wait_for("waiting")
    (pid,) = runs.scratch.lines("waiting")
    worker_id = task_of(resuming, runs).worker

    def is_listed() -> bool:
        workers = [each for each in resuming.client.workers() if each.id == worker_id]
        return any(each.id == runs.run_id and each.pid for each in workers[0].running)

    # The worker's next heartbeat reports what it runs.
    eventually(is_listed)

    found = in_a_process(resuming, code_server, "ask", *all_four)
    status, message, info = found[waits.run_id]
    assert WorkerStatus(status) is WorkerStatus.RUNNING
    assert "WAITING" in message
    assert 'WAITING, in queue "nobody"' in info
    status, message, info = found[runs.run_id]
    assert WorkerStatus(status) is WorkerStatus.RUNNING
    assert "STARTED" in message
    for words in ("STARTED", "Worker shared-rabbitmq", "is alive", f"runs in process {pid}"):
        assert words in info
    status, _, info = found[succeeds.run_id]
    assert WorkerStatus(status) is WorkerStatus.SUCCESS
    assert "SUCCESS" in info
    assert "Ended 20" in info
    status, message, info = found[dies.run_id]
    assert WorkerStatus(status) is WorkerStatus.FAILED
    assert "exit code 7" in message
    assert "exit code 7" in info
    # Dagster does not know it yet, and decides what to do.
    assert dies.status is STARTED

    # Another process terminates those that have not ended.
    stopped = in_a_process(resuming, code_server, "terminate", waits, runs)
    assert stopped == {waits.run_id: True, runs.run_id: True}
    resuming.wait(runs)
    assert waits.status is runs.status is DagsterRunStatus.CANCELED
    assert runs.scratch.count("released") == 0


@pytest.mark.parametrize("resuming", ["rabbitmq"], indirect=True)
def test_any_process_can_resume_a_run_and_no_step_is_repeated(
    resuming: Fleet, code_server: GrpcServerTarget, scratch: Scratch
) -> None:
    outcome = resuming.create("relay", scratch)
    in_a_process(resuming, code_server, "launch", outcome)
    scratch.wait_for("held-began")
    kill(wait_until_taken(outcome))
    wait_until_task_ended(resuming, outcome)
    assert outcome.status is STARTED
    in_a_process(resuming, code_server, "resume-1", outcome)
    eventually(lambda: outcome.says('"holds"', "going on with it"), "the held step is adopted")
    scratch.note("go")
    resuming.wait(outcome)
    assert outcome.status is SUCCESS
    assert (scratch.count("begins"), scratch.count("ends-1")) == (1, 1)
    assert (scratch.count("held-began"), scratch.count("held-ended")) == (1, 1)
    outcome.assert_sound()


def test_a_run_that_waits_for_longer_than_any_expiry_is_well_and_is_executed(
    code_server: GrpcServerTarget,
    dagster_home: Path,
    tmp_path: Path,
    scratch: Scratch,
    request: pytest.FixtureRequest,
) -> None:
    # Leases and records of ended tasks expire before the first question.
    settings = make_settings("rabbitmq", tmp_path, request)
    hasty = settings.replace(heartbeat_interval=0.1, lease=0.3, result_ttl=0.5)
    monitoring = {"enabled": True, "max_resume_run_attempts": ATTEMPTS}
    with open_fleet(dagster_home, hasty, code_server, run_monitoring=monitoring) as fleet:
        outcome = fleet.create("whole", scratch, tags={QUEUE_TAG: "special"})
        in_a_process(fleet, code_server, "launch", outcome)
        healths = set()
        deadline = time.monotonic() + 6 * hasty.lease
        while time.monotonic() < deadline:
            healths.add(fleet.health(outcome).status)
            assert fleet.monitor() == []
        assert healths == {WorkerStatus.RUNNING}
        status, message, _ = in_a_process(fleet, code_server, "ask", outcome)[outcome.run_id]
        assert (WorkerStatus(status), "WAITING" in message) == (WorkerStatus.RUNNING, True)
        assert outcome.status is STARTING
        with running_worker(settings, tmp_path, "-q", "special", "-c", "1"):
            fleet.wait(outcome)
    assert outcome.status is SUCCESS
    assert (scratch.count("first"), scratch.count("second")) == (1, 1)
