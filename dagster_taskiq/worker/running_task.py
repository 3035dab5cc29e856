"""One task that runs in a child: what the child reports of it, how it is stopped, how it ends."""

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from taskiq import BrokerMessage, TaskiqMessage, TaskiqResult

from dagster_taskiq.errors import (
    TaskCutShortError,
    TaskHandedOverError,
    TaskRevokedError,
    TimeLimitError,
)
from dagster_taskiq.execution.typed_messages import plain_message
from dagster_taskiq.transport.results import PutBack, ReportedEnd, result_from_json
from dagster_taskiq.wire.labels import (
    JOB_LABEL,
    QUEUE_LABEL,
    RUN_LABEL,
    STEP_LABEL,
    WATCHES_LABEL,
    attempt_of,
    last_of_pipeline,
)
from dagster_taskiq.wire.records import Running, TaskState
from dagster_taskiq.wire.stop_causes import StopCause
from dagster_taskiq.wire.task_counts import Outcome
from dagster_taskiq.wire.task_names import PACKED_RUN
from dagster_taskiq.worker.fork_server.client import Exit
from dagster_taskiq.worker.limits import may_run_another
from dagster_taskiq.worker.options import PoolOptions

logger = logging.getLogger(__name__)

#: How much longer than any other task a run may take to stop while it waits for its steps, which
#: stop first, in seconds.
ORCHESTRATOR_GRACE_SECONDS = 30.0


@dataclass(frozen=True)
class Recorded:
    """A task has ended, and its end is on record."""

    result: TaskiqResult[Any]


#: How a task has ended.
TaskEnd = TaskiqResult[Any] | ReportedEnd | PutBack | Recorded


class TaskChild(Protocol):
    """The part of a child that its task needs; see
    :class:`~dagster_taskiq.worker.child_process.ChildProcess`."""

    #: Whether the task was stopped.
    is_stopped: bool

    @property
    def pid(self) -> int:
        """Its process id."""

    @property
    def tasks_done(self) -> int:
        """How many tasks it has run."""

    def note_task_done(self) -> None:
        """Count one more."""

    def send(self, frame: dict[str, Any]) -> None:
        """Send it a frame about the task."""

    async def receive(self) -> dict[str, Any] | None:
        """Return its next frame about the task; ``None`` when it has ended."""

    def request_stop(self, reason: str, cause: StopCause, grace: float) -> None:
        """Stop the task, and kill the child if it has not ended after ``grace`` seconds."""

    def kill(self) -> None:
        """Kill it with all it has started."""

    async def wait_for_exit(self) -> Exit | None:
        """Return how it ended."""


async def _record_nothing(result: TaskiqResult[Any]) -> None:
    """Keep no record."""
    del result


def _note_nothing(outcome: Outcome, why: str) -> None:
    """Note nothing."""
    del outcome, why


@dataclass(frozen=True)
class EndReports:
    """What is done at the reports of a child about the end of its task; by default nothing."""

    #: The task has ended with this result, and its child has more to do when that is on record;
    #: returns when it is.
    record: Callable[[TaskiqResult[Any]], Awaitable[None]] = _record_nothing
    #: It is a step or run that has ended in Dagster in this way; and why.
    note_outcome: Callable[[Outcome, str], None] = _note_nothing
    #: The child has reported the end, after it has called the hooks of middlewares.
    note_report: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class TaskEvents:
    """What is done at the reports of a child about its task."""

    #: It has written to the event log of its run, so the loop of the run should read it.
    on_wake: Callable[[], None]
    #: It is a run that only waits for its own steps from now on.
    on_orchestrating: Callable[[], None]
    #: It waits for the results of other tasks.
    on_waiting: Callable[[], None]
    #: It has them; returns when it may work on.
    until_working: Callable[[], Awaitable[None]]
    #: About its end.
    end: EndReports


class RunningTask:
    """One task from the moment it has a child until it has ended."""

    def __init__(
        self,
        message: TaskiqMessage,
        child: TaskChild,
        options: PoolOptions,
        is_internal: bool = False,
    ) -> None:
        """Begin nothing yet.

        Args:
            message: the task.
            child: runs it.
            options: the worker's, with the grace period and the limits for a child.
            is_internal: the worker's own task, of which no broker knows.
        """
        self.message = message
        self.child = child
        self.is_internal = is_internal
        #: When it got its child, of ``time.monotonic()``.
        self.started_at = time.monotonic()
        #: It is a run that waits for its own steps, and holds no slot.
        self.is_orchestrating = False
        #: It has work elsewhere that no other process could follow.
        self.must_stay = False
        #: It does what no other process could go on with, unless it orchestrates.
        self.has_begun = False
        #: Whether its child may run another task after it.
        self.leaves_child_usable = False
        #: Its end is on record; its last hooks may still run.
        self.is_recorded = False
        self._options = options
        #: Why it is being stopped; ``None`` while it is not.
        self._stop_reason: str | None = None
        #: The reason is a time limit, so the task has failed and was not cancelled.
        self._is_over_limit = False
        #: Another worker is to go on with it.
        self.is_handed_over = False

    @property
    def may_be_handed_over(self) -> bool:
        """Whether another worker could go on with it now."""
        if self.must_stay or self._stop_reason is not None:
            return False
        if self.message.task_name in PACKED_RUN:
            return self.is_orchestrating or not self.has_begun
        return self._only_watches

    @property
    def _only_watches(self) -> bool:
        return WATCHES_LABEL in self.message.labels

    async def run(self, events: TaskEvents) -> TaskEnd | None:
        """Have the child run the task, and return how it ended; ``None`` if the child has ended.

        Args:
            events: called at what the child reports.

        Raises:
            TaskRevokedError: it was stopped.
            TaskCutShortError: it was stopped, and its child ended without a result.
            TaskHandedOverError: the same, for another worker to go on with it.
            TimeLimitError: it was stopped because it exceeded a time limit.
        """
        # The outcome of a step is read by people; that of any other task by the code that sent it.
        is_typed = RUN_LABEL not in self.message.labels
        self.child.send({"run": plain_message(self.message), "typed": is_typed})
        recorded: Recorded | None = None
        while (frame := await self.child.receive()) is not None:
            if "wake" in frame:
                events.on_wake()
            elif "orchestrating" in frame:
                events.on_orchestrating()
            elif "stay" in frame:
                self.must_stay = True
            elif "begun" in frame:
                self.has_begun = True
            elif "waiting" in frame:
                events.on_waiting()
            elif "working" in frame:
                await events.until_working()
                self.child.send({"slot": True})
            elif "end" in frame:
                result = self._stopped_or(result_from_json(frame["end"]))
                await events.end.record(result)
                recorded = Recorded(result)
                self.is_recorded = True
                self.child.send({"recorded": True})
            else:
                self._note_done(frame)
                events.end.note_report()
                if "outcome" in frame:
                    events.end.note_outcome(Outcome(frame["outcome"]), frame["why"])
                return recorded or self._end_of(frame)
        if recorded is not None:
            return recorded
        if self._stop_reason is not None:
            # Once it has ended, nothing of the task runs any more.
            await self.child.wait_for_exit()
            kind = TaskHandedOverError if self.is_handed_over else TaskCutShortError
            raise self._stopped_error(kind)
        return None

    def stop(
        self, reason: str, at_once: bool = False, cause: StopCause = StopCause.CANCELLED
    ) -> None:
        """Stop it: SIGTERM to its child, SIGKILL to all it started after the grace period.

        Args:
            reason: for the log, and for the record of the task. The first reason counts.
            at_once: SIGKILL now; it must not do anything more.
            cause: what decides whether anything goes on with it.
        """
        if self._stop_reason is None:
            self._stop_reason = reason
            logger.info(
                "%s task %s in child %d: %s.",
                "Handing over" if self.is_handed_over else "Stopping",
                self.message.task_id,
                self.child.pid,
                reason.rstrip("."),
            )
            if not at_once:
                grace = self._options.kill_grace
                if self.is_orchestrating:
                    grace += ORCHESTRATOR_GRACE_SECONDS
                self.child.request_stop(reason, cause, grace)
        if at_once:
            self.child.kill()

    def hand_over(self, reason: str) -> None:
        """End its process at once, for another worker to go on with it.

        As a process may die at any moment, so may this one be killed: what goes on with a run finds
        in its event log what was done, and what watches a step finds that where it runs.

        Args:
            reason: for the log, and for the record of the task.
        """
        self.is_handed_over = True
        self.stop(reason, at_once=True, cause=StopCause.WORKER)

    def exceed_limit(self, reason: str, at_once: bool) -> None:
        """Stop it because it has exceeded a time limit.

        Args:
            reason: which one.
            at_once: it is the hard limit.
        """
        if self._stop_reason is None:
            self._is_over_limit = True
        elif self._is_over_limit and at_once:
            self._stop_reason = reason  # it did not end when it was stopped at the soft limit
        # If it were killed, nothing would end what it watches.
        self.stop(reason, at_once and not self._only_watches, StopCause.TIME_LIMIT)

    def describe(self) -> Running:
        """Return the row that the heartbeat shows of it."""
        seconds = round(time.monotonic() - self.started_at, 3)
        return describe_task(self.message, self.child.pid, seconds, self.is_orchestrating)

    def _note_done(self, done: dict[str, Any]) -> None:
        """Note the state in which the task has left its child."""
        self.child.note_task_done()
        self.leaves_child_usable = not done["last"] and may_run_another(
            self._options, self.child.tasks_done, int(done["rss"])
        )
        if done["left"]:
            self._warn_of_remains(done["left"])

    def _end_of(self, done: dict[str, Any]) -> TaskEnd:
        """Return what the child has reported at the end."""
        if "put_back" in done:
            if self._stop_reason is not None:
                raise self._stopped_error(TaskRevokedError)
            sent = done["put_back"]
            if sent is None:
                return PutBack(None)
            return PutBack(
                BrokerMessage(
                    task_id=sent["id"],
                    task_name=sent["name"],
                    message=sent["body"].encode(),
                    labels=sent["labels"],
                )
            )
        if self._stop_reason is None and "state" in done and not self.is_internal:
            state = TaskState(done["state"])
            return ReportedEnd(state, done["error"], done["done"].encode())
        result = result_from_json(done["done"])
        if self._stop_reason is not None and result.is_err:
            raise self._stopped_error(TaskRevokedError)
        return result

    def _stopped_or(self, result: TaskiqResult[Any]) -> TaskiqResult[Any]:
        """Return a result; if the task was stopped, and has failed then, with that as the error."""
        if self._stop_reason is not None and result.is_err:
            result.error = self._stopped_error(TaskRevokedError)
        return result

    def _stopped_error(
        self, if_cancelled: type[TaskRevokedError]
    ) -> TaskRevokedError | TimeLimitError:
        return (TimeLimitError if self._is_over_limit else if_cancelled)(self._stop_reason)

    def _warn_of_remains(self, remains: list[str]) -> None:
        """Log why the child is not used again."""
        step, run = self.message.labels.get(STEP_LABEL), self.message.labels.get(RUN_LABEL)
        logger.warning(
            "%s left behind: %s. Its process (pid %d) is replaced, so that the next task finds a "
            "clean one.",
            f'Step "{step}" of run {run}' if step else f"Task {self.message.task_id}",
            "; ".join(remains),
            self.child.pid,
        )


def describe_task(
    message: TaskiqMessage, pid: int = 0, seconds: float = 0.0, is_orchestrating: bool = False
) -> Running:
    """Return the row that the heartbeat shows of a task; by default of one that has no child yet.

    Args:
        message: the task.
        pid: the process id of its child.
        seconds: for how long it has been running.
        is_orchestrating: it is a run that waits for its own steps, and holds no slot.
    """
    return Running(
        id=message.task_id,
        name=message.task_name,
        run_id=str(message.labels.get(RUN_LABEL, "")),
        step_key=str(message.labels.get(STEP_LABEL, "")),
        pid=pid,
        seconds=seconds,
        orchestrating=is_orchestrating,
        attempt=attempt_of(message.labels),
        last=last_of_pipeline(message.labels),
        queue=str(message.labels.get(QUEUE_LABEL, "")),
        job=str(message.labels.get(JOB_LABEL, "")),
    )
