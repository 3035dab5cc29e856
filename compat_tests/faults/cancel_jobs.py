"""Jobs that are cancelled at every moment: each of their steps is held at another."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from dagster import (
    DagsterEvent,
    DagsterInstance,
    Executor,
    InitExecutorContext,
    InitResourceContext,
    JobDefinition,
    OpExecutionContext,
    executor,
    job,
    multiple_process_executor_requirements,
    op,
    resource,
)
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._serdes import unpack_value

from compat_tests.executor.fault_jobs import deaf, quick
from compat_tests.executor.scratch import SCRATCH_TAG, Scratch
from dagster_taskiq import taskiq_executor
from dagster_taskiq.execution.task_context import current_message
from dagster_taskiq.executor import TaskiqExecutor
from dagster_taskiq.settings.schema import EXECUTOR_FIELDS

#: How many steps wait behind those that are held.
WAITING = 200
#: How long a held step stays where it is, unless it is stopped, in seconds.
HELD_SECONDS = 300.0
#: Sent first: the held steps have all slots of the worker.
AHEAD = {"dagster-taskiq/priority": "1"}


def hold(scratch: Scratch, moment: str) -> None:
    """Note which process has come to a moment, and stay there."""
    scratch.note(moment, str(os.getpid()))
    time.sleep(HELD_SECONDS)
    scratch.note(f"beyond-{moment}")


@resource
def slow_to_set_up(context: InitResourceContext) -> None:
    hold(Scratch.of(context), "starting")


@resource
def slow_to_tear_down(context: InitResourceContext) -> Iterator[None]:
    yield
    hold(Scratch.of(context), "leaving")


@op(required_resource_keys={"slow_to_set_up"}, tags=AHEAD)
def starting(context: OpExecutionContext) -> None:
    Scratch.of(context).note("beyond-starting")


@op(tags=AHEAD)
def running(context: OpExecutionContext) -> None:
    scratch = Scratch.of(context)
    try:
        hold(scratch, "running")
    finally:
        scratch.note("cleaned-up")


@op(required_resource_keys={"slow_to_tear_down"}, tags=AHEAD)
def leaving(context: OpExecutionContext) -> None:
    Scratch.of(context).note("worked")


RESOURCES = {"slow_to_set_up": slow_to_set_up, "slow_to_tear_down": slow_to_tear_down}


@job(executor_def=taskiq_executor, resource_defs=RESOURCES)
def held_at_every_moment() -> None:
    starting()
    running()
    leaving()
    deaf.tag(AHEAD)()
    for number in range(WAITING):
        quick.alias(f"quick_{number}")()


@job(executor_def=taskiq_executor, resource_defs=RESOURCES)
def held_in_teardown() -> None:
    leaving()


@job(executor_def=taskiq_executor)
def one_quick() -> None:
    quick()


# Runs that are held before they have sent anything.


def held_while_loading() -> JobDefinition:
    """Make a job, which takes long where that happens in a child of a worker."""
    message = current_message()
    if message is not None:
        (packed,) = (value for name, value in message.kwargs.items() if name.endswith("_packed"))
        args = unpack_value(packed)
        with DagsterInstance.from_ref(args.instance_ref) as instance:
            run = instance.get_run_by_id(args.run_id)
        assert run is not None
        hold(Scratch(Path(run.tags[SCRATCH_TAG])), "loading")

    @job(name="held_while_loading", executor_def=taskiq_executor)
    def held() -> None:
        quick()

    return held


class LateExecutor(TaskiqExecutor):
    """``taskiq_executor``, which does not begin before the test writes the note "begin"."""

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[DagsterEvent]:
        scratch = Scratch(Path(plan_context.run_tags[SCRATCH_TAG]))
        scratch.note("unsent", str(os.getpid()))
        scratch.wait_for("begin")
        yield from super().execute(plan_context, execution_plan)


@executor(
    name="late",
    config_schema=EXECUTOR_FIELDS,
    requirements=multiple_process_executor_requirements(),
)
def late_executor(init_context: InitExecutorContext) -> Executor:
    return LateExecutor.from_config(init_context.executor_config)


@job(executor_def=late_executor)
def held_unsent() -> None:
    quick()
