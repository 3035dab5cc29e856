"""Jobs whose steps die, hang, or are held until a test lets them go."""

import os
import signal
import subprocess
import time

from dagster import (
    DynamicOut,
    DynamicOutput,
    In,
    Nothing,
    OpExecutionContext,
    Out,
    Output,
    RetryPolicy,
    RetryRequested,
    job,
    op,
)

from compat_tests.executor.conftest import SLOTS
from compat_tests.executor.jobs import total
from compat_tests.executor.scratch import Scratch
from dagster_taskiq import taskiq_executor


def die(how: str) -> None:
    if how == "exit":
        os._exit(3)
    number = signal.Signals[how]
    # A core dump of the test's own making helps nobody.
    os.kill(os.getpid(), number)
    time.sleep(60)


# Children that die.


@op(config_schema={"how": str})
def dies(context: OpExecutionContext) -> None:
    Scratch.of(context).note("dies")
    die(context.op_config["how"])


@op(retry_policy=RetryPolicy(max_retries=1))
def dies_once(context: OpExecutionContext) -> None:
    scratch = Scratch.of(context)
    scratch.note("dies_once", str(context.retry_number))
    if scratch.count("dies_once") < 2:
        os.kill(os.getpid(), signal.SIGKILL)


@op
def lives(context: OpExecutionContext) -> None:
    Scratch.of(context).note("lives")


@op(ins={"above": In(Nothing)})
def below(context: OpExecutionContext) -> None:
    Scratch.of(context).note("below")


@job(executor_def=taskiq_executor)
def deaths() -> None:
    below(dies.configured({"how": "exit"}, "exits")())
    dies.configured({"how": "SIGKILL"}, "is_killed")()
    dies.configured({"how": "SIGSEGV"}, "crashes")()
    dies_once()
    lives()


@op
def always_dies(context: OpExecutionContext) -> None:
    Scratch.of(context).note("always_dies")
    os._exit(9)


@op
def dies_first(context: OpExecutionContext) -> None:
    scratch = Scratch.of(context)
    scratch.note("dies_first")
    if scratch.count("dies_first") < 2:
        os._exit(9)


@job(executor_def=taskiq_executor)
def unprotected_deaths() -> None:
    always_dies()
    dies_first()


# Steps that a test holds.


@op
def held(context: OpExecutionContext) -> str:
    """Run until the test says "go"; say when it began, and when it came to its end."""
    scratch = Scratch.of(context)
    scratch.note("held-began", context.op_handle.name)
    scratch.wait_for("go")
    scratch.note("held-ended", context.op_handle.name)
    return "held"


@op(retry_policy=RetryPolicy(max_retries=1))
def held_with_policy(context: OpExecutionContext) -> None:
    scratch = Scratch.of(context)
    scratch.note("policy-began")
    scratch.wait_for("go")
    scratch.note("policy-ended")


@op
def quick(context: OpExecutionContext) -> None:
    Scratch.of(context).note("quick", context.op_handle.name)


@job(executor_def=taskiq_executor)
def held_once() -> None:
    below(held())


@job(executor_def=taskiq_executor)
def one_protected() -> None:
    held_with_policy.alias("protected")()


@job(executor_def=taskiq_executor)
def two_held_and_more() -> None:
    # The two are sent first, and hold the two slots of a worker.
    held.tag({"dagster-taskiq/priority": "1"})()
    held_with_policy.alias("protected").tag({"dagster-taskiq/priority": "1"})()
    for number in range(6):
        quick.alias(f"quick_{number}")()


@job(executor_def=taskiq_executor)
def all_slots_held() -> None:
    for number in range(SLOTS):
        held.alias(f"held_{number}").tag({"dagster-taskiq/priority": "1"})()
    for number in range(20):
        quick.alias(f"quick_{number}")()


@job(executor_def=taskiq_executor)
def held_before_fifty() -> None:
    held.tag({"dagster-taskiq/priority": "1"})()
    for number in range(50):
        quick.alias(f"quick_{number}")()


@op
def deaf(context: OpExecutionContext) -> None:
    """Ignore what asks it to end; leave behind a process that does so too."""
    scratch = Scratch.of(context)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "300"])
    scratch.note("deaf", f"{os.getpid()} {child.pid}")
    time.sleep(300)


@job(executor_def=taskiq_executor)
def deaf_job() -> None:
    deaf()


@job(executor_def=taskiq_executor)
def held_with_and_without_policy_and_deaf() -> None:
    held()
    held_with_policy.alias("protected")()
    deaf()


@op
def cleans_up(context: OpExecutionContext) -> None:
    scratch = Scratch.of(context)
    scratch.note("working")
    try:
        time.sleep(300)
    finally:
        scratch.note("cleaned-up")


@job(executor_def=taskiq_executor)
def cleans_up_job() -> None:
    cleans_up()


# A run with a rich past.


@op(out={"yes": Out(int, is_required=False), "no": Out(int, is_required=False)})
def chooses(context: OpExecutionContext):  # type: ignore[no-untyped-def]
    Scratch.of(context).note("chooses")
    yield Output(1, "yes")


@op
def counts(context: OpExecutionContext, number: int) -> int:
    Scratch.of(context).note(f"counts-{context.get_mapping_key() or context.op_handle.name}")
    return number


@op(out=DynamicOut(int))
def spreads(context: OpExecutionContext, number: int):  # type: ignore[no-untyped-def]
    Scratch.of(context).note("spreads")
    for each in range(3):
        yield DynamicOutput(each, mapping_key=f"m{each}")


@op
def second_try(context: OpExecutionContext) -> int:
    scratch = Scratch.of(context)
    scratch.note("second_try")
    if scratch.count("second_try") < 2:
        raise RetryRequested(max_retries=1, seconds_to_wait=0.1)
    return 1


@op
def waits_long_for_its_retry(context: OpExecutionContext) -> int:
    scratch = Scratch.of(context)
    scratch.note("long_wait")
    if scratch.count("long_wait") < 2:
        raise RetryRequested(max_retries=1, seconds_to_wait=5)
    return 1


@op
def held_number(context: OpExecutionContext, number: int) -> int:
    """One of the fan-out is held; the others go through."""
    scratch = Scratch.of(context)
    scratch.note(f"fan-{number}")
    if number == 1:
        scratch.wait_for("go-fan")
    scratch.note(f"fan-end-{number}")
    return number


@op(pool="gate")
def in_pool(context: OpExecutionContext) -> None:
    scratch = Scratch.of(context)
    scratch.note("pool-began", context.op_handle.name)
    scratch.wait_for("go-pool")
    scratch.note("pool-ended", context.op_handle.name)


@job(executor_def=taskiq_executor)
def rich_past() -> None:
    yes, no = chooses()
    counts.alias("never")(no)
    total(spreads(counts.alias("once")(yes)).map(held_number).collect())
    counts.alias("after_retry")(second_try())
    counts.alias("after_long")(waits_long_for_its_retry())
    in_pool.alias("pool_a")()
    in_pool.alias("pool_b")()


@job(executor_def=taskiq_executor)
def one_in_pool() -> None:
    in_pool()


@op
def marks_its_run_as_canceled(context: OpExecutionContext) -> None:
    context.instance.report_run_canceled(context.run)


@job(executor_def=taskiq_executor)
def canceled_from_within() -> None:
    below(marks_its_run_as_canceled())
