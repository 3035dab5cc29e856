"""Jobs on ``dagster_celery``, the original or ours, that are executed eagerly, with no server."""

from collections.abc import Iterator
from typing import Any

from dagster import (
    Executor,
    OpExecutionContext,
    RetryPolicy,
    executor,
    job,
    multiple_process_executor_requirements,
    op,
)
from dagster._core.execution.retries import RetryMode

from dagster_celery import celery_executor
from dagster_celery.core_execution_loop import core_celery_execution_loop

#: The original sends eager tasks nowhere; a broker is named so that none is looked for.
EAGER: dict[str, Any] = {
    "broker": "memory://",
    "backend": "rpc://",
    "config_source": {"task_always_eager": True},
}


@op(retry_policy=RetryPolicy(max_retries=1))
def second_time(context: OpExecutionContext) -> None:
    if context.retry_number == 0:
        raise ValueError("not yet")


@op
def never() -> None:
    raise ValueError("never")


@op
def at_once() -> int:
    return 1


@op(tags={"dagster-celery/priority": "high"})
def with_words() -> int:
    return 1


class Unsending(Executor):
    """An executor whose steps cannot be sent."""

    retries = RetryMode.DISABLED

    def app_args(self) -> dict[str, Any]:
        return dict(EAGER)

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[Any]:
        def submit(*_: object) -> Any:
            raise OSError("no way to send it")

        return core_celery_execution_loop(plan_context, execution_plan, submit)


@executor(requirements=multiple_process_executor_requirements())
def unsending(_: object) -> Executor:
    return Unsending()


@job(executor_def=celery_executor)
def retried() -> None:
    second_time()


@job(executor_def=celery_executor)
def failing() -> None:
    never()


@job(executor_def=celery_executor, tags={"dagster-celery/run_priority": "high"})
def words_for_the_priority_of_a_run() -> None:
    at_once()


@job(executor_def=celery_executor)
def words_for_the_priority_of_a_step() -> None:
    with_words()


@job(executor_def=unsending)
def unsent() -> None:
    at_once()
