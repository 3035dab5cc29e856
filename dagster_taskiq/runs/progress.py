"""Applying the events of a run's log to its plan and its steps in flight."""

from collections.abc import Callable, Collection

from dagster import DagsterEvent
from dagster._core.events import DagsterEventType
from dagster._core.execution.plan.active import ActiveExecution
from dagster_shared.error import SerializableErrorInfo

from dagster_taskiq.errors import ResourceSetUpError
from dagster_taskiq.runs.event_tail import ends_step
from dagster_taskiq.runs.outcomes import Outcomes, make_error
from dagster_taskiq.runs.run_log import RunLog
from dagster_taskiq.runs.steps_in_flight import StepInFlight, StepsInFlight


class Progress:
    """How far a run is, as its event log has it."""

    def __init__(
        self,
        log: RunLog,
        active: ActiveExecution,
        steps: StepsInFlight,
        outcomes: Outcomes,
        report_sent: Callable[[StepInFlight], None],
    ) -> None:
        """Read nothing yet.

        Args:
            log: the run's event log.
            active: the state of the run, as Dagster has it.
            steps: the steps in flight.
            outcomes: writes the failure of a step that does not write it itself.
            report_sent: writes that a step was sent.
        """
        self._log = log
        self._active = active
        self._steps = steps
        self._outcomes = outcomes
        self._report_sent = report_sent
        #: The errors of steps that have failed.
        self.errors: list[SerializableErrorInfo] = []

    def update(self, step_keys: Collection[str] = ()) -> None:
        """Read what is new in the event log, and apply it.

        Args:
            step_keys: steps of which older rows are read as well that were passed over.
        """
        for event in self._log.read(step_keys):
            self._apply(event)

    def _apply(self, event: DagsterEvent) -> None:
        # ActiveExecution decides which steps are skipped, and knows that before it is logged. An
        # event of a step that is not in flight comes from a worker that was lost: the end of the
        # step has been written on its behalf.
        step = None if event.is_step_skipped else self._steps.get(event.step_key or "")
        if step is None:
            return
        # The engine events of a step are written by the loop itself.
        step.begun = step.begun or event.event_type is not DagsterEventType.ENGINE_EVENT
        if step.begun and not step.sent_reported:
            # It was sent with others of which one failed: the call counts as failed for all.
            self._report_sent(step)
        if event.is_resource_init_failure:
            error = event.engine_event_data.error
            self._active.handle_event(event)
            text = "A resource could not be set up."
            self._outcomes.record(step, error or make_error(text, ResourceSetUpError))
            return
        if ends_step(event):
            self._steps.end_step(step)
            if event.is_step_failure and event.step_failure_data.error is not None:
                self.errors.append(event.step_failure_data.error)
        self._active.handle_event(event)
