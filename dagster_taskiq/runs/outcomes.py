"""Writing the end of a step whose process did not write it."""

from collections import Counter
from collections.abc import Iterable

from dagster import DagsterEvent
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.active import ActiveExecution
from dagster._core.execution.plan.objects import StepRetryData
from dagster_shared.error import SerializableErrorInfo

from dagster_taskiq.errors import DagsterTaskiqError, WorkerLostError
from dagster_taskiq.runs.run_options import RunOptions
from dagster_taskiq.runs.steps_in_flight import StepInFlight
from dagster_taskiq.settings.settings import OnWorkerLost

#: How often ``worker_lost: retry`` runs a step again whose worker or process has died.
LOST_RETRIES = 3


class Outcomes:
    """Writes failures and retries on behalf of the steps of one run."""

    def __init__(
        self, options: RunOptions, context: PlanOrchestrationContext, active: ActiveExecution
    ) -> None:
        """Write nothing yet.

        Args:
            options: how the run is executed.
            context: Dagster's context of the run.
            active: the state of the run, as Dagster has it.
        """
        self._options = options
        self._context = context
        self._active = active
        #: How often the worker or process of each step has died, by the key of the step.
        self._losses: Counter[str] = Counter()

    def count_past_losses(self, events: Iterable[DagsterEvent]) -> None:
        """Count the retries after lost workers that the loop before this one has written."""
        for event in events:
            if event.is_step_up_for_retry and _is_lost(event.step_retry_data.error):
                self._losses[str(event.step_key)] += 1

    def record(self, step: StepInFlight, error: SerializableErrorInfo) -> None:
        """Write that a step has failed, or is retried if the op's policy or a setting allows it.

        Does nothing if that was written for this attempt before.
        """
        if step.outcome_recorded:
            return
        step.outcome_recorded = True
        context = self._context.for_step(step.execution_step)
        if _is_lost(error) and self._retries_lost_steps:
            self._losses[step.key] += 1
            if self._losses[step.key] <= LOST_RETRIES:
                retry = StepRetryData(error=error, seconds_to_wait=None)
                DagsterEvent.step_retry_event(context, retry)
                return
        self._options.report_error(context, error, self._active.get_known_state())

    @property
    def _retries_lost_steps(self) -> bool:
        on_worker_lost = self._options.settings.worker_lost
        return on_worker_lost is OnWorkerLost.RETRY and self._options.retries.enabled


def make_error(text: str, kind: type[DagsterTaskiqError]) -> SerializableErrorInfo:
    """Return an error for the event log.

    Args:
        text: sentences for the people on call.
        kind: the class of the error.
    """
    return SerializableErrorInfo(message=text, stack=[], cls_name=kind.__name__)


def _is_lost(error: SerializableErrorInfo | None) -> bool:
    """Return whether an error, also one read from the log, is that a worker or process died."""
    return error is not None and error.cls_name == WorkerLostError.__name__
