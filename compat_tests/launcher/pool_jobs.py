"""Jobs whose ops hold the one slot of a pool, and do not end when they are asked to."""

import ctypes
import os
import signal
import time

from dagster import (
    JobDefinition,
    OpExecutionContext,
    in_process_executor,
    job,
    multiprocess_executor,
    op,
)

from compat_tests.executor.scratch import Scratch
from dagster_taskiq import taskiq_executor
from dagster_taskiq.tags import QUEUE_TAG

#: The queue, beside the default one, that the shared worker serves.
SIDE_QUEUE = "side"
#: The pool; tests give it one slot.
POOL = "scarce"
#: How long an op holds its slot that nothing ends, in seconds.
HELD_SECONDS = 300
#: Gets the slot before the other steps of its run.
FIRST = {"dagster/priority": "1"}


@op(pool=POOL, tags=FIRST)
def swallows_interrupts(context: OpExecutionContext) -> None:
    Scratch.of(context).note("in-pool", str(os.getpid()))
    deadline = time.monotonic() + HELD_SECONDS
    while time.monotonic() < deadline:
        try:
            time.sleep(HELD_SECONDS)
        except BaseException:
            continue


@op(pool=POOL, tags=FIRST)
def is_in_native_code(context: OpExecutionContext) -> None:
    Scratch.of(context).note("in-pool", str(os.getpid()))
    # No signal ends the call, and by way of this class it holds the interpreter.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    ctypes.PyDLL(None).sleep(HELD_SECONDS)


@op(pool=POOL, tags=FIRST)
def runs_until_released(context: OpExecutionContext) -> None:
    scratch = Scratch.of(context)
    scratch.note("in-pool", str(os.getpid()))
    scratch.wait_for("release")


# A test may have the steps before it go to a worker that is killed; this queue is the shared one's.
@op(pool=POOL, tags={QUEUE_TAG: SIDE_QUEUE})
def comes_next(context: OpExecutionContext) -> None:
    Scratch.of(context).note("came-next")


@job(executor_def=in_process_executor)
def whole_in_pool() -> None:
    swallows_interrupts()


@job(executor_def=multiprocess_executor)
def multiprocess_in_pool() -> None:
    swallows_interrupts()
    comes_next()


@job(executor_def=taskiq_executor)
def spread_in_pool() -> None:
    is_in_native_code()
    comes_next()


@job(executor_def=taskiq_executor)
def spread_held_in_pool() -> None:
    runs_until_released()
    comes_next()


@job(executor_def=in_process_executor)
def whole_next() -> None:
    comes_next()


POOL_JOBS: list[JobDefinition] = [
    whole_in_pool,
    multiprocess_in_pool,
    spread_in_pool,
    spread_held_in_pool,
    whole_next,
]
