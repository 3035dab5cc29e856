"""Runs that Dagster's run monitoring resumes: what goes on, what is refused, what is fenced off."""

import signal
from itertools import groupby
from pathlib import Path

import pytest
from dagster import DagsterEventType, DagsterRunStatus
from dagster._core.launcher import WorkerStatus
from dagster._core.workspace.load_target import GrpcServerTarget

from compat_tests.brokers import BROKERS, POSTGRES_STORAGE
from compat_tests.executor.runs import Outcome
from compat_tests.executor.scratch import Scratch
from compat_tests.launcher.deaths import (
    ATTEMPTS,
    ON_NOBODY,
    ON_SECOND,
    MonitoredFleet,
    SecondWorker,
    ends_of,
    is_running,
    kill,
    reopened,
    task_of,
    wait_until_gone,
    wait_until_taken,
    wait_until_task_ended,
    wait_until_unhealthy,
)
from compat_tests.launcher.fleet import Fleet
from compat_tests.waiting import eventually
from dagster_taskiq.tags import QUEUE_TAG, TASK_ID_TAG
from dagster_taskiq.wire.records import TaskState

pytest_plugins = ["compat_tests.launcher.monitored_fleets"]

SUCCESS, FAILURE = DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE
CANCELED, STARTED = DagsterRunStatus.CANCELED, DagsterRunStatus.STARTED


def finish(fleet: Fleet, outcome: Outcome, task_id: str) -> None:
    """Let a resumed relay come to its end, and check that nothing of it was done twice."""
    eventually(lambda: outcome.says('"holds"', "going on with it"), "the held step is adopted")
    outcome.scratch.note("go")
    fleet.wait(outcome)
    wait_until_task_ended(fleet, outcome)
    scratch = outcome.scratch
    assert outcome.status is SUCCESS
    assert (scratch.count("begins"), scratch.count("ends-1")) == (1, 1)
    assert (scratch.count("held-began"), scratch.count("held-ended")) == (1, 1)
    assert outcome.run.tags[TASK_ID_TAG] == task_id
    outcome.assert_sound()


@pytest.mark.parametrize("resuming", [*BROKERS, POSTGRES_STORAGE], indirect=True)
@pytest.mark.oldest
def test_a_run_whose_process_is_killed_goes_on_in_another_and_repeats_no_step(
    resuming: Fleet, scratch: Scratch
) -> None:
    outcome = resuming.launch("relay", scratch)
    scratch.wait_for("held-began")
    kill(wait_until_taken(outcome))
    assert "SIGKILL" in str(wait_until_unhealthy(resuming, outcome).msg)
    # The worker leaves the run, and its steps, to Dagster.
    assert outcome.status is STARTED
    assert outcome.says("SIGKILL", "run monitoring will resume")
    assert resuming.monitor() == []
    task_id = f"{outcome.run_id}.1"
    assert outcome.says("Sent the run, to resume")
    assert outcome.run.tags[TASK_ID_TAG] == task_id
    # The next look finds it well, wherever it is by then.
    assert resuming.monitor() == []
    assert is_running(int(scratch.lines("held-began")[0]))
    finish(resuming, outcome, task_id)


def test_a_run_that_dies_again_and_again_fails_after_the_allowed_attempts(
    resuming: Fleet, scratch: Scratch
) -> None:
    outcome = resuming.launch("relay", scratch)
    scratch.wait_for("held-began")
    for attempt in range(ATTEMPTS):
        kill(wait_until_taken(outcome, attempt + 1))
        wait_until_unhealthy(resuming, outcome)
        assert resuming.monitor() == []
    kill(wait_until_taken(outcome, ATTEMPTS + 1))
    resuming.wait(outcome)
    assert resuming.monitor() == []
    assert outcome.status is FAILURE
    assert "SIGKILL" in outcome.run_failure()
    assert resuming.instance.count_resume_run_attempts(outcome.run_id) == ATTEMPTS
    assert outcome.run.tags[TASK_ID_TAG] == f"{outcome.run_id}.{ATTEMPTS}"
    # Now nobody waits for its step any more.
    wait_until_gone(int(scratch.lines("held-began")[0]))
    assert (scratch.count("held-began"), scratch.count("held-ended")) == (1, 0)
    assert ends_of(outcome) == [DagsterEventType.RUN_FAILURE]


def test_a_run_that_is_resumed_while_its_process_lives_is_never_in_two_at_once(
    resuming: Fleet, scratch: Scratch
) -> None:
    outcome = resuming.launch("ticking_relay", scratch)
    scratch.wait_for("held-began")
    scratch.wait_for("tick")
    before = wait_until_taken(outcome)
    workspace = resuming.workspace.create_request_context()
    resuming.instance.resume_run(outcome.run_id, workspace, 1)
    after = wait_until_taken(outcome, 2)
    eventually(lambda: str(after) in scratch.lines("tick"), "the new process works on the run")
    assert not is_running(before)
    finish(resuming, outcome, f"{outcome.run_id}.1")
    assert [int(pid) for pid, _ in groupby(scratch.lines("tick"))] == [before, after]


# The last one, whose steps take long to start, on one broker only: it makes no difference to it.
@pytest.mark.parametrize(
    ("resuming", "job"),
    [*((kind, "whole_relay") for kind in BROKERS), ("embedded", "multiprocess_that_holds")],
    indirect=["resuming"],
)
def test_a_run_whose_executor_starts_over_is_not_resumed_once_a_step_has_begun(
    resuming: Fleet, scratch: Scratch, job: str
) -> None:
    outcome = resuming.launch(job, scratch)
    scratch.wait_for("held-began")
    kill(wait_until_taken(outcome))
    wait_until_unhealthy(resuming, outcome)
    wait_until_gone(int(scratch.lines("held-began")[0]))
    assert resuming.monitor() == []
    wait_until_taken(outcome, 2)
    # It stays so when Dagster goes on asking.
    eventually(lambda: resuming.monitor() == [] and outcome.run.is_finished, "the run ends")
    assert outcome.status is FAILURE
    assert "cannot be resumed" in outcome.run_failure()
    assert "Re-execute the run from its failure" in outcome.run_failure()
    assert (scratch.count("held-began"), scratch.count("held-ended")) == (1, 0)
    assert scratch.count("begins") == (1 if job == "whole_relay" else 0)
    assert ends_of(outcome) == [DagsterEventType.RUN_FAILURE]


def test_a_resumed_run_that_waits_in_its_queue_is_well_and_can_be_terminated(
    resuming: Fleet, scratch: Scratch
) -> None:
    outcome = resuming.launch("relay", scratch)
    scratch.wait_for("held-began")
    kill(wait_until_taken(outcome))
    wait_until_unhealthy(resuming, outcome)
    resuming.instance.add_run_tags(outcome.run_id, ON_NOBODY)
    assert resuming.monitor() == []
    assert task_of(resuming, outcome).state is TaskState.WAITING
    health = resuming.health(outcome)
    assert (health.status, health.run_worker_id) == (WorkerStatus.RUNNING, f"{outcome.run_id}.1")
    assert outcome.says("No worker serves queue", "nobody")
    assert resuming.terminate(outcome)
    assert outcome.status is CANCELED
    assert task_of(resuming, outcome).state is TaskState.REVOKED
    # Its step, which had gone on meanwhile, ends with it.
    wait_until_gone(int(scratch.lines("held-began")[0]))
    assert (scratch.count("held-ended"), scratch.total("ends-")) == (0, 0)
    assert ends_of(outcome) == [DagsterEventType.RUN_CANCELED]


def test_a_run_on_a_worker_that_is_shut_down_goes_on_on_another(
    resuming: Fleet, second_worker: SecondWorker, scratch: Scratch
) -> None:
    worker = second_worker(resuming)
    outcome = resuming.launch("relay", scratch, tags=ON_SECOND)
    scratch.wait_for("held-began")
    worker.signal(signal.SIGTERM)
    eventually(lambda: "Draining" in worker.output(), "the worker is draining")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 1
    assert outcome.status is STARTED
    assert outcome.says("run is stopped: worker " + worker.name, "a second signal")
    wait_until_unhealthy(resuming, outcome)
    # The shared worker serves this queue.
    resuming.instance.add_run_tags(outcome.run_id, {QUEUE_TAG: resuming.settings.queue})
    assert resuming.monitor() == []
    finish(resuming, outcome, f"{outcome.run_id}.1")


@pytest.mark.parametrize("kind", BROKERS)
def test_a_run_whose_worker_is_killed_is_failed_or_resumed_as_configured(
    monitored_of_kind: MonitoredFleet,
    second_worker: SecondWorker,
    code_server: GrpcServerTarget,
    tmp_path: Path,
    kind: str,
) -> None:
    watched, resuming = monitored_of_kind(kind, 0), monitored_of_kind(kind, ATTEMPTS)
    worker = second_worker(watched)
    doomed = watched.launch("relay", new_scratch(tmp_path, "doomed"), tags=ON_SECOND)
    lucky = resuming.launch("relay", new_scratch(tmp_path, "lucky"), tags=ON_SECOND)
    for outcome in (doomed, lucky):
        outcome.scratch.wait_for("held-began")
    assert (watched.monitor(), resuming.monitor()) == ([], [])
    assert doomed.status is lucky.status is STARTED
    worker.signal(signal.SIGKILL)
    rows = watched.client.workers
    eventually(lambda: [each for each in rows() if each.name == worker.name and each.is_lost])

    # The first look after the lease is enough.
    assert watched.monitor() == []
    assert doomed.status is FAILURE
    assert worker.name in doomed.run_failure()
    assert "has been silent for" in doomed.run_failure()
    wait_until_gone(int(doomed.scratch.lines("held-began")[0]))
    assert doomed.scratch.count("held-ended") == doomed.scratch.total("ends-") == 0
    assert task_of(watched, doomed).state is TaskState.LOST
    assert ends_of(doomed) == [DagsterEventType.RUN_FAILURE]

    # This daemon has been started after the crash, and knows only what is on record.
    with reopened(resuming, code_server) as later:
        assert worker.name in str(wait_until_unhealthy(later, lucky).msg)
        resuming.instance.add_run_tags(lucky.run_id, {QUEUE_TAG: resuming.settings.queue})
        assert later.monitor() == []
    finish(resuming, lucky, f"{lucky.run_id}.1")


def new_scratch(directory: Path, name: str) -> Scratch:
    (directory / name).mkdir()
    return Scratch(directory / name)
