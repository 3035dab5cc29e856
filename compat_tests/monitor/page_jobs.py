"""Jobs for the page of the monitor."""

from dagster import OpExecutionContext, job, op

from compat_tests.executor.scratch import Scratch
from dagster_taskiq import taskiq_executor

#: What a browser would do something about, if it were not shown as text.
HOSTILE = '<img src=x onerror="alert(1)"><script>alert(2)</script>'


@op
def weigh(context: OpExecutionContext) -> int:
    """Run until the test says "go"."""
    scratch = Scratch.of(context)
    scratch.note("began")
    scratch.wait_for("go")
    scratch.note("weighed")
    return 7


@op
def label(context: OpExecutionContext, weight: int) -> None:
    context.log.info("It weighs %d.", weight)


@job(executor_def=taskiq_executor)
def parcels() -> None:
    label(weigh())


@op
def break_down() -> None:
    raise ValueError(HOSTILE)


@job(executor_def=taskiq_executor)
def breakdown() -> None:
    break_down()
