"""Jobs whose orchestrating process is killed, and steps that end without a word of their own."""

import os
import signal
import time

from dagster import JobDefinition, OpExecutionContext, RetryPolicy, job, op

from compat_tests.executor.fault_jobs import below
from compat_tests.executor.scratch import Scratch
from compat_tests.faults.cancel_jobs import HELD_SECONDS
from dagster_taskiq import taskiq_executor
from dagster_taskiq.execution.task_context import current_message

#: How many steps ``ten_held`` has that the test lets go one by one.
HELD = 10


def held_name(number: int) -> str:
    return f"held_{number}"


@op
def held_for_itself(context: OpExecutionContext) -> None:
    """Run until the test writes the note that lets this step go."""
    scratch, name = Scratch.of(context), context.op_handle.name
    scratch.note(f"began-{name}", str(os.getpid()))
    scratch.wait_for(f"go-{name}")
    scratch.note(f"ended-{name}")


@job(executor_def=taskiq_executor)
def ten_held() -> None:
    """Steps that start in the order of their numbers, and one that follows the last of them.

    The run itself, when it is resumed, comes before those that wait.
    """
    for number in range(HELD):
        priority = {"dagster-taskiq/priority": str(-number)}
        held = held_for_itself.alias(held_name(number)).tag(priority)()
        if number == HELD - 1:
            below(held)


# Ends without a word.


@op
def dies_but_once_waits(context: OpExecutionContext) -> None:
    """Die each time; at the third, wait for the test before that."""
    scratch = Scratch.of(context)
    scratch.note("attempt", str(os.getpid()))
    if scratch.count("attempt") == 3:
        scratch.wait_for("go")
    os._exit(9)


@job(executor_def=taskiq_executor)
def dies_again_and_again() -> None:
    dies_but_once_waits()


@op
def stays(context: OpExecutionContext) -> None:
    Scratch.of(context).note("stays", str(os.getpid()))
    time.sleep(HELD_SECONDS)


@op(retry_policy=RetryPolicy(max_retries=1))
def stays_with_policy(context: OpExecutionContext) -> None:
    Scratch.of(context).note("stays-with-policy", str(os.getpid()))
    time.sleep(HELD_SECONDS)


@job(executor_def=taskiq_executor)
def too_long() -> None:
    stays()
    stays_with_policy()


@job(executor_def=taskiq_executor)
def too_long_once() -> None:
    stays()


@op
def deaf_at_first(context: OpExecutionContext) -> None:
    """Ignore what asks this to end, at the first try; at the second there is nothing to do."""
    scratch = Scratch.of(context)
    first = not scratch.count("deaf-at-first")
    if first:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    scratch.note("deaf-at-first", str(os.getpid()))
    if first:
        time.sleep(HELD_SECONDS)


@job(executor_def=taskiq_executor)
def deaf_to_the_first_worker() -> None:
    deaf_at_first()


def loads_only_here() -> JobDefinition:
    """Make a job, except in the child of a worker, which has no such code."""
    if current_message() is not None:
        raise ModuleNotFoundError("there is no such code here")

    @job(name="loads_only_here", executor_def=taskiq_executor)
    def made() -> None:
        stays()
        stays_with_policy()

    return made
