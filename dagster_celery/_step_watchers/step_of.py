"""The step of the arguments with which a watching task was sent, and the events of it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun
from dagster._core.events import EngineEventData
from dagster._grpc.types import ExecuteStepArgs
from dagster._serdes import unpack_value

from dagster_taskiq.execution.instances import find_run, instance_of
from dagster_taskiq.runs.stopping import is_cancelled_or_ended

#: What is written about a step by processes other than its own.
_WRITTEN_ELSEWHERE = frozenset(
    {DagsterEventType.ENGINE_EVENT, DagsterEventType.STEP_WORKER_STARTING}
)


class WatchedStep:
    """A step that runs elsewhere, as its watching task knows it."""

    def __init__(self, kwargs: Mapping[str, Any]) -> None:
        """Open its instance.

        Args:
            kwargs: the arguments of the task, which both libraries name alike.

        Raises:
            NoInstanceError: they name no Dagster instance.
            RunNotFoundError: the run is not in this worker's instance.
        """
        args = unpack_value(kwargs["execute_step_args_packed"], as_type=ExecuteStepArgs)
        (self.key,) = args.step_keys_to_execute or ("",)
        self.instance: DagsterInstance = instance_of(args)
        self.run: DagsterRun = find_run(self.instance, args.run_id)

    def report(self, text: str, metadata: Mapping[str, str] | None = None) -> None:
        """Write an event of the engine about the step into the log of its run."""
        self.instance.report_engine_event(
            text, self.run, EngineEventData(dict(metadata or {})), step_key=self.key
        )

    def run_is_over(self) -> bool:
        """Return whether its run is being cancelled, has ended, or was deleted."""
        return is_cancelled_or_ended(self.instance, self.run.run_id)

    def has_begun(self, name: str, value: str) -> bool:
        """Return whether the step's own process has written anything since an event of the engine.

        Args:
            name: the name under which the event has the value.
            value: tells it apart from all others.
        """
        if value not in self.metadata(name):
            return False
        announced = False
        for entry in self.instance.all_logs(self.run.run_id):
            event = entry.dagster_event
            if entry.step_key != self.key:
                continue
            if event is None or event.event_type not in _WRITTEN_ELSEWHERE:
                if announced:
                    return True
            elif event.event_type is DagsterEventType.ENGINE_EVENT:
                announced = announced or value in _values(event, name)
        return False

    def metadata(self, name: str, *, of_last_attempt: bool = False) -> Sequence[str]:
        """Return the values under a name in the engine's events about the step, in their order.

        Args:
            name: the name.
            of_last_attempt: leave those out that were written before the step was last retried.
        """
        of_type = {DagsterEventType.ENGINE_EVENT}
        if of_last_attempt:
            of_type.add(DagsterEventType.STEP_UP_FOR_RETRY)
        found: list[str] = []
        for entry in self.instance.all_logs(self.run.run_id, of_type=of_type):
            event = entry.dagster_event
            if event is None or event.step_key != self.key:
                continue
            if event.event_type is DagsterEventType.STEP_UP_FOR_RETRY:
                found.clear()
            else:
                found += _values(event, name)
        return found


def _values(event: DagsterEvent, name: str) -> Iterator[str]:
    value = event.engine_event_data.metadata.get(name)
    if value is not None:
        yield str(value.value)
