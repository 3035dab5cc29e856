"""What the benchmarks' jobs are made of; each executor's module puts the same plans into jobs.

The modules of this directory are imported by both virtual environments, each with its own
``dagster_celery``. They are found by ``PYTHONPATH``, so that the checkout itself, which has a
package of that name too, is on nobody's path.
"""

import time
from collections.abc import Iterator
from pathlib import Path

from dagster import DynamicOut, DynamicOutput, OpExecutionContext, op

#: How long one nap is, in seconds.
NAP_SECONDS = 0.5
#: How often an op that waits to be stopped says that it lives, in seconds.
BEAT_SECONDS = 0.01


@op
def first() -> int:
    return 0


@op
def add_one(number: int) -> int:
    return number + 1


@op
def alone() -> int:
    return 1


@op(out=DynamicOut(int), config_schema={"width": int})
def spread(context: OpExecutionContext) -> Iterator[DynamicOutput[int]]:
    for index in range(context.op_config["width"]):
        yield DynamicOutput(index, mapping_key=str(index))


@op
def count(numbers: list[int]) -> int:
    return len(numbers)


@op
def nap() -> None:
    time.sleep(NAP_SECONDS)


@op(config_schema={"seconds": float})
def rest(context: OpExecutionContext) -> None:
    time.sleep(context.op_config["seconds"])


@op(config_schema={"beats": str})
def beat(context: OpExecutionContext) -> None:
    """Go on until stopped; what time the file was last written is when this was last alive."""
    file = Path(context.op_config["beats"])
    while True:
        file.write_text("alive")
        time.sleep(BEAT_SECONDS)


def chain(length: int) -> None:
    """Compose steps that each wait for the one before."""
    number = first()
    for _ in range(length - 1):
        number = add_one(number)


def fan(width: int) -> None:
    """Compose steps that wait for nothing."""
    for index in range(width):
        alone.alias(f"alone_{index}")()


def dynamic() -> None:
    """Compose a step for each dynamic output of the first, and one that collects."""
    count(spread().map(add_one).collect())


def naps(number: int) -> None:
    """Compose steps that take their time and no CPU."""
    for index in range(number):
        nap.alias(f"nap_{index}")()
