"""The ids of the tasks that execute one run, one after the other.

The first has the id of the run. Each that resumes the run has a number more: a message that is sent
or delivered twice starts once, and two processes that resume a run at the same time send the same
task.
"""


def resumption_id(run_id: str, attempt: int) -> str:
    """Return the id of the task that resumes a run for the ``attempt``-th time."""
    return f"{run_id}.{attempt}"


def attempt_of(task_id: str) -> int:
    """Return which resumption of its run a task is; 0 for the first task."""
    number = task_id.rpartition(".")[2]
    return int(number) if "." in task_id and number.isdigit() else 0
