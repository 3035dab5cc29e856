"""A job whose step goes on until a file is there, for tests that stop what executes it."""

import os
import time
from pathlib import Path

from dagster import job, op

from dagster_taskiq import taskiq_executor

#: Names the directory of two files: ``started``, which the step writes; ``go``, which it waits for.
DIRECTORY_ENV = "WAITING_JOBS_DIRECTORY"


@op
def wait() -> None:
    directory = Path(os.environ[DIRECTORY_ENV])
    (directory / "started").touch()
    while not (directory / "go").exists():
        time.sleep(0.05)


@job(executor_def=taskiq_executor)
def waiting() -> None:
    wait()
