"""Jobs whose process is to die, be stopped or be taken over in the middle of it."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from dagster import (
    DagsterEvent,
    Executor,
    InitExecutorContext,
    OpExecutionContext,
    executor,
    in_process_executor,
    job,
    multiple_process_executor_requirements,
    multiprocess_executor,
    op,
)
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan

from compat_tests.executor.scratch import SCRATCH_TAG, Scratch
from dagster_taskiq import taskiq_executor
from dagster_taskiq.executor import TaskiqExecutor
from dagster_taskiq.settings.schema import EXECUTOR_FIELDS

#: How often what ticks does so, in seconds.
TICK_SECONDS = 0.02


@op
def begins(context: OpExecutionContext) -> int:
    Scratch.of(context).note("begins", str(os.getpid()))
    return 1


@op
def holds(context: OpExecutionContext, number: int) -> int:
    """Run until the test writes the note "go"."""
    return _hold(context, number)


def _hold(context: OpExecutionContext, number: int) -> int:
    scratch = Scratch.of(context)
    scratch.note("held-began", str(os.getpid()))
    scratch.wait_for("go")
    scratch.note("held-ended", str(os.getpid()))
    return number


@op
def ends(context: OpExecutionContext, number: int) -> None:
    Scratch.of(context).note(f"ends-{number}", str(os.getpid()))


@job(executor_def=taskiq_executor)
def relay() -> None:
    ends(holds(begins()))


@job(executor_def=in_process_executor)
def whole_relay() -> None:
    ends(holds(begins()))


@op
def holds_alone(context: OpExecutionContext) -> int:
    """Run until the test writes the note "go", with nothing before it."""
    return _hold(context, 0)


@job(executor_def=multiprocess_executor)
def multiprocess_that_holds() -> None:
    ends(holds_alone())


@op
def leaves(context: OpExecutionContext) -> None:
    Scratch.of(context).note("leaves")
    sys.exit(3)


@job(executor_def=in_process_executor)
def whole_that_leaves() -> None:
    leaves()


@op
def ticks(context: OpExecutionContext) -> None:
    """Note who runs this, again and again: what it does after it was given up can be seen."""
    scratch = Scratch.of(context)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        scratch.note("tick", str(os.getpid()))
        time.sleep(TICK_SECONDS)


@job(executor_def=in_process_executor)
def whole_that_ticks() -> None:
    ticks()


class TickingExecutor(TaskiqExecutor):
    """``taskiq_executor``, whose process notes all the time that it works on the run."""

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[DagsterEvent]:
        scratch = Scratch(Path(plan_context.run_tags[SCRATCH_TAG]))
        done = threading.Event()

        def tick() -> None:
            while not done.wait(TICK_SECONDS):
                scratch.note("tick", str(os.getpid()))

        thread = threading.Thread(target=tick, daemon=True)
        thread.start()
        try:
            yield from super().execute(plan_context, execution_plan)
        finally:
            done.set()
            thread.join()


@executor(
    name="ticking",
    config_schema=EXECUTOR_FIELDS,
    requirements=multiple_process_executor_requirements(),
)
def ticking_executor(init_context: InitExecutorContext) -> Executor:
    return TickingExecutor.from_config(init_context.executor_config)


@job(executor_def=ticking_executor)
def ticking_relay() -> None:
    ends(holds(begins()))


CRASH_JOBS = [
    relay,
    whole_relay,
    multiprocess_that_holds,
    whole_that_leaves,
    whole_that_ticks,
    ticking_relay,
]
