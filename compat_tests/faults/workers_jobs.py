"""Jobs of steps that a test lets go one by one, to have workers die or freeze in their midst."""

import os

from dagster import JobDefinition, OpExecutionContext, RetryPolicy, job, op

from compat_tests.executor.scratch import Scratch
from compat_tests.waiting import PATIENCE_SECONDS, eventually
from dagster_taskiq import taskiq_executor

#: Lets every attempt at every step go on.
GO = "go"


def go_of(step: str, attempt: int) -> str:
    """Return the name of the note that lets one attempt go on."""
    return f"go-{step}-{attempt}"


def wait_until_let_go(context: OpExecutionContext) -> None:
    """Say which process begins what, wait for the test, and say that it ends."""
    scratch, step = Scratch.of(context), context.op_handle.name
    # Counted by the notes: the engine's own count is what is being tested.
    scratch.note("began", f"{step} {os.getpid()}")
    attempt = sum(line.split()[0] == step for line in scratch.lines("began")) - 1
    mine = go_of(step, attempt)
    eventually(
        lambda: scratch.count(GO) or scratch.count(mine), f"{mine} is noted", 2 * PATIENCE_SECONDS
    )
    scratch.note("ended", f"{step} {os.getpid()}")


plain = op(name="plain")(wait_until_let_go)
protected = op(name="protected", retry_policy=RetryPolicy(max_retries=1))(wait_until_let_go)


def steps(number: int) -> JobDefinition:
    """Return a job of so many steps, of which every other one has a retry policy."""

    @job(name=f"steps_{number}", executor_def=taskiq_executor)
    def made() -> None:
        for each in range(number):
            made_of = protected if each % 2 else plain
            made_of.alias(f"{made_of.name}_{each:02}")()

    return made


def twenty() -> JobDefinition:
    return steps(20)


def six() -> JobDefinition:
    return steps(6)
