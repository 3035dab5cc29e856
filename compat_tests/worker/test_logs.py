"""A worker's log, and what steps print: captured for Dagster's UI, and mirrored to that log."""

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRun, execute_job, reconstructable
from dagster._core.storage import local_compute_log_manager
from dagster._core.storage.compute_log_manager import ComputeIOType

from compat_tests.conftest import StartWorker
from compat_tests.sending import USER_TASKS, open_sender
from compat_tests.waiting import eventually
from compat_tests.worker import printing
from compat_tests.workers import executor_config
from dagster_taskiq.dagster_internals import compute_logs
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.worker import output_mirror


def captured(instance: DagsterInstance, run: DagsterRun, stream: ComputeIOType) -> str:
    """Return all that was captured of a run's steps."""
    texts = []
    for log in instance.all_logs(run.run_id):
        event = log.dagster_event
        if event is not None and event.event_type_value == "LOGS_CAPTURED":
            key = [run.run_id, "compute_logs", event.logs_captured_data.file_key]
            data = instance.compute_log_manager.get_log_data_for_type(key, stream, 0, None)[0]
            texts.append((data or b"").decode())
    return "".join(texts)


@pytest.mark.oldest
@pytest.mark.parametrize("broker_kind", ["embedded"], indirect=True)
def test_all_that_a_step_prints_before_it_crashes_is_captured_and_mirrored(
    settings: Settings, instance: DagsterInstance, start_worker: StartWorker
) -> None:
    worker = start_worker("-c", "1")
    config = {"execution": {"config": executor_config(settings)}}
    result = execute_job(reconstructable(printing.printing), instance, run_config=config)
    assert result.success
    out = captured(instance, result.dagster_run, ComputeIOType.STDOUT)
    err = captured(instance, result.dagster_run, ComputeIOType.STDERR)
    spoken = ["plain stdout", "by the descriptor", "from a shell"]
    spoken += [f"line {number} of many" for number in range(printing.MANY_LINES)]
    complaints = ["plain stderr", "its complaint"]
    assert sorted(out.splitlines()) == sorted(spoken)
    for complaint in complaints:
        assert complaint in err.splitlines()

    result = execute_job(reconstructable(printing.dying), instance, run_config=config)
    assert not result.success
    assert "last words" in captured(instance, result.dagster_run, ComputeIOType.STDOUT)

    last = ["last words", "and a last complaint"]
    eventually(lambda: all(line in worker.output().splitlines() for line in last))
    mirrored = worker.output().splitlines()
    for line in (*spoken, *complaints, *last):
        assert mirrored.count(line) == 1, line


def objects_in(log: str) -> list[dict[str, Any]]:
    """Return what was logged in JSON, among what others have written to the same place."""
    return [json.loads(line) for line in log.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("broker_kind", ["embedded"], indirect=True)
def test_a_worker_logs_in_json_with_the_fields_of_the_task(
    settings: Settings, instance: DagsterInstance, start_worker: StartWorker
) -> None:
    worker = start_worker("-c", "1", "-i", USER_TASKS, "--log-format", "json", "-l", "debug")
    config = {"execution": {"config": executor_config(settings)}}
    run = execute_job(reconstructable(printing.dying), instance, run_config=config).dagster_run
    with open_sender(settings) as sender:
        task_id = sender.send("fail", "no\nway")
        sender.error(task_id)
    worker.process.terminate()
    assert worker.wait() == 0

    output = worker.output()
    logged = objects_in(output)
    assert "dagster_taskiq." not in "".join(
        line for line in output.splitlines() if not line.startswith("{")
    ), "all that is ours is in JSON"
    assert {each["worker"] for each in logged} == {worker.name}
    assert all(datetime.fromisoformat(each["timestamp"]).tzinfo for each in logged)
    of_step = {"job": "dying", "run_id": run.run_id, "step_key": "dies_talking"}
    start, end = (
        each for each in logged if of_step.items() <= each.items() and " · " in each["message"]
    )
    assert start["message"] == f"dying · dies_talking started (run {run.run_id[:8]})"
    assert start["queue"] == settings.queue
    assert (end["level"], end["outcome"]) == ("ERROR", "lost")
    assert "ended with exit code 9" in end["message"]
    (failed,) = [each for each in logged if "exception" in each]
    assert failed["exception"].startswith("Traceback (most recent call last)")
    assert (failed["task_id"], failed["task"]) == (task_id, f"{USER_TASKS}:fail")
    ours = [each for each in logged if each.get("task_id") == task_id and "outcome" in each]
    assert [each["message"].rpartition("): ")[2] for each in ours] == ["LookupError: no"]


def test_a_half_written_line_is_not_written_into(tmp_path: Path) -> None:
    # What a step prints is read wherever the writing stands, and other lines go to the same place.
    step, shown = tmp_path / "step", tmp_path / "shown"
    with shown.open("wb") as output, step.open("wb", buffering=0) as printed:
        copied = output_mirror.CopiedFile(os.open(step, os.O_RDONLY), output.fileno())
        printed.write(b"first line\nsecond ")
        copied.go_on()
        os.write(output.fileno(), b"of another\n")
        printed.write(b"line\nPassword: ")
        copied.go_on()
        assert shown.read_bytes() == b"first line\nof another\nsecond line\n"
        copied.go_on()
        assert shown.read_bytes().endswith(b"second line\nPassword: "), "a prompt is shown"
        printed.write(b"x" * 3 * output_mirror.CHUNK_BYTES)
        copied.go_on()
        assert shown.stat().st_size > output_mirror.CHUNK_BYTES, (
            "an endless line is not held in memory"
        )
        printed.write(b"last words")
        copied.end()
    assert shown.read_bytes().endswith(b"x" * 3 * output_mirror.CHUNK_BYTES + b"last words")


@pytest.mark.oldest
def test_dagsters_inside_is_as_the_mirror_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    # If it is not, Dagster's own way is used, and no other test would fail.
    name = "mirror_stream_to_file"
    monkeypatch.setattr(local_compute_log_manager, name, getattr(local_compute_log_manager, name))
    assert compute_logs.install(lambda path, stream: None)


def test_where_dagsters_inside_is_otherwise_it_mirrors_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def mirror_stream_to_file(stream: object, path: Path, extra: object) -> None:
        del stream, path, extra

    monkeypatch.setattr(local_compute_log_manager, "mirror_stream_to_file", mirror_stream_to_file)
    assert not compute_logs.install(lambda path, stream: None)
    assert local_compute_log_manager.mirror_stream_to_file is mirror_stream_to_file
