"""The event log of a run, as its loop reads and writes it."""

from collections.abc import Collection

from dagster import DagsterEvent
from dagster._core.events import DagsterEventType, EngineEventData
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.step import ExecutionStep

from dagster_taskiq.runs.event_tail import ALL_TYPES, EventTail, Tailed, ends_step
from dagster_taskiq.runs.steps_in_flight import StepInFlight

#: What is read from the log: all but the event that the loop writes for each step that it sends,
#: which it has already.
_READ_TYPES = ALL_TYPES - {DagsterEventType.STEP_WORKER_STARTING}


class RunLog:
    """Reads each event of a run once, writes the loop's own, and keeps both to be yielded."""

    def __init__(self, context: PlanOrchestrationContext) -> None:
        """Read nothing yet.

        Args:
            context: Dagster's context of the run.
        """
        self._context = context
        self._tail = EventTail(context.instance, context.run_id)
        #: Events that the loop has not yielded to Dagster yet.
        self._to_yield: list[DagsterEvent] = []
        #: The id of the last row that ends an attempt at a step, by the key of the step.
        self._end_ids: dict[str, int] = {}

    @property
    def may_miss_rows(self) -> bool:
        """Whether rows may become visible after others that have higher ids."""
        return self._tail.may_miss_rows

    @property
    def missing_rows(self) -> frozenset[int]:
        """The ids of rows, of any run, that may still become visible."""
        return self._tail.missing

    def read(self, step_keys: Collection[str] = ()) -> list[DagsterEvent]:
        """Return the new events of the run, in the order of the log.

        An event that became visible late, after the end of the attempt it belongs to, is yielded to
        Dagster and not returned: the loop may have written that end itself.

        Args:
            step_keys: steps of which older rows are read as well that were passed over.
        """
        current: list[DagsterEvent] = []
        for tailed in self._tail.read(_READ_TYPES, step_keys):
            self._to_yield.append(tailed.event)
            if tailed.id >= self._end_ids.get(tailed.event.step_key or "", 0):
                self._note_end(tailed)
                current.append(tailed.event)
        return current

    def read_past(self) -> list[Tailed]:
        """Return all events of a run that another process has begun."""
        past = self._tail.read()
        for tailed in past:
            self._note_end(tailed)
            self._to_yield.append(tailed.event)
        return past

    def take_events(self) -> list[DagsterEvent]:
        """Return the events that are to be yielded to Dagster; each of them once."""
        events, self._to_yield = self._to_yield, []
        return events

    def report(self, text: str, step: ExecutionStep | None = None) -> None:
        """Write an engine event.

        Args:
            text: sentences for the people on call.
            step: the step that they are about, if it is one.
        """
        context = self._context.for_step(step) if step is not None else self._context
        DagsterEvent.engine_event(context, text, EngineEventData())

    def report_sent(self, step: StepInFlight, priority: int, broker: str) -> None:
        """Write the event that a step was sent.

        Args:
            step: which one.
            priority: with which priority.
            broker: URL of the broker, without its password.
        """
        event = DagsterEvent.step_worker_starting(
            self._context.for_step(step.execution_step),
            f'Sent step "{step.key}" to queue "{step.queue}".',
            metadata={
                "queue": step.queue,
                "priority": priority,
                "task_id": step.task_id,
                "broker": broker,
            },
        )
        step.sent_reported = True
        self._to_yield.append(event)

    def _note_end(self, tailed: Tailed) -> None:
        if ends_step(tailed.event) and tailed.event.step_key:
            self._end_ids[tailed.event.step_key] = tailed.id
