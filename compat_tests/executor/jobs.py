"""Jobs as users write them, each of whose ops notes what it did."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetExecutionContext,
    AssetKey,
    AssetOut,
    AssetSelection,
    Backoff,
    Config,
    Definitions,
    DynamicOut,
    DynamicOutput,
    Failure,
    HookContext,
    InitResourceContext,
    JobDefinition,
    MaterializeResult,
    OpExecutionContext,
    Out,
    Output,
    RetryPolicy,
    RetryRequested,
    StaticPartitionsDefinition,
    asset,
    asset_check,
    define_asset_job,
    failure_hook,
    graph,
    graph_asset,
    in_process_executor,
    job,
    multi_asset,
    op,
    resource,
    success_hook,
)

from compat_tests.executor.conftest import SIDE_QUEUE
from compat_tests.executor.scratch import Scratch
from compat_tests.waiting import eventually
from dagster_taskiq import taskiq_executor

# Values.


@op
def two(context: OpExecutionContext) -> int:
    Scratch.of(context).note("two")
    return 2


@op
def double(context: OpExecutionContext, number: int) -> int:
    Scratch.of(context).note(f"double:{context.op_handle}")
    return 2 * number


@op
def add(context: OpExecutionContext, a: int, b: int) -> int:
    Scratch.of(context).note(f"add:{context.op_handle}")
    return a + b


@graph
def twice(number: int) -> int:
    return double(double(number))


@graph
def nested(number: int) -> int:
    return add(twice(number), double.alias("once")(number))


@job(executor_def=taskiq_executor)
def values() -> None:
    number = two()
    add.alias("total")(nested(number), twice.alias("chain")(number))


@job(executor_def=in_process_executor)
def values_in_process() -> None:
    values.graph()


# Assets.

letters = StaticPartitionsDefinition(["a", "b"])


@asset
def raw(context: AssetExecutionContext) -> int:
    Scratch.of(context).note("raw")
    return 3


@multi_asset(outs={"low": AssetOut(), "high": AssetOut()})
def both(raw: int) -> tuple[int, int]:
    return raw - 1, raw + 1


@op
def squared(number: int) -> int:
    return number * number


@graph_asset
def shaped(high: Any) -> Any:
    return squared(double(high))


@asset(partitions_def=letters)
def letter(context: AssetExecutionContext) -> MaterializeResult[Any]:
    Scratch.of(context).note(f"letter:{context.partition_key}")
    return MaterializeResult(metadata={"letter": context.partition_key})


@asset_check(asset=raw)
def raw_is_odd(raw: int) -> AssetCheckResult:
    return AssetCheckResult(passed=raw % 2 == 1, metadata={"value": raw})


@asset(op_tags={"dagster-taskiq/queue": SIDE_QUEUE})
def suspect() -> int:
    return -1


@asset_check(asset=suspect, blocking=True)
def suspect_is_positive(suspect: int) -> AssetCheckResult:
    return AssetCheckResult(passed=suspect > 0, severity=AssetCheckSeverity.ERROR)


@asset
def upon_suspect(context: AssetExecutionContext, suspect: int) -> int:
    Scratch.of(context).note("upon_suspect")
    return suspect


defs = Definitions(
    assets=[raw, both, shaped, letter, suspect, upon_suspect],
    asset_checks=[raw_is_odd, suspect_is_positive],
    jobs=[
        define_asset_job("assets", AssetSelection.assets(raw, both, shaped)),
        define_asset_job("letters", AssetSelection.assets(letter)),
        define_asset_job("suspects", AssetSelection.assets(suspect, upon_suspect)),
    ],
    executor=taskiq_executor,
)
RAW, LOW, HIGH, SHAPED = (AssetKey(name) for name in ("raw", "low", "high", "shaped"))


def assets_job() -> JobDefinition:
    return defs.resolve_job_def("assets")


def letters_job() -> JobDefinition:
    return defs.resolve_job_def("letters")


def suspects_job() -> JobDefinition:
    return defs.resolve_job_def("suspects")


# Dynamic outputs.


class Fan(Config):
    size: int = 3


@op(out=DynamicOut(int))
def fan(context: OpExecutionContext, config: Fan) -> Iterator[DynamicOutput[int]]:
    for number in range(config.size):
        yield DynamicOutput(number, mapping_key=f"n{number}")


@op
def total(context: OpExecutionContext, numbers: list[int]) -> int:
    Scratch.of(context).note("total", str(numbers))
    return sum(numbers)


@job(executor_def=taskiq_executor)
def dynamic() -> None:
    total(fan().map(double).map(double.alias("again")).collect())


@op(out={"left": DynamicOut(int), "right": DynamicOut(int, is_required=False)})
def two_fans() -> Iterator[DynamicOutput[int]]:
    for number in range(3):
        yield DynamicOutput(number, output_name="left", mapping_key=f"n{number}")


@op(retry_policy=RetryPolicy(max_retries=1))
def breaks_once(context: OpExecutionContext, number: int) -> int:
    if context.retry_number == 0:
        raise ValueError("this once")
    return number + 1


@op(out=DynamicOut(int))
def fan_of(number: int) -> Iterator[DynamicOutput[int]]:
    for each in range(number):
        yield DynamicOutput(each, mapping_key=f"again{each}")


@graph
def chained(number: int) -> int:
    return breaks_once(double(number))


@job(executor_def=taskiq_executor)
def dynamic_again() -> None:
    """A fan-out of what another has collected, and one that does not come."""
    left, right = two_fans()
    total.alias("none")(right.map(double.alias("dropped")).collect())
    first = total.alias("first")(left.map(chained).collect())
    also = left.map(double.alias("also"))
    add.alias("after")(first, total.alias("as_they_came")(also.collect()))
    total.alias("last")(fan_of(first).map(double.alias("third")).collect())


# Optional outputs.


@op(out={"left": Out(int, is_required=False), "right": Out(int, is_required=False)})
def fork(context: OpExecutionContext) -> Iterator[Output[int]]:
    yield Output(5, "left")


@job(executor_def=taskiq_executor)
def skips() -> None:
    left, right = fork()
    taken = double.alias("taken")(left)
    dropped = double.alias("dropped")(right)
    after_dropped = double.alias("after_dropped")(dropped)
    total.alias("some")([taken, dropped])
    total.alias("none")([dropped, after_dropped])


# Retries.


@op(retry_policy=RetryPolicy(max_retries=2, delay=0.05, backoff=Backoff.EXPONENTIAL))
def third_time_lucky(context: OpExecutionContext) -> int:
    scratch = Scratch.of(context)
    scratch.note("lucky", str(context.retry_number))
    if scratch.count("lucky") < 3:
        raise ValueError("not yet")
    return 3


@op
def asks_again(context: OpExecutionContext) -> int:
    scratch = Scratch.of(context)
    scratch.note("asks")
    if scratch.count("asks") < 2:
        raise RetryRequested(max_retries=1, seconds_to_wait=0.05)
    return 4


@op
def never_content(context: OpExecutionContext) -> None:
    Scratch.of(context).note("never")
    raise RetryRequested(max_retries=2)


@job(executor_def=taskiq_executor)
def retries() -> None:
    add(third_time_lucky(), asks_again())
    never_content()


# Hooks.


@success_hook
def on_success(context: HookContext) -> None:
    note_hook(context, "success")


@failure_hook
def on_failure(context: HookContext) -> None:
    note_hook(context, f"failure {type(context.op_exception).__name__}")


def note_hook(context: HookContext, what: str) -> None:
    run = context.instance.get_run_by_id(context.run_id)
    assert run is not None
    # A hook that takes its time: the run must not have ended before it.
    subprocess.run(["sleep", "0.2"], check=True)
    Scratch.of(_HasRun(run)).note("hooks", f"{context.step_key} {what}")


class _HasRun:
    def __init__(self, run: Any) -> None:
        self.run = run


@op
def breaks(context: OpExecutionContext) -> int:
    scratch = Scratch.of(context)
    scratch.note("breaks")
    if scratch.count("mended"):
        return 7
    raise ZeroDivisionError("the user's own words")


@job(executor_def=taskiq_executor, hooks={on_success, on_failure})
def hooked() -> None:
    two()
    breaks()


@job(executor_def=taskiq_executor)
def hooked_op() -> None:
    double(two.with_hooks({on_success})())


# A failure in the middle.


@job(executor_def=taskiq_executor)
def breaks_in_the_middle() -> None:
    broken = add.alias("after")(double(two()), breaks())
    double.alias("last")(broken)
    double.alias("aside")(two.alias("other_two")())


# Resources.


@resource
def moody(context: InitResourceContext) -> str:
    assert context.run is not None
    scratch = Scratch.of(context)
    scratch.note("resource")
    if scratch.count("resource") < 2:
        raise ConnectionError("the database is not up")
    return "in a good mood"


@op(required_resource_keys={"moody"}, retry_policy=RetryPolicy(max_retries=1))
def patient(context: OpExecutionContext) -> str:
    Scratch.of(context).note("patient")
    return str(context.resources.moody)


@op(required_resource_keys={"moody"})
def impatient(context: OpExecutionContext) -> None:
    Scratch.of(context).note("impatient")


@job(executor_def=taskiq_executor, resource_defs={"moody": moody})
def patient_job() -> None:
    patient()


@job(executor_def=taskiq_executor, resource_defs={"moody": moody})
def impatient_job() -> None:
    double(impatient())


@resource(config_schema={"factor": int})
def factor(context: InitResourceContext) -> int:
    return int(context.resource_config["factor"])


@op(required_resource_keys={"factor"}, config_schema={"number": int})
def multiplied(context: OpExecutionContext) -> int:
    return int(context.op_config["number"]) * context.resources.factor


@job(executor_def=taskiq_executor, resource_defs={"factor": factor})
def configured() -> None:
    double(multiplied())


# Concurrency, counted by what the ops see of each other.


def be_inside(context: OpExecutionContext, room: str, wait_for: int) -> None:
    """Note how many are in a room, and stay until ``wait_for`` have ever been there together."""
    scratch = Scratch.of(context)
    place = scratch.directory / f"in-{room}"
    place.mkdir(exist_ok=True)
    mine = place / str(context.op_handle)
    mine.touch()
    try:
        here = len(list(place.iterdir()))
        scratch.note(f"seen-{room}", str(here))
        if here >= wait_for:
            scratch.note(f"together-{room}")
        eventually(lambda: scratch.count(f"together-{room}"), f"{wait_for} in {room}")
    finally:
        mine.unlink()


@op(tags={"room": "narrow"})
def two_at_once(context: OpExecutionContext) -> None:
    be_inside(context, "any", wait_for=2)


@op(tags={"room": "single"})
def one_at_once(context: OpExecutionContext) -> None:
    be_inside(context, "single", wait_for=1)


@job(executor_def=taskiq_executor)
def at_most_two() -> None:
    for number in range(5):
        two_at_once.alias(f"step_{number}")()


@job(executor_def=taskiq_executor)
def limited_by_tag() -> None:
    for number in range(4):
        one_at_once.alias(f"single_{number}")()
    for number in range(2):
        two_at_once.alias(f"free_{number}")()


@op(pool="bath")
def bathes(context: OpExecutionContext) -> None:
    be_inside(context, "bath", wait_for=1)


@job(executor_def=taskiq_executor)
def pooled() -> None:
    for number in range(3):
        bathes.alias(f"bather_{number}")()
    two()


# Outputs before the end.


@op(out={"early": Out(int), "late": Out(int)})
def gives_early(context: OpExecutionContext) -> Iterator[Output[int]]:
    yield Output(1, "early")
    # This step ends only when the one below it has run.
    Scratch.of(context).wait_for("double:double")
    yield Output(2, "late")


@job(executor_def=taskiq_executor)
def overlapping() -> None:
    early, late = gives_early()
    double(early)
    double.alias("at_the_end")(late)


# Logs.


@op
def talks(context: OpExecutionContext) -> None:
    print("printed by python")
    print("complained by python", file=sys.stderr)
    subprocess.run(["sh", "-c", "echo printed by sh; echo complained by sh >&2"], check=True)
    context.log.info("said to dagster")


@job(executor_def=taskiq_executor)
def talkative() -> None:
    talks()
    talks.alias("talks_too")()


# Queues and priorities.

OTHER_QUEUE = "elsewhere"


@op
def anywhere(context: OpExecutionContext) -> None:
    Scratch.of(context).note("order", context.op_handle.name)


@job(executor_def=taskiq_executor)
def routed() -> None:
    anywhere.alias("by_default")()
    anywhere.alias("by_tag").tag({"dagster-taskiq/queue": OTHER_QUEUE})()
    anywhere.alias("by_older_tag").tag({"dagster-celery/queue": OTHER_QUEUE})()
    both_tags = {"dagster-celery/queue": "nobody", "dagster-taskiq/queue": OTHER_QUEUE}
    anywhere.alias("by_newer_of_both").tag(both_tags)()


@job(executor_def=taskiq_executor)
def prioritised() -> None:
    anywhere.alias("below").tag({"dagster-taskiq/priority": "-5"})()
    anywhere.alias("plain_1")()
    anywhere.alias("plain_2")()
    anywhere.alias("of_dagster").tag({"dagster/priority": "3"})()
    anywhere.alias("of_dagster_below").tag({"dagster/priority": "-3"})()
    anywhere.alias("older").tag({"dagster-celery/priority": "7"})()
    newer = {"dagster-celery/priority": "1", "dagster-taskiq/priority": "9"}
    anywhere.alias("newer_of_both").tag(newer)()
    anywhere.alias("above_ten").tag({"dagster-taskiq/priority": "20"})()


@job(executor_def=taskiq_executor)
def urgent() -> None:
    anywhere.alias("urgent").tag({"dagster-taskiq/priority": "-1"})()


@op
def gives_up(context: OpExecutionContext) -> None:
    raise Failure("no use in trying", metadata={"cause": "principle"}, allow_retries=False)


@job(executor_def=taskiq_executor)
def gives_up_job() -> None:
    gives_up()


@op
def breaks_at_one(context: OpExecutionContext, number: int) -> int:
    if number == 1 and not Scratch.of(context).count("mended"):
        raise ValueError("one is not a number")
    return number


@job(executor_def=taskiq_executor)
def dynamic_with_a_break() -> None:
    total(fan().map(breaks_at_one).collect())


#: How many lines a step logs of which each is read before it logs the next.
TALKING_LINES = 3


@op
def talking(context: OpExecutionContext) -> None:
    scratch = Scratch.of(context)
    for number in range(TALKING_LINES):
        context.log.info(f"line {number}")
        scratch.wait_for(f"read: {number}")
    scratch.wait_for("read: all")


@job(executor_def=taskiq_executor)
def talking_job() -> None:
    talking()
