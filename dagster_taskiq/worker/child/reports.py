"""What a child reports of the end of a task."""

import resource
import sys
from typing import Any

from taskiq import TaskiqMessage, TaskiqResult

from dagster_taskiq.errors import CodeLoadError, DagsterTaskiqError, TaskFailedError
from dagster_taskiq.execution.perform import describe_failure
from dagster_taskiq.transport.backend import end_of
from dagster_taskiq.transport.results import PutBack, as_json
from dagster_taskiq.wire.task_counts import Outcome
from dagster_taskiq.wire.task_names import is_own_task
from dagster_taskiq.worker.child.parent import Parent
from dagster_taskiq.worker.memory import resident_bytes

#: Errors of a task after which its child is not used again: it was interrupted at an unknown
#: moment, or has modules that are half loaded, which would be used after the code was corrected.
ENDS_CHILD = (KeyboardInterrupt, SystemExit, CodeLoadError)


def report_end(
    parent: Parent,
    message: TaskiqMessage,
    ended: TaskiqResult[Any] | PutBack,
    *,
    is_typed: bool,
    left: list[str],
    outcome: tuple[Outcome, str] | None = None,
) -> bool:
    """Report how a task has ended.

    Args:
        parent: is told.
        message: the task.
        ended: how.
        is_typed: see :func:`as_text`.
        left: what the task has left behind that cannot be restored, in words.
        outcome: how a step or run has ended in Dagster, and why.

    Returns:
        Whether this child ends now.
    """
    is_last = bool(left)
    if isinstance(ended, PutBack):
        parent.report_put_back(ended.message, _resident_bytes(), is_last, left)
    else:
        is_last = is_last or isinstance(ended.error, ENDS_CHILD)
        is_own = is_own_task(message.task_name, message.labels)
        if is_own:
            # The parent records the result as it is, with the labels by which it knows the task.
            ended.labels = {**ended.labels, **message.labels}
        result, text = _as_json(ended, is_typed)
        end = end_of(result) if is_own else None
        parent.report_done(text, _resident_bytes(), is_last, left, end, outcome)
    return is_last


def as_text(result: TaskiqResult[Any], is_typed: bool) -> str:
    """Return a result as JSON.

    Args:
        result: the result; a task's own error in it is replaced by its description, unless typed.
        is_typed: whether such an error keeps its type. The loop of a run shows the text of an
            error, and does not catch it by its type.
    """
    return _as_json(result, is_typed)[1]


def _as_json(result: TaskiqResult[Any], is_typed: bool) -> tuple[TaskiqResult[Any], str]:
    """Return a result with its JSON; a failure in its place, if JSON cannot hold its value."""
    error = result.error
    if error is not None and not isinstance(error, DagsterTaskiqError) and not is_typed:
        result.error = TaskFailedError(describe_failure(error))
    result, text = as_json(result)
    return result, text.decode()


def _resident_bytes() -> int:
    """Return the memory this process holds now; its peak if the system has nothing else."""
    held = resident_bytes("self")
    if held:
        return held
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
