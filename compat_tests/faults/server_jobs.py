"""Jobs of the tests in which servers go away."""

from dagster import In, Nothing, OpExecutionContext, job, op

from compat_tests.executor.fault_jobs import held, quick
from compat_tests.executor.scratch import Scratch
from dagster_taskiq import taskiq_executor


@op(ins={"above": In(Nothing)})
def after(context: OpExecutionContext) -> None:
    Scratch.of(context).note("after", context.op_handle.name)


#: The steps of the second generation.
AFTER = [*(f"after_{number}" for number in range(6)), "after_held_0", "after_held_1"]


@job(executor_def=taskiq_executor)
def two_generations() -> None:
    """Two steps hold two slots; six wait beside them. After each, one more becomes ready."""
    for number in range(2):
        holds = held.alias(f"held_{number}").tag({"dagster-taskiq/priority": "1"})
        after.alias(f"after_held_{number}")(holds())
    for number in range(6):
        after.alias(f"after_{number}")(quick.alias(f"quick_{number}")())
