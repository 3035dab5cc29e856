"""The tasks of this package, by the names that they have on the wire.

Their arguments are the ones that Dagster itself uses to hand a step or a run to another process,
packed as JSON; nothing from the wire is ever unpickled.
"""

from collections.abc import Callable, Mapping
from typing import Any

from taskiq import AsyncBroker

from dagster_taskiq.execution import internal_tasks, run_handover, run_tasks, step_task
from dagster_taskiq.execution.own_tasks import end_observer
from dagster_taskiq.wire.task_names import (
    EXECUTE_JOB,
    EXECUTE_PLAN,
    FINALIZE_RUN,
    FREE_STEP,
    HAND_OVER_RUN,
    HAS_BEGUN,
    OBSERVE_END,
    RESUME_JOB,
)

_TASKS: Mapping[str, Callable[..., Any]] = {
    EXECUTE_PLAN: step_task.execute_plan,
    EXECUTE_JOB: run_tasks.execute_job,
    RESUME_JOB: run_tasks.resume_job,
    FINALIZE_RUN: internal_tasks.finalize_run,
    HAS_BEGUN: internal_tasks.has_begun,
    FREE_STEP: internal_tasks.free_step_of_ended_run,
    HAND_OVER_RUN: run_handover.hand_over_run,
}


def register_tasks(broker: AsyncBroker) -> None:
    """Register every task of this package with ``broker``; a project's own of such a name stays."""
    observer = end_observer(broker)
    for name, function in {**_TASKS, OBSERVE_END: observer}.items():
        if broker.find_task(name) is None:
            broker.register_task(function, task_name=name)
