"""``core_celery_execution_loop``: runs whose steps are sent by a function of the executor's own."""

import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterEvent, DagsterInstance, execute_job, reconstructable
from dagster import DagsterEventType as Kind
from dagster._core.events import StepOutputData
from dagster._core.execution.plan.objects import StepRetryData, StepSuccessData
from dagster._core.execution.plan.outputs import StepOutputHandle
from dagster_shared.error import SerializableErrorInfo

from compat_tests.facade import own_executor as own
from compat_tests.facade.conftest import OldFleet, end
from compat_tests.facade.own_executor import by_task_job, elsewhere_job
from dagster_celery._celery_app.results import AsyncResult
from dagster_celery._step_events import by_step
from dagster_celery._submitting_client import SubmittingClient
from dagster_celery.make_app import make_app
from dagster_taskiq.wire.task_request import TaskRequest

STEPS = ("first", "second", "third")


@pytest.fixture(scope="module")
def own_worker(old_fleet_of_kind: Any) -> Iterator[OldFleet]:
    """A worker that has the executor's own task."""
    fleet = old_fleet_of_kind("embedded")
    process = fleet.start("own", "-q", "own", "-c", "1", app="compat_tests.facade.own_executor")
    try:
        yield fleet
    finally:
        end(process)


def notes(directory: Path) -> list[str]:
    path = directory / "notes"
    return path.read_text().split() if path.exists() else []


def config_of(fleet: OldFleet, directory: Path, fails: str = "") -> dict[str, Any]:
    own = {"directory": str(directory)}
    ops = {name: {"config": {**own, "fails": name == fails}} for name in STEPS}
    source = {**fleet.config["config_source"], "task_default_queue": "own"}
    config = {**fleet.config, "config_source": source}
    return {"execution": {"config": config}, "ops": ops}


JOBS = pytest.mark.parametrize("job", [by_task_job, elsewhere_job], ids=["task", "elsewhere"])


@JOBS
def test_all_steps_run(job: Any, own_worker: OldFleet, tmp_path: Path) -> None:
    with DagsterInstance.from_config(str(own_worker.home)) as instance:
        config = config_of(own_worker, tmp_path)
        with execute_job(reconstructable(job), instance, run_config=config) as result:
            assert result.success
            assert result.output_for_node("third") == 3
        messages = [entry.message for entry in instance.all_logs(result.run_id)]
    assert notes(tmp_path) == list(STEPS)
    said = [each for each in messages if "own task starts the step on own@" in each]
    assert len(said) == (3 if job is by_task_job else 0)


@JOBS
def test_a_step_that_fails_ends_the_run(job: Any, own_worker: OldFleet, tmp_path: Path) -> None:
    with DagsterInstance.from_config(str(own_worker.home)) as instance:
        config = config_of(own_worker, tmp_path, fails="second")
        with execute_job(reconstructable(job), instance, run_config=config) as result:
            assert not result.success
            assert [each.step_key for each in result.get_step_failure_events()] == ["second"]
    assert notes(tmp_path) == ["first", "second"]


def test_events_of_a_step_come_together(own_worker: OldFleet, tmp_path: Path) -> None:
    with DagsterInstance.from_config(str(own_worker.home)) as instance:
        config = config_of(own_worker, tmp_path)
        with execute_job(reconstructable(by_task_job), instance, run_config=config) as result:
            events = [each for each in result.all_events if each.is_step_event]
    order = [each.step_key for each in events]
    assert order == sorted(order, key=STEPS.index)
    assert [each.step_key for each in events if each.event_type is Kind.STEP_START] == [*STEPS]


def test_events_of_each_attempt_at_a_step_come_together() -> None:
    retry = StepRetryData(SerializableErrorInfo("again", [], None), None)
    output = StepOutputData(StepOutputHandle("b", "result"))
    written = [
        DagsterEvent("STEP_START", "job", step_key="a"),
        DagsterEvent("STEP_START", "job", step_key="b"),
        DagsterEvent("STEP_UP_FOR_RETRY", "job", step_key="a", event_specific_data=retry),
        DagsterEvent("STEP_RESTARTED", "job", step_key="a"),
        DagsterEvent("STEP_OUTPUT", "job", step_key="b", event_specific_data=output),
        DagsterEvent("STEP_SUCCESS", "job", step_key="b", event_specific_data=StepSuccessData(1.0)),
        DagsterEvent("STEP_SUCCESS", "job", step_key="a", event_specific_data=StepSuccessData(1.0)),
        DagsterEvent("HOOK_COMPLETED", "job", step_key="a"),
    ]
    assert [written.index(each) for each in by_step(iter(written))] == [0, 2, 1, 4, 5, 3, 6, 7]


def test_an_eager_task_of_its_own_runs_where_the_loop_does(
    instance: DagsterInstance, tmp_path: Path
) -> None:
    ops = {name: {"config": {"directory": str(tmp_path)}} for name in STEPS}
    eager = {"config": {"config_source": {"task_always_eager": True}}}

    config = {"execution": eager, "ops": ops}
    with execute_job(reconstructable(by_task_job), instance, run_config=config) as result:
        assert result.success

    assert notes(tmp_path) == list(STEPS)
    said = [entry.message for entry in instance.all_logs(result.run_id)]
    assert any(f"starts the step on {socket.gethostname()}." in each for each in said)


#: How often each step of ``own.shapes`` is sent.
SHAPES = {
    **dict.fromkeys(("one", "left", "right", "join", "numbers", "total"), 1),
    **{f"more[{number}]": 1 for number in (1, 2)},
    "flaky": 2,
}


def assert_shapes(result: Any) -> None:
    """Check the outputs of ``own.shapes``, and that each step was sent and ran as often as due."""
    assert result.success
    assert result.output_for_node("join") == 4
    assert result.output_for_node("total") == 5
    assert result.output_for_node("flaky") == 1
    sent, begun = (Kind.STEP_WORKER_STARTING,), (Kind.STEP_START, Kind.STEP_RESTARTED)
    for kinds in (sent, begun):
        found = Counter(each.step_key for each in result.all_events if each.event_type in kinds)
        assert found == SHAPES, kinds


@pytest.mark.parametrize("job", [own.plan_shapes, own.wrapped_shapes], ids=["task", "elsewhere"])
def test_several_steps_are_ready_at_once(job: Any, embedded_fleet: OldFleet) -> None:
    with DagsterInstance.from_config(str(embedded_fleet.home)) as instance:
        config = {"execution": {"config": embedded_fleet.config}}
        with execute_job(reconstructable(job), instance, run_config=config) as result:
            assert_shapes(result)


@pytest.mark.parametrize("job", [own.plan_shapes, own.wrapped_shapes], ids=["task", "elsewhere"])
def test_several_eager_steps_are_ready_at_once(job: Any, instance: DagsterInstance) -> None:
    config = {"execution": {"config": {"config_source": {"task_always_eager": True}}}}
    with execute_job(reconstructable(job), instance, run_config=config) as result:
        assert_shapes(result)


@pytest.mark.parametrize(
    "job", [own.cut_plan_shapes, own.cut_wrapped_shapes], ids=["task", "elsewhere"]
)
def test_what_was_sent_with_a_step_that_failed_is_not_sent_again(
    job: Any, embedded_fleet: OldFleet
) -> None:
    own.asked_for.clear()
    with DagsterInstance.from_config(str(embedded_fleet.home)) as instance:
        config = {"execution": {"config": embedded_fleet.config}}
        with execute_job(reconstructable(job), instance, run_config=config) as result:
            assert_shapes(result)
    assert Counter(own.asked_for) == {**SHAPES, "right": 2}


def test_a_task_that_was_lost_on_its_way_is_sent_again(tmp_path: Path) -> None:
    sent = []

    def send(request: TaskRequest) -> AsyncResult:
        sent.append(request.id)
        return AsyncResult(request.id, app)

    app = make_app({"config_source": {"task_always_eager": True}})
    client = SubmittingClient(app.client, send)
    orders = [TaskRequest(each, "x", {}, "q") for each in ("a", "b")]
    assert client.submit(*orders) == ["a", "b"]
    assert client.submit(orders[0]) == ["a"]
    assert sent == ["a", "b", "a"]
