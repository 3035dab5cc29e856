"""Jobs for fleets that are being restarted, or are of two releases at once."""

import os
import time

from dagster import In, Nothing, OpExecutionContext, job, op

import dagster_taskiq
from compat_tests.executor.scratch import Scratch
from dagster_taskiq import taskiq_executor

#: How many steps a run of ``shift`` has in each of its two rows.
ROW = 3
#: How many steps ``mixed`` has.
MIXED = 8


def note(context: OpExecutionContext) -> None:
    """Say which step this is, in which process, and whose engine runs it."""
    text = f"{context.op_handle.name} {os.getpid()} {dagster_taskiq.__file__}"
    Scratch.of(context).note(f"began-{context.run_id}", text)


@op(ins={"above": In(Nothing)})
def works_below(context: OpExecutionContext) -> None:
    note(context)
    time.sleep(0.5)
    Scratch.of(context).note(f"ended-{context.run_id}", context.op_handle.name)


@op
def works(context: OpExecutionContext) -> None:
    note(context)
    time.sleep(0.5)
    Scratch.of(context).note(f"ended-{context.run_id}", context.op_handle.name)


@job(executor_def=taskiq_executor)
def shift() -> None:
    for number in range(ROW):
        works_below.alias(f"below_{number}")(works.alias(f"above_{number}")())


@op
def works_when_told(context: OpExecutionContext) -> None:
    note(context)
    Scratch.of(context).wait_for("go")
    Scratch.of(context).note(f"ended-{context.run_id}", context.op_handle.name)


@job(executor_def=taskiq_executor)
def mixed() -> None:
    for number in range(MIXED):
        works_when_told.alias(f"step_{number}")()
