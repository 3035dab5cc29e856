"""What a worker does: each start and end of a task is told here, and is counted and logged."""

import time
from collections.abc import Callable

from taskiq import TaskiqMessage

from dagster_taskiq.errors import (
    ChildDiedError,
    DagsterTaskiqError,
    TaskHandedOverError,
    TaskRevokedError,
)
from dagster_taskiq.tracing import spans
from dagster_taskiq.transport.results import PutBack, ReportedEnd, result_from_json, text_of
from dagster_taskiq.wire.labels import (
    JOB_LABEL,
    QUEUE_LABEL,
    RUN_LABEL,
    STEP_LABEL,
    attempt_of,
    due_at,
)
from dagster_taskiq.wire.queues import queue_of_run_queue
from dagster_taskiq.wire.records import TaskState
from dagster_taskiq.wire.task_counts import EndedTask, Outcome
from dagster_taskiq.worker.running_task import Recorded, TaskEnd
from dagster_taskiq.worker.task_counts import WorkerCounts, count_end
from dagster_taskiq.worker.task_log import log_end, log_start

#: How many characters of a name, and of the reason of an end, are kept.
LONGEST_NAME = 200
LONGEST_REASON = 300

_OF_STATES = {
    TaskState.SUCCESS: Outcome.SUCCEEDED,
    TaskState.REVOKED: Outcome.REVOKED,
    TaskState.LOST: Outcome.LOST,
}
#: The outcomes by which a span counts as failed.
_FAILURES = (Outcome.FAILED, Outcome.LOST, Outcome.REVOKED, Outcome.RETRIED)


class Execution:
    """One execution of a task, from its start to its end."""

    def __init__(self, message: TaskiqMessage, activity: "Activity") -> None:
        """Count and log that it starts."""
        #: Whether its process has reported its end, and has called the hooks of middlewares.
        self.has_reported = False
        self._activity = activity
        self._message = message
        labels = message.labels
        self._id = _short(message.task_id)
        self._name = _short(message.task_name)
        self._queue = _short(queue_of_run_queue(str(labels.get(QUEUE_LABEL, ""))))
        self._job = _short(labels.get(JOB_LABEL, ""))
        self._run_id = _short(labels.get(RUN_LABEL, ""))
        self._step_key = _short(labels.get(STEP_LABEL, ""))
        self._attempt = attempt_of(labels)
        self._started_at = time.time()
        self._began = time.monotonic()
        #: How it has ended in Dagster, and why, as its process has reported that.
        self._noted = (Outcome.SUCCEEDED, "")
        self._row = activity.counts.of(self._queue, self._name, self._job)
        self._row.started += 1
        due = due_at(labels)
        if due is not None:
            self._row.wait.add(self._started_at - due)
        self._span = spans.begin_processing(message, activity.broker, activity.worker, due)
        log_start(message)
        activity.on_change()

    def note_outcome(self, outcome: Outcome, why: str) -> None:
        """Note how it has ended in Dagster: that counts if nothing has gone wrong here."""
        self._noted = (outcome, why)

    def note_report(self) -> None:
        """Note that its process has reported its end."""
        self.has_reported = True

    def has_raised(self, error: BaseException) -> None:
        """Count and log its end: nothing was reported, but this error has ended it."""
        self._has_ended(outcome_of_error(error), _text_of(error))

    def has_ended(self, end: TaskEnd) -> None:
        """Count and log its end, as its process has reported it."""
        if isinstance(end, PutBack):
            self._has_ended(Outcome.RETRIED, "")
        elif isinstance(end, ReportedEnd):
            error = None if end.state is TaskState.SUCCESS else result_from_json(end.result).error
            why = "" if error is None else _text_of(error)
            self._has_ended(_OF_STATES.get(end.state, Outcome.FAILED), why)
        else:
            error = end.result.error if isinstance(end, Recorded) else end.error
            if error is not None:
                self.has_raised(error)
            else:
                self._has_ended(*self._noted)

    def _has_ended(self, outcome: Outcome, why: str) -> None:
        seconds = time.monotonic() - self._began
        count_end(self._row, outcome, seconds)
        self._span.note("dagster_taskiq.outcome", outcome.value)
        if outcome in _FAILURES:
            self._span.note_failure(outcome.value, why)
        self._span.end()
        log_end(self._message, outcome, seconds, why)
        lines = why.strip().splitlines()
        task = EndedTask(
            id=self._id,
            name=self._name,
            queue=self._queue,
            outcome=outcome,
            started_at=round(self._started_at, 3),
            ended_at=round(self._started_at + seconds, 3),
            job=self._job,
            run_id=self._run_id,
            step_key=self._step_key,
            attempt=self._attempt,
            error=_short(lines[0], LONGEST_REASON) if lines else "",
        )
        self._activity.counts.note_ended(task)
        self._activity.on_change()


class Activity:
    """Is told of all that one worker runs."""

    def __init__(
        self,
        counts: WorkerCounts,
        on_change: Callable[[], None],
        *,
        worker: str = "",
        broker: str = "",
    ) -> None:
        """Have nothing yet.

        Args:
            counts: of the worker.
            on_change: called after each start and end.
            worker: its name, for traces.
            broker: the URL of its broker, for traces.
        """
        self.counts = counts
        self.on_change = on_change
        self.worker = worker
        self.broker = broker

    def started(self, message: TaskiqMessage) -> Execution:
        """Count the start of a task, and return what is to be told of its end."""
        return Execution(message, self)


def outcome_of_error(error: BaseException) -> Outcome:
    """Return how a task has ended that has this error."""
    if isinstance(error, TaskHandedOverError):
        return Outcome.HANDED_OVER
    if isinstance(error, TaskRevokedError):
        return Outcome.REVOKED
    if isinstance(error, ChildDiedError):
        return Outcome.LOST
    return Outcome.FAILED


def _short(text: object, longest: int = LONGEST_NAME) -> str:
    """Return the beginning of a text that a message holds, as text that can be written anywhere."""
    shown = str(text)[:longest]
    return shown if shown.isascii() else shown.encode(errors="backslashreplace").decode()


def _text_of(error: BaseException) -> str:
    if isinstance(error, DagsterTaskiqError):
        return str(error)
    # The class of a user's error may raise another one when it is asked for its text.
    return f"{type(error).__name__}: {text_of(error) or ''}".rstrip(": ")
