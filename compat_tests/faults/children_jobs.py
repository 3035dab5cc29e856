"""Jobs whose steps' processes die in every way there is, beside steps that must not notice."""

import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

from dagster import OpExecutionContext, RetryPolicy, job, op

from compat_tests.executor.scratch import Scratch
from compat_tests.waiting import PATIENCE_SECONDS
from dagster_taskiq import taskiq_executor

FIRST = {"dagster-taskiq/priority": "1"}
#: How much more memory a process may have, and how much it then asks for, in bytes.
LEFT, WANTED = 64 << 20, 1 << 30


def exit_at_once() -> None:
    os._exit(7)


def run_out_of_memory() -> None:
    """Ask for more memory than the system gives this process."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + LEFT, before[1]))
    try:
        bytearray(WANTED)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def by_signal(number: int) -> Callable[[], None]:
    def die() -> None:
        os.kill(os.getpid(), number)
        time.sleep(PATIENCE_SECONDS)

    return die


#: How a step's process ends, by the step's name. Native code that gets no memory aborts.
DEATHS: dict[str, Callable[[], None]] = {
    "exits": exit_at_once,
    "is_killed": by_signal(signal.SIGKILL),
    "crashes": by_signal(signal.SIGSEGV),
    "aborts": by_signal(signal.SIGABRT),
    "runs_out_of_memory": run_out_of_memory,
}
#: What follows the name of a step that has a policy, and dies the first time only.
ONCE = "_once"


def dies_as_named(context: OpExecutionContext) -> None:
    scratch, name = Scratch.of(context), context.op_handle.name
    scratch.note(name, repr(time.time()))
    if scratch.count(name) == 1 or not name.endswith(ONCE):
        DEATHS[name.removesuffix(ONCE)]()
    scratch.note(f"{name}-ended")


dies = op(name="dies")(dies_as_named)
dies_with_policy = op(name="dies_with_policy", retry_policy=RetryPolicy(max_retries=1))(
    dies_as_named
)


@op
def waits_to_be_killed(context: OpExecutionContext) -> None:
    scratch = Scratch.of(context)
    scratch.note("victim", str(os.getpid()))
    scratch.wait_for("never")


@op
def goes_on_beside(context: OpExecutionContext) -> None:
    scratch, name = Scratch.of(context), context.op_handle.name
    scratch.note(f"{name}-began", str(os.getpid()))
    scratch.wait_for("go")
    scratch.note(f"{name}-ended", str(os.getpid()))


@job(executor_def=taskiq_executor)
def deaths_beside_others() -> None:
    goes_on_beside.alias("beside_a").tag(FIRST)()
    goes_on_beside.alias("beside_b").tag(FIRST)()
    waits_to_be_killed()
    for name in DEATHS:
        dies.alias(name)()
        dies_with_policy.alias(f"{name}{ONCE}")()
