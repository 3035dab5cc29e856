"""Jobs with something wrong about them, and jobs that are merely large."""

import sys
import threading
from typing import Any

from dagster import (
    AssetMaterialization,
    OpExecutionContext,
    Output,
    job,
    mem_io_manager,
    op,
)

from compat_tests.executor.jobs import double, two
from compat_tests.executor.scratch import Scratch
from dagster_taskiq import taskiq_executor

#: Size of what is large here, in characters.
LARGE = 10_000_000


@job(executor_def=taskiq_executor, resource_defs={"io_manager": mem_io_manager})
def forgetful() -> None:
    double(two())


@job(executor_def=taskiq_executor)
def bad_priority() -> None:
    two()
    two.alias("hasty").tag({"dagster-taskiq/priority": "very high"})()


@op
def gives_a_lock(context: OpExecutionContext) -> Any:
    return threading.Lock()


@op
def gives_odd_metadata(context: OpExecutionContext) -> Any:
    yield Output(1, metadata={"odd": threading.Lock()})


@op
def leaves(context: OpExecutionContext) -> None:
    sys.exit(4)


@op
def complains_at_length(context: OpExecutionContext) -> None:
    raise ValueError("x" * LARGE)


@job(executor_def=taskiq_executor)
def cannot_be_stored() -> None:
    gives_a_lock()
    gives_odd_metadata()
    leaves()
    two()


@op(config_schema={"text": str})
def gives_much(context: OpExecutionContext) -> str:
    text = str(context.op_config["text"])
    context.log_event(AssetMaterialization("large", metadata={"text": text}))
    context.log.info(text)
    return text


@op
def measures(context: OpExecutionContext, text: str) -> None:
    Scratch.of(context).note("measured", str(len(text)))


@job(executor_def=taskiq_executor)
def large() -> None:
    measures(gives_much())
    complains_at_length()
