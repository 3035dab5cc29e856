"""Jobs that are launched as runs: what their ops do, they note in the run's scratch directory."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from dagster import (
    Definitions,
    OpExecutionContext,
    RetryPolicy,
    RunRequest,
    StaticPartitionsDefinition,
    in_process_executor,
    job,
    multiprocess_executor,
    op,
    schedule,
    sensor,
)

from compat_tests.executor.scratch import SCRATCH_TAG, Scratch
from compat_tests.launcher.crash_jobs import CRASH_JOBS
from compat_tests.launcher.pool_jobs import POOL_JOBS
from compat_tests.launcher.traced_jobs import TRACED_JOBS
from dagster_taskiq import taskiq_executor


@op
def first(context: OpExecutionContext) -> int:
    Scratch.of(context).note("first", str(os.getpid()))
    return 1


@op
def second(context: OpExecutionContext, number: int) -> int:
    Scratch.of(context).note("second", str(os.getpid()))
    return number + 1


@job(executor_def=in_process_executor)
def whole() -> None:
    second(first())


@job(executor_def=taskiq_executor)
def spread() -> None:
    second(first())


def run_until_released(context: OpExecutionContext) -> None:
    """Run until the test writes the note "release"."""
    scratch = Scratch.of(context)
    scratch.note("waiting", str(os.getpid()))
    scratch.wait_for("release")
    scratch.note("released")


wait_for_release = op(name="wait_for_release")(run_until_released)


@job(executor_def=in_process_executor)
def whole_that_waits() -> None:
    wait_for_release()


@job(executor_def=taskiq_executor)
def spread_that_waits() -> None:
    wait_for_release()


@op(retry_policy=RetryPolicy(max_retries=1))
def fails_once(context: OpExecutionContext) -> None:
    if context.retry_number == 0:
        raise ValueError("not yet\nat all")


@op
def fails_always() -> None:
    raise ValueError("never")


@op
def is_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@job(executor_def=taskiq_executor)
def spread_to_every_end() -> None:
    first()
    fails_once()
    fails_always()
    is_killed()


protected = op(name="protected", retry_policy=RetryPolicy(max_retries=3))(run_until_released)


@op(retry_policy=RetryPolicy(max_retries=3))
def fails_when_interrupted(context: OpExecutionContext) -> None:
    """As ops do that wait for something which the interrupt ends as well."""
    scratch = Scratch.of(context)
    scratch.note("waiting", str(os.getpid()))
    try:
        scratch.wait_for("release")
    except BaseException as error:
        raise RuntimeError("the query has failed") from error


@job(executor_def=in_process_executor)
def whole_with_policy() -> None:
    protected()


@job(executor_def=in_process_executor)
def whole_with_policy_that_fails() -> None:
    fails_when_interrupted()


@job(executor_def=taskiq_executor)
def spread_with_policy() -> None:
    protected()


@job(executor_def=multiprocess_executor)
def multiprocess_with_policy() -> None:
    protected()


@op
def die_with_exit_code(context: OpExecutionContext) -> None:
    Scratch.of(context).note("died")
    os._exit(7)


@job(executor_def=in_process_executor)
def whole_that_dies() -> None:
    die_with_exit_code()


@op
def ignore_sigterm(context: OpExecutionContext) -> None:
    """Swallow every interrupt, so that only SIGKILL ends it."""
    scratch = Scratch.of(context)
    scratch.note("waiting", str(os.getpid()))
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            time.sleep(0.1)
        except BaseException:
            scratch.note("interrupted")


@job(executor_def=in_process_executor)
def whole_that_ignores_sigterm() -> None:
    ignore_sigterm()


@op
def meet_the_others(context: OpExecutionContext) -> int:
    """Note how many ops of all runs in this directory work at this moment."""
    scratch = Scratch.of(context)
    scratch.note("working", f"+{os.getpid()}")
    time.sleep(0.05)
    scratch.note("working", f"-{os.getpid()}")
    return 1


@op
def meet_the_others_again(context: OpExecutionContext, number: int) -> None:
    scratch = Scratch.of(context)
    scratch.note("working", f"+{os.getpid()}")
    scratch.note("working", f"-{os.getpid()}")
    scratch.note("finished", context.run_id)


@job(executor_def=taskiq_executor)
def spread_that_meets() -> None:
    meet_the_others_again(meet_the_others())


@job(executor_def=multiprocess_executor)
def multiprocess_that_waits() -> None:
    wait_for_release()


@op
def take_turn(context: OpExecutionContext) -> None:
    Scratch.of(context).note("turns", context.run.tags.get("turn", ""))


@job(executor_def=in_process_executor)
def whole_in_turn() -> None:
    take_turn()


@op
def note_partition(context: OpExecutionContext) -> None:
    Scratch.of(context).note("partitions", context.partition_key)


@job(executor_def=in_process_executor, partitions_def=StaticPartitionsDefinition(["a", "b"]))
def whole_by_partition() -> None:
    note_partition()


def request_by(context: Any, turn: str) -> RunRequest:
    """Ask for a run that notes what it does beside the instance, where a test can find it."""
    notes = Path(context.instance.root_directory) / "notes"
    return RunRequest(run_key=turn, tags={SCRATCH_TAG: str(notes), "turn": turn})


@schedule(cron_schedule="0 0 1 * *", job=whole_in_turn)
def monthly(context: Any) -> RunRequest:
    return request_by(context, "schedule")


@sensor(job=whole_in_turn, minimum_interval_seconds=1)
def once(context: Any) -> RunRequest:
    return request_by(context, "sensor")


defs = Definitions(
    schedules=[monthly],
    sensors=[once],
    jobs=[
        *CRASH_JOBS,
        *POOL_JOBS,
        *TRACED_JOBS,
        whole,
        spread,
        whole_that_waits,
        spread_that_waits,
        spread_to_every_end,
        spread_that_meets,
        whole_that_dies,
        whole_that_ignores_sigterm,
        multiprocess_that_waits,
        whole_with_policy,
        whole_with_policy_that_fails,
        spread_with_policy,
        multiprocess_with_policy,
        whole_in_turn,
        whole_by_partition,
    ],
)
