"""How steps and runs end in Dagster, as outcomes of their tasks: their functions only return."""

from dagster import DagsterEventType, DagsterRunStatus
from dagster._core.events import DagsterEvent
from dagster_shared.error import SerializableErrorInfo

from dagster_taskiq.execution.task_context import current_context
from dagster_taskiq.tracing import spans
from dagster_taskiq.wire.task_counts import Outcome

#: Events after which nothing more is decided about a step.
STEP_ENDS = {
    DagsterEventType.STEP_SUCCESS: Outcome.SUCCEEDED,
    DagsterEventType.STEP_FAILURE: Outcome.FAILED,
    DagsterEventType.STEP_UP_FOR_RETRY: Outcome.RETRIED,
    DagsterEventType.STEP_SKIPPED: Outcome.SUCCEEDED,
    DagsterEventType.RESOURCE_INIT_FAILURE: Outcome.FAILED,
}
#: The final ones of the status of a run.
RUN_ENDS = {
    DagsterRunStatus.SUCCESS: Outcome.SUCCEEDED,
    DagsterRunStatus.FAILURE: Outcome.FAILED,
    DagsterRunStatus.CANCELED: Outcome.REVOKED,
}


def note_step_event(event: DagsterEvent) -> None:
    """Report how the step that is executed now has ended, if an event of it is its end."""
    outcome = STEP_ENDS.get(event.event_type)
    if outcome is not None:
        error = getattr(event.event_specific_data, "error", None)  # a success has none
        _note(outcome, "" if error is None else cause_of(error))


def note_run_end(status: DagsterRunStatus, why: str) -> None:
    """Report how the run that is executed now has ended.

    Args:
        status: of the run.
        why: why it has not succeeded, if anything is known.
    """
    _note(RUN_ENDS.get(status, Outcome.FAILED), why)


def _note(outcome: Outcome, why: str) -> None:
    current_context().note_outcome(outcome, why)
    if outcome is not Outcome.SUCCEEDED:
        spans.note_failure(outcome.value, why)


def cause_of(error: SerializableErrorInfo) -> str:
    """Return the error from which another one comes, in one line, without traceback."""
    while error.cause is not None:
        error = error.cause
    lines = error.message.strip().splitlines()
    return lines[0] if lines else str(error.cls_name)
