"""Jobs whose ops print in every way there is."""

import os
import subprocess
import sys

from dagster import job, op

from dagster_taskiq import taskiq_executor

#: More than one read of the mirror, and more than a pipe holds.
MANY_LINES = 20_000


@op
def prints() -> None:
    print("plain stdout")
    print("plain stderr", file=sys.stderr)
    os.write(1, b"by the descriptor\n")
    subprocess.run(["sh", "-c", "echo from a shell; echo its complaint >&2"], check=True)
    for number in range(MANY_LINES):
        print(f"line {number} of many")


@op
def dies_talking() -> None:
    print("last words", flush=True)
    os.write(2, b"and a last complaint\n")
    os._exit(9)


@job(executor_def=taskiq_executor)
def printing() -> None:
    prints()


@job(executor_def=taskiq_executor)
def dying() -> None:
    dies_talking()
