"""What is sent for a step: no more than that step needs, however many others there are."""

import json
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from dagster import JobDefinition, reconstructable
from dagster._core.execution.api import create_execution_plan
from dagster._core.execution.plan.outputs import StepOutputHandle
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.plan.state import KnownExecutionState, PastExecutionState
from dagster._core.execution.plan.step import ExecutionStep
from dagster._grpc.types import ExecuteStepArgs
from dagster._serdes import unpack_value

from compat_tests.executor import jobs
from dagster_taskiq.executor import TaskiqExecutor
from dagster_taskiq.runs.step_requests import StepRequests
from dagster_taskiq.settings.settings import Settings

Planned = tuple[ExecutionPlan, KnownExecutionState]
Mappings = dict[str, dict[str, list[str] | None]]


def mapping_keys(mappings: Mappings, step_key: str, output: str) -> Sequence[str | None]:
    """Return the mapping keys of an output; ``None`` alone for one that is not dynamic."""
    return mappings.get(step_key, {}).get(output) or [None]


def planned(job: Callable[..., JobDefinition], mappings: Mappings) -> Planned:
    """Return the plan of a job whose dynamic outputs have come, and its state near the end."""
    plan = create_execution_plan(reconstructable(job))
    for step_key in mappings:  # one after the other, as in a run
        plan.resolve({step_key: mappings[step_key]})
    handles = {
        StepOutputHandle(step.key, output.name, key)
        for step in plan.steps
        if isinstance(step, ExecutionStep)
        for output in step.step_outputs
        for key in mapping_keys(mappings, step.key, output.name)
    }
    before = PastExecutionState("the first", handles, None)
    state = KnownExecutionState(
        dynamic_mappings=mappings,
        ready_outputs=handles,
        parent_state=PastExecutionState("the second", handles, before),
    )
    return plan, state


def step_requests(job: Callable[..., JobDefinition], plan: ExecutionPlan) -> StepRequests:
    context: Any = SimpleNamespace(
        reconstructable_job=reconstructable(job),
        run_id="run",
        dagster_run=SimpleNamespace(tags={}, job_name="job"),
        instance=SimpleNamespace(get_ref=lambda: None),
    )
    settings = Settings(broker="memory://")
    return StepRequests(TaskiqExecutor(settings).run_options, context, plan, settings)


def sent(job: Callable[..., JobDefinition], planned: Planned, step: str) -> dict[str, Any]:
    """Return what is sent for a step."""
    plan, state = planned
    requests = step_requests(job, plan)
    return dict(requests.make(plan.get_executable_step_by_key(step), "task", state).kwargs)


def keys(count: int) -> list[str]:
    return [f"n{number:06}" for number in range(count)]


@pytest.mark.parametrize("step", ["double[n000001]", "again[n000001]"])
def test_what_is_sent_for_a_mapped_step_does_not_grow_with_its_siblings(step: str) -> None:
    few, many = (planned(jobs.dynamic, {"fan": {"result": keys(count)}}) for count in (10, 1000))
    small, large = (len(json.dumps(sent(jobs.dynamic, each, step))) for each in (few, many))
    assert small == large


@pytest.mark.oldest
def test_each_step_is_planned_from_what_is_sent_as_from_all_that_is_known() -> None:
    mappings: Mappings = {
        "two_fans": {"left": ["a", "b"], "right": None},
        "fan_of": {"result": ["x", "y", "z"]},
    }
    whole = plan, state = planned(jobs.dynamic_again, mappings)
    steps = [step for step in plan.steps if isinstance(step, ExecutionStep)]
    mapped = {"chained.double[a]", "chained.breaks_once[b]", "also[b]", "third[z]"}
    assert {*mapped, "none", "first", "after", "last"} <= {step.key for step in steps}
    for step in steps:
        packed = sent(jobs.dynamic_again, whole, step.key)["execute_step_args_packed"]
        sent_state = unpack_value(packed, ExecuteStepArgs).known_state
        assert sent_state is not None
        target = reconstructable(jobs.dynamic_again)
        from_sent, from_all = (
            create_execution_plan(target, step_keys_to_execute=[step.key], known_state=known)
            for known in (sent_state, state)
        )
        assert from_sent.get_step_by_key(step.key) == from_all.get_step_by_key(step.key) == step
        past = sent_state.parent_state
        assert past is not None
        past_before = past.get_parent_state()
        assert past_before is not None
        for source in (
            handle
            for step_input in step.step_inputs
            for handle in step_input.get_step_output_handle_dependencies()
        ):
            # What a step asks of the plan and the state to load its input.
            assert from_sent.get_step_output(source) == from_all.get_step_output(source)
            assert source in sent_state.ready_outputs
            assert source in past.produced_outputs
            assert source in past_before.produced_outputs


def test_a_task_has_the_same_id_however_often_it_is_sent() -> None:
    plan, _ = planned(jobs.dynamic, {})
    requests = step_requests(jobs.dynamic, plan)
    step = plan.get_executable_step_by_key("fan")
    assert requests.task_id(step, attempt=0) == requests.task_id(step, attempt=0) == "run:fan:0"
    others = {requests.task_id(step, 1), requests.task_id(step, 0, 1), requests.task_id(step, 1, 1)}
    assert others == {"run:fan:1", "run:fan:0.1", "run:fan:1.1"}
