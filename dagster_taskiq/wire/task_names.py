"""The names of this package's tasks, for the processes that send them and those that execute them.

They are in a module of their own because senders, and the parent process of a worker, must not
import what the tasks need.
"""

from collections.abc import Mapping
from typing import Any

from dagster_taskiq.wire.labels import RUN_LABEL

#: Executes one step of a run.
EXECUTE_PLAN = "execute_plan"
#: Executes a run.
EXECUTE_JOB = "execute_job"
#: Resumes a run whose process has died.
RESUME_JOB = "resume_job"
#: Ends a run whose process has died. Only a worker sends this, to its own children.
FINALIZE_RUN = "finalize_run"
#: Returns whether a task has begun, by the event log of its run. Sent as the one before.
HAS_BEGUN = "has_begun"
#: Frees what a step holds that was stopped, or whose process died. Sent as the two before.
FREE_STEP = "free_step"
#: Sends a run on, whose worker is to end, for another worker to go on with. Sent as those before.
HAND_OVER_RUN = "hand_over_run"

#: The argument of a run's task that holds Dagster's own arguments, packed.
PACKED_RUN = {EXECUTE_JOB: "execute_job_args_packed", RESUME_JOB: "resume_job_args_packed"}
#: The same for every task whose start is in the event log of its run.
PACKED_ARGS = {EXECUTE_PLAN: "execute_step_args_packed", **PACKED_RUN}

#: Tells the middlewares of the end of a task whose process died. Sent as those before.
OBSERVE_END = "observe_end"
#: Those that only a worker sends.
INTERNAL = frozenset({FINALIZE_RUN, HAS_BEGUN, FREE_STEP, HAND_OVER_RUN, OBSERVE_END})
#: All names of this package's tasks.
NAMES = frozenset({EXECUTE_PLAN, EXECUTE_JOB, RESUME_JOB}) | INTERNAL


def is_own_task(name: str, labels: Mapping[str, Any]) -> bool:
    """Return whether a task is a user's own, and not a step or run of Dagster.

    Args:
        name: the name of the task.
        labels: those of its message.
    """
    return name not in NAMES and not labels.get(RUN_LABEL)


def is_custom_step(name: str, step_key: str) -> bool:
    """Return whether a step is executed by the task of a library or project, not by ours.

    Args:
        name: the name of the task.
        step_key: the step for which it was sent; empty if it belongs to none.
    """
    return bool(step_key) and name != EXECUTE_PLAN
