"""Jobs of the tests in which what is known of a task gets lost."""

from pathlib import Path

from dagster import HookContext, OpExecutionContext, job, op, success_hook

from compat_tests.executor.fault_jobs import held
from compat_tests.executor.scratch import SCRATCH_TAG, Scratch
from dagster_taskiq import taskiq_executor


@success_hook
def slow_hook(context: HookContext) -> None:
    """Keep the task of a step busy when the step has ended."""
    run = context.instance.get_run_by_id(context.run_id)
    assert run is not None
    scratch = Scratch(Path(run.tags[SCRATCH_TAG]))
    scratch.note("hook-began")
    scratch.wait_for("go")


@op
def hooked(context: OpExecutionContext) -> None:
    Scratch.of(context).note("hooked")


@job(executor_def=taskiq_executor)
def held_and_hooked() -> None:
    held()
    hooked.with_hooks({slow_hook})()
