"""Jobs that fail, and that are held while the servers are away."""

from dagster import OpExecutionContext, job, op

from compat_tests.executor.scratch import Scratch
from compat_tests.waiting import eventually
from dagster_taskiq import taskiq_executor


@op
def fails(context: OpExecutionContext) -> None:
    Scratch.of(context).note("fails")
    raise RuntimeError("as it should")


@op
def is_held(context: OpExecutionContext) -> None:
    scratch = Scratch.of(context)
    scratch.note("is_held")
    # An outage and several commands happen meanwhile.
    eventually(lambda: scratch.count("release"), "the test is done", 300)
    print("released")


@job(executor_def=taskiq_executor)
def held_and_failing() -> None:
    fails()
    is_held()
