"""Which steps of a run are in flight, and in what state the tasks are that execute them."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from dagster._core.execution.plan.step import ExecutionStep


@dataclass
class StepInFlight:
    """One attempt at a step, from before its task is sent until its end is in the event log.

    Times are those of ``time.monotonic()``.
    """

    execution_step: ExecutionStep
    task_id: str
    queue: str
    #: How many tasks of this attempt have died with their workers before this one.
    incarnation: int = 0
    #: When the loop took it up.
    since: float = field(default_factory=time.monotonic)
    #: Whether the event log has the event that it was sent.
    sent_reported: bool = False
    #: Whether the event log has an event of it that a worker wrote.
    begun: bool = False
    #: Whether its task has ended, whatever the event log has of the step so far.
    task_ended: bool = False
    #: Whether the loop itself has written the failure or retry of the step.
    outcome_recorded: bool = False
    #: Since when its task has ended without an end of the step in the event log.
    end_missing_since: float | None = None
    #: The ids of rows that were missing in the event log at that time, and still are: a transaction
    #: that is not committed yet may hold the end of the step (see ``execution.late_rows``).
    awaited_rows: frozenset[int] = frozenset()
    #: Why the step is run again if its worker or process has died; if empty, it fails.
    rerun_reason: str = ""
    #: Since when the backend has no record of the task, and no worker reports that it runs it.
    unrecorded_since: float | None = None
    #: How many checks in a row found the queue empty while the task should have waited there.
    times_missing: int = 0
    #: How often it was sent again because its message was missing.
    times_resent: int = 0

    @property
    def key(self) -> str:
        """The key of the step in the execution plan."""
        return self.execution_step.key


class StepsInFlight:
    """The steps of one run whose end, or the end of whose task, is still to come.

    A step is in flight until its end is in the event log. If its task has not ended by then, the
    step is finalizing: its process still runs hooks, tears resources down and closes logs.
    """

    def __init__(self) -> None:
        #: By the key of the step.
        self._in_flight: dict[str, StepInFlight] = {}
        #: By the id of the task.
        self._finalizing: dict[str, StepInFlight] = {}
        #: By the key of the step: in flight, and not taken by the broker yet.
        self._unsent: dict[str, StepInFlight] = {}
        #: The ids of tasks that are reported to have ended, until the loop has handled them.
        self._ended_tasks: set[str] = set()

    def __iter__(self) -> Iterator[StepInFlight]:
        """Iterate over the steps in flight, as they are now, in the order they were added."""
        return iter(list(self._in_flight.values()))

    def __len__(self) -> int:
        return len(self._in_flight)

    @property
    def keys(self) -> list[str]:
        """The keys of the steps in flight."""
        return list(self._in_flight)

    @property
    def task_ids(self) -> list[str]:
        """The ids of the tasks of the steps in flight."""
        return [step.task_id for step in self._in_flight.values()]

    @property
    def finalizing(self) -> list[StepInFlight]:
        """The steps that have ended and whose tasks have not."""
        return list(self._finalizing.values())

    @property
    def unsent(self) -> list[StepInFlight]:
        """The steps in flight that the broker has not taken yet."""
        return list(self._unsent.values())

    def add(self, *steps: StepInFlight) -> None:
        """Count steps as in flight; an earlier attempt at the same step is replaced."""
        self._in_flight.update((step.key, step) for step in steps)

    def get(self, key: str) -> StepInFlight | None:
        """Return the step in flight with this key, or ``None``."""
        return self._in_flight.get(key)

    def has(self, step: StepInFlight) -> bool:
        """Return whether this attempt at a step, and no later one, is in flight."""
        return self._in_flight.get(step.key) is step

    def remove(self, step: StepInFlight) -> None:
        """Stop counting a step as in flight, because it will be sent anew."""
        del self._in_flight[step.key]

    def is_unsent(self, step: StepInFlight) -> bool:
        """Return whether the broker has not taken the step with this key yet."""
        return step.key in self._unsent

    def mark_unsent(self, *steps: StepInFlight) -> None:
        """Remember that steps are still to be sent."""
        self._unsent.update((step.key, step) for step in steps)

    def mark_sent(self, *steps: StepInFlight) -> None:
        """Remember that the broker has taken steps."""
        for step in steps:
            self._unsent.pop(step.key, None)

    def end_step(self, step: StepInFlight) -> None:
        """Take a step out of flight, whose end is in the event log; it may have to finalize."""
        del self._in_flight[step.key]
        self._unsent.pop(step.key, None)
        if not step.task_ended:
            self._finalizing[step.task_id] = step

    def report_task_end(self, task_id: str) -> None:
        """Note that a task is reported to have ended; it may belong to none of these steps."""
        self._ended_tasks.add(task_id)

    def take_ended(self) -> list[StepInFlight]:
        """Return the steps in flight whose tasks were reported to have ended since the last call.

        Steps that were finalizing, and whose tasks have ended, are finished with this call.
        """
        ended, self._ended_tasks = self._ended_tasks, set()
        for task_id in ended:
            self._finalizing.pop(task_id, None)
        return [step for step in self._in_flight.values() if step.task_id in ended]

    def end_task(self, step: StepInFlight) -> None:
        """Note that the task of a step has ended for certain."""
        step.task_ended = True
        self._finalizing.pop(step.task_id, None)

    def drop_ended(self) -> list[StepInFlight]:
        """Take all steps out whose tasks were reported to have ended, and return those in flight.

        Used when a run is interrupted: how these steps have ended does not matter any more.
        """
        dropped = self.take_ended()
        for step in dropped:
            del self._in_flight[step.key]
        return dropped
