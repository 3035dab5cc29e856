"""Jobs whose steps leave something behind in their processes, and say what they find there."""

import json
import os
import sys
import threading

from dagster import In, Nothing, OpExecutionContext, job, op

from compat_tests.executor.scratch import Scratch
from compat_tests.worker.dirt import DIRT
from dagster_taskiq import taskiq_executor

#: How many steps run in one process; a hundred tasks do so in the tests of the pool.
MANY = 8
#: Steps that end one by one, each in what the one before has left of its process.
IN_A_CHAIN = {"above": In(Nothing)}


def note_process(context: OpExecutionContext) -> Scratch:
    scratch = Scratch.of(context)
    scratch.note("processes", str(os.getpid()))
    return scratch


@op
def leaves_everything(context: OpExecutionContext) -> None:
    scratch = note_process(context)
    # While a step runs, its streams and descriptors are its own: Dagster captures them.
    kinds = {name: dirt for name, dirt in DIRT.items() if name not in ("streams", "descriptors")}
    scratch.note("found", json.dumps({name: dirt.see() for name, dirt in kinds.items()}))
    for dirt in DIRT.values():
        dirt.leave()


@job(executor_def=taskiq_executor)
def many() -> None:
    for number in range(MANY):
        leaves_everything.alias(f"leaves_everything_{number}")()


@op(ins=IN_A_CHAIN)
def begins(context: OpExecutionContext) -> None:
    note_process(context)


@op(ins=IN_A_CHAIN)
def closes_its_output(context: OpExecutionContext) -> None:
    note_process(context)
    print("before it is closed")
    sys.stdout.close()


@op(ins=IN_A_CHAIN)
def leaves_a_thread(context: OpExecutionContext) -> None:
    scratch = note_process(context)

    def print_later() -> None:
        scratch.wait_for("processes", times=MANY + 4)
        print("printed by a thread of another step", flush=True)

    threading.Thread(target=print_later, name="prints later", daemon=True).start()


@op(ins=IN_A_CHAIN)
def ends(context: OpExecutionContext) -> None:
    note_process(context)


@job(executor_def=taskiq_executor)
def what_cannot_be_restored() -> None:
    ends(leaves_a_thread(closes_its_output(begins())))
