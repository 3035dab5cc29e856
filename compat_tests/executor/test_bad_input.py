"""What is wrong is said where people look for it, and never hangs a run."""

import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRunStatus, reconstructable
from dagster._core.errors import DagsterInvalidConfigError, DagsterUnmetExecutorRequirementsError
from dagster._grpc.types import ExecuteStepArgs
from dagster._serdes import pack_value
from dagster._utils.hosted_user_process import recon_job_from_origin

from compat_tests.checkout import ROOT
from compat_tests.executor import bad_jobs, jobs
from compat_tests.executor.runs import House
from compat_tests.executor.scratch import Scratch
from compat_tests.other_environments import given, venv
from compat_tests.servers import free_port, own_redis
from compat_tests.waiting import eventually
from dagster_taskiq.client import client_for
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.wire.records import TaskState
from dagster_taskiq.wire.task_names import EXECUTE_PLAN
from dagster_taskiq.wire.task_request import TaskRequest

SUCCESS, FAILURE = DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE


@pytest.fixture
def nowhere(instance: DagsterInstance) -> House:
    """A house whose broker each test says."""
    return House(Settings(broker="memory://", connect_timeout=2.0), instance)


def test_an_unknown_scheme_fails_the_run_with_what_is_served(
    nowhere: House, scratch: Scratch
) -> None:
    executor = {"broker": "kafka://user:hush@host/0"}
    outcome = nowhere.run(jobs.values, scratch, executor=executor)
    assert outcome.status is FAILURE
    text = outcome.run_failure()
    assert "kafka" in text
    assert "redis://" in text
    assert "embedded://" in text
    assert_nowhere(outcome.events, "hush")


def test_a_step_of_another_python_environment_fails_with_what_to_start(
    house_of_kind: Callable[[str], House], scratch: Scratch, tmp_path: Path
) -> None:
    other = venv(tmp_path / "other")
    job = recon_job_from_origin(given(reconstructable(jobs.urgent).get_python_origin(), other))
    outcome = house_of_kind("embedded").run(job, scratch)
    assert outcome.status is FAILURE
    assert scratch.lines("ran") == []
    said = outcome.failure("urgent")
    for words in ("cannot run step urgent", f"executable_path: {other}", "One worker serves one"):
        assert words in said


def test_a_broker_that_does_not_answer_fails_the_run_with_its_address(
    nowhere: House, scratch: Scratch
) -> None:
    port = free_port()
    executor = {"broker": f"redis://:hush@127.0.0.1:{port}/0"}
    outcome = nowhere.run(jobs.values, scratch, executor=executor)
    assert outcome.status is FAILURE
    assert f"127.0.0.1:{port}" in outcome.run_failure()
    assert "does not answer" in outcome.run_failure()
    assert "STEP_WORKER_STARTING" not in {event.event_type_value for event in outcome.events}
    assert_nowhere(outcome.events, "hush")


def test_a_wrong_password_fails_the_run_and_is_never_shown(
    nowhere: House, scratch: Scratch
) -> None:
    with own_redis("--requirepass", "open-sesame") as server:
        executor = {"broker": server.url.replace("//", "//:wrong-word@")}
        outcome = nowhere.run(jobs.values, scratch, executor=executor)
    assert outcome.status is FAILURE
    assert "password" in outcome.run_failure()
    assert_nowhere(outcome.events, "wrong-word")


def assert_nowhere(events: list[Any], secret: str) -> None:
    assert [event for event in events if secret in repr(event)] == []


@pytest.mark.oldest
def test_outputs_kept_in_memory_are_refused_with_what_to_use_instead(
    house: House, scratch: Scratch
) -> None:
    with pytest.raises(DagsterUnmetExecutorRequirementsError, match="fs_io_manager"):
        house.run(bad_jobs.forgetful, scratch)
    assert scratch.count("two") == 0


def test_a_run_priority_that_is_no_integer_fails_the_run_by_the_tags_name(
    house: House, scratch: Scratch
) -> None:
    tag = "dagster-taskiq/run_priority"
    outcome = house.run(jobs.values, scratch, tags={tag: "urgent"})
    assert outcome.status is FAILURE
    assert f'"{tag}" must be an integer' in outcome.run_failure()
    assert "'urgent'" in outcome.run_failure()


def test_a_run_priority_of_dagster_celery_that_is_no_integer_counts_as_0(
    house: House, scratch: Scratch
) -> None:
    tag = "dagster-celery/run_priority"
    outcome = house.run(jobs.values, scratch, tags={tag: "urgent"})
    assert outcome.status is DagsterRunStatus.SUCCESS
    assert outcome.says(f'The tag "{tag}" counts as 0', "'urgent' is no integer")


def test_a_step_priority_that_is_no_integer_fails_the_run_before_anything_runs(
    house: House, scratch: Scratch
) -> None:
    outcome = house.run(bad_jobs.bad_priority, scratch)
    assert outcome.status is FAILURE
    assert 'Step "hasty"' in outcome.run_failure()
    assert "'very high'" in outcome.run_failure()
    assert scratch.count("two") == 0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"max_concurrent": 0}, "at least 1"),
        ({"lease": 1.0, "heartbeat_interval": 1.0}, "at least twice"),
        ({"queue": " "}, "must not be empty"),
        ({"broker_options": {"deep": [{"env": "NOT_SET_ANYWHERE"}]}}, "NOT_SET_ANYWHERE"),
    ],
)
def test_a_setting_that_cannot_work_is_named(
    nowhere: House, scratch: Scratch, wrong: dict[str, Any], words: str
) -> None:
    outcome = nowhere.run(jobs.values, scratch, executor=wrong, sound=False)
    assert outcome.status is FAILURE
    assert any(words in repr(event) for event in outcome.events)


def test_a_key_that_is_no_setting_is_refused_by_the_schema(
    nowhere: House, scratch: Scratch
) -> None:
    with pytest.raises(DagsterInvalidConfigError, match="quue"):
        nowhere.run(jobs.values, scratch, executor={"quue": "typo"})


def test_a_job_that_the_worker_cannot_import_fails_its_step_with_its_path(
    fleet: House, scratch: Scratch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"only_here_{uuid.uuid4().hex[:8]}"
    (tmp_path / f"{name}.py").write_text("from compat_tests.executor.jobs import values\n")
    # At the end: the first entry is a script's own directory, which Dagster takes out.
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    job = reconstructable(jobs.values)
    pointer = job.repository.pointer._replace(module=name)
    elsewhere = job._replace(repository=job.repository._replace(pointer=pointer))
    outcome = fleet.run(elsewhere, scratch)
    assert (outcome.status, outcome.failed) == (FAILURE, {"two"})
    text = outcome.failure("two")
    assert f"No module named '{name}'" in text
    assert "working directory" in text
    assert str(ROOT) in text


def test_a_run_that_the_workers_instance_does_not_have_fails_its_task(fleet: House) -> None:
    run_id, task_id = str(uuid.uuid4()), f"lost:{uuid.uuid4().hex}"
    args = ExecuteStepArgs(
        job_origin=reconstructable(jobs.values).get_python_origin(),
        run_id=run_id,
        step_keys_to_execute=["two"],
        instance_ref=fleet.instance.get_ref(),
    )
    kwargs = {
        "execute_step_args_packed": pack_value(args),
        "executable_dict": reconstructable(jobs.values).to_dict(),
    }
    client = client_for(fleet.settings)
    queue = fleet.settings.queue
    client.submit(TaskRequest(task_id, EXECUTE_PLAN, kwargs, queue, run_id=run_id, step_key="two"))
    eventually(lambda: client.tasks([task_id])[task_id].state.is_final)
    task = client.tasks([task_id])[task_id]
    assert task.state is TaskState.FAILURE
    assert f"Run {run_id} is not in the worker's Dagster instance" in task.error
    assert "dagster.yaml" in task.error


@pytest.mark.oldest
def test_an_output_that_cannot_be_stored_and_an_exit_fail_their_steps_alone(
    house: House, scratch: Scratch
) -> None:
    outcome = house.run(bad_jobs.cannot_be_stored, scratch)
    assert outcome.status is FAILURE
    assert outcome.failed == {"gives_a_lock", "gives_odd_metadata", "leaves"}
    assert "pickle" in outcome.failure("gives_a_lock")
    assert "SystemExit" in outcome.failure("leaves")
    assert outcome.succeeded == {"two"}


def test_configs_outputs_events_and_errors_of_ten_megabytes_pass(
    house: House, scratch: Scratch
) -> None:
    config = {"ops": {"gives_much": {"config": {"text": "y" * bad_jobs.LARGE}}}}
    outcome = house.run(bad_jobs.large, scratch, config=config)
    assert outcome.succeeded == {"gives_much", "measures"}
    assert scratch.lines("measured") == [str(bad_jobs.LARGE)]
    assert outcome.failed == {"complains_at_length"}


def test_without_dagster_home_the_embedded_broker_lies_beside_the_instance(
    nowhere: House, scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(nowhere.instance.root_directory)
    monkeypatch.delenv("DAGSTER_HOME")
    executor = {"broker": "embedded://"}
    with nowhere.started(jobs.urgent, scratch, executor=executor):
        eventually((root / "dagster_taskiq" / "queue.db").exists)


def test_a_worker_without_dagster_home_says_what_to_set() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    done = subprocess.run(
        [sys.executable, "-m", "dagster_taskiq", "worker", "start"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "DAGSTER_HOME" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_instance_that_lives_in_memory_is_refused(scratch: Scratch) -> None:
    with DagsterInstance.ephemeral() as instance:
        house = House(Settings(broker="memory://"), instance)
        with pytest.raises(DagsterUnmetExecutorRequirementsError, match="instance"):
            house.run(jobs.values, scratch, raise_on_error=True)
