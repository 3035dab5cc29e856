"""Jobs of the tests in which servers go away."""

from dagster import In, Nothing, OpExecutionContext, job, op

from compat_tests.executor.fault_jobs import held, quick
from compat_tests.executor.scratch import Scratch
from dagster_taskiq import taskiq_executor


@op(ins={"above": In(Nothing)})
def after(context: OpExecutionContext) -> None:
    Scratch.of(context).note("after", context.op_handle.name)


@job(executor_def=taskiq_executor)
def two_generations() -> None:
    """Two steps hold two slots; six wait beside them, and six more become ready after those."""
    for number in range(2):
        held.alias(f"held_{number}").tag({"dagster-taskiq/priority": "1"})()
    for number in range(6):
        after.alias(f"after_{number}")(quick.alias(f"quick_{number}")())
