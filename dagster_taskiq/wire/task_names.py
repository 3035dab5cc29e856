"""What the tasks of this package are called on the wire, for those who send and those who do them.

They stand apart because a sender, and the parent process of a worker, import nothing of what the
tasks themselves need.
"""

#: Executes one step of a run.
EXECUTE_PLAN = "execute_plan"
#: Executes a run.
EXECUTE_JOB = "execute_job"
#: Goes on with a run whose process has died.
RESUME_JOB = "resume_job"
#: Ends a run whose process has died; a worker asks its own children for it.
FINALIZE_RUN = "finalize_run"
#: Says whether the event log of a task's run has it that the task has begun; as the one before.
HAS_BEGUN = "has_begun"
#: Frees what a step holds that was stopped or died; as those before.
FREE_STEP = "free_step"

#: The argument in which a run's task has Dagster's own arguments, packed.
PACKED_RUN = {EXECUTE_JOB: "execute_job_args_packed", RESUME_JOB: "resume_job_args_packed"}
#: The same for every task whose beginning is in the event log of its run.
PACKED_ARGS = {EXECUTE_PLAN: "execute_step_args_packed", **PACKED_RUN}


def is_custom_step(name: str, step_key: str) -> bool:
    """Return whether a step is executed by a task that is not ours, but a library's or project's.

    Args:
        name: the name of the task.
        step_key: the step that it was sent for; empty where it belongs to none.
    """
    return bool(step_key) and name != EXECUTE_PLAN
