"""What is sent for a step: no more than that step needs, however many others there are."""

import json
from collections.abc import Callable
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
        for key in mappings.get(step.key, {}).get(output.name) or [None]
    }
    before = PastExecutionState("the first", handles, None)
    state = KnownExecutionState(
        dynamic_mappings=mappings,
        ready_outputs=handles,
        parent_state=PastExecutionState("the second", handles, before),
    )
    return plan, state


def sent(job: Callable[..., JobDefinition], planned: Planned, step: str) -> dict[str, Any]:
    """Return what is sent for a step."""
    plan, state = planned
    context: Any = SimpleNamespace(
        reconstructable_job=reconstructable(job),
        run_id="run",
        dagster_run=SimpleNamespace(tags={}),
        instance=SimpleNamespace(get_ref=lambda: None),
    )
    settings = Settings(broker="memory://")
    requests = StepRequests(TaskiqExecutor(settings).run_options, context, plan, settings)
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
        args = unpack_value(packed, ExecuteStepArgs)
        target = reconstructable(jobs.dynamic_again)
        from_sent, from_all = (
            create_execution_plan(target, step_keys_to_execute=[step.key], known_state=known)
            for known in (args.known_state, state)
        )
        assert from_sent.get_step_by_key(step.key) == from_all.get_step_by_key(step.key) == step
        past = args.known_state.parent_state
        for source in (
            handle
            for step_input in step.step_inputs
            for handle in step_input.get_step_output_handle_dependencies()
        ):
            # What a step asks of the plan and the state to load its input.
            assert from_sent.get_step_output(source) == from_all.get_step_output(source)
            assert source in args.known_state.ready_outputs
            assert source in past.produced_outputs
            assert source in past.parent_state.produced_outputs
