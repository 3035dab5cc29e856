"""The jobs that the workers of these tests are allowed to load."""

from dagster import OpExecutionContext, in_process_executor, job, op

from compat_tests.executor.scratch import Scratch
from dagster_taskiq import taskiq_executor


@op
def note(context: OpExecutionContext) -> None:
    Scratch.of(context).note("ran")


@job(executor_def=taskiq_executor)
def allowed() -> None:
    note()


@job(executor_def=in_process_executor)
def allowed_as_a_whole() -> None:
    note()
