"""The step of the arguments with which a watching task was sent, and the events of it."""

from collections.abc import Iterator, Mapping
from typing import Any

from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun
from dagster._core.events import EngineEventData
from dagster._grpc.types import ExecuteStepArgs
from dagster._serdes import unpack_value

from dagster_taskiq.execution.instances import find_run, instance_of


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

    def metadata(self, name: str) -> Iterator[str]:
        """Yield the values under a name in the engine's events about the step, in their order."""
        of_type = {DagsterEventType.ENGINE_EVENT}
        for entry in self.instance.all_logs(self.run.run_id, of_type=of_type):
            event = entry.dagster_event
            if event is not None and event.step_key == self.key:
                yield from _values(event, name)


def _values(event: DagsterEvent, name: str) -> Iterator[str]:
    value = event.engine_event_data.metadata.get(name)
    if value is not None:
        yield str(value.value)
