"""The line in a run's log about why a worker stops what it executes of the run."""

from dagster import DagsterInstance
from dagster._core.storage.dagster_run import DagsterRun
from typing_extensions import Self

from dagster_taskiq.execution.task_context import current_context
from dagster_taskiq.wire.stop_causes import StopCause


class StopNote:
    """Writes an event, once, if the worker stops the task that is executed in the block.

    Nothing is written about a cancellation, of which the run's log has an event already.
    """

    def __init__(
        self, instance: DagsterInstance, run: DagsterRun, what: str, step_key: str | None = None
    ) -> None:
        """Write nothing yet.

        Args:
            instance: the instance of the run.
            run: the run.
            what: what is executed here, to begin a sentence.
            step_key: the step that the event belongs to; ``None`` for the run itself.
        """
        self._instance = instance
        self._run = run
        self._what = what
        self._step_key = step_key
        self._is_written = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.write_if_stopped()

    def write_if_stopped(self) -> None:
        """Write the event if the worker has asked for the stop meanwhile."""
        request = None if self._is_written else current_context().stop_request()
        if request is None or request.cause is StopCause.CANCELLED:
            return
        self._is_written = True
        why = request.reason.rstrip(".")
        text = f"{self._what} is stopped: {why[:1].lower()}{why[1:]}."
        self._instance.report_engine_event(text, self._run, step_key=self._step_key)
