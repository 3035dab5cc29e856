"""The ids of the tasks that execute one step of a run."""


def step_task_id(run_id: str, step_key: str, attempt: int, incarnation: int = 0) -> str:
    """Return the id of a step's task: the same one however often it is sent.

    A resumed loop finds the task by it, and a message that is sent or delivered twice starts once.

    Args:
        run_id: the run.
        step_key: the step.
        attempt: how often the step was tried before.
        incarnation: how many tasks of this attempt have died with their workers.
    """
    again = f".{incarnation}" if incarnation else ""
    return f"{run_id}:{step_key}:{attempt}{again}"


def first_incarnation(task_id: str) -> str:
    """Return the id of the first task of the attempt at a step that a task belongs to."""
    before, colon, attempt = task_id.rpartition(":")
    return f"{before}{colon}{attempt.partition('.')[0]}"


def is_step_task_id(task_id: str) -> bool:
    """Return whether an id is of the form that the ids of the tasks of steps have."""
    return task_id.count(":") >= 2 and task_id.rpartition(":")[2].partition(".")[0].isdigit()
