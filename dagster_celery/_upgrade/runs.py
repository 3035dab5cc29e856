"""Dagster's side of the upgrade: the runs that dagster-celery has sent, and their logs."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    RunsFilter,
)
from dagster._core.launcher import LaunchRunContext, ResumeRunContext, RunLauncher
from dagster._grpc.types import ExecuteRunArgs, ExecuteStepArgs, ResumeRunArgs
from dagster._serdes import serialize_value, unpack_value

from dagster_celery._upgrade.messages import CeleryMessage
from dagster_taskiq import tags
from dagster_taskiq.execution.code_location import working_directory_of
from dagster_taskiq.execution.run_ends import end_run
from dagster_taskiq.execution.run_tasks import STARTABLE
from dagster_taskiq.launcher import TaskiqRunLauncher
from dagster_taskiq.settings.settings import Settings

#: The status of a run that was sent and has not ended.
GOING = (
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
)
#: What the run loop of dagster-celery writes into the log of a run for each step that it sends.
_SENT_STEP = re.compile(
    r'Submitting celery task for step "(?P<step>.*)" to queue "(?P<queue>.*)"\.'
)

#: Events with which an attempt at a step begins: the first one, and any later one.
STEP_BEGINS = frozenset({DagsterEventType.STEP_START, DagsterEventType.STEP_RESTARTED})
#: Events after which an attempt at a step has ended.
STEP_ENDS = frozenset(
    {
        DagsterEventType.STEP_SUCCESS,
        DagsterEventType.STEP_FAILURE,
        DagsterEventType.STEP_UP_FOR_RETRY,
        DagsterEventType.STEP_SKIPPED,
    }
)
#: Events that are not of the step itself, and that no run loop needs to hear of.
_OF_THE_ENGINE = frozenset(
    {
        DagsterEventType.ENGINE_EVENT,
        DagsterEventType.STEP_WORKER_STARTING,
        DagsterEventType.STEP_WORKER_STARTED,
    }
)


@dataclass(frozen=True)
class SentRun:
    """A run that was sent and has not ended."""

    run: DagsterRun
    #: How it was sent, in a few words.
    sent: str
    #: The queues that its log or its tags name.
    queues: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepAttempt:
    """What the log of a run has of one attempt at a step."""

    #: Serialized, as dagster-celery's task returns them.
    events: tuple[str, ...]
    has_begun: bool
    has_ended: bool


class Runs:
    """The runs of one Dagster instance."""

    def __init__(self, instance: DagsterInstance, settings: Settings) -> None:
        """Look at nothing yet.

        Args:
            instance: where the runs are.
            settings: for launching, if the instance has another run launcher than one of ours.
        """
        self.instance = instance
        self._settings = settings
        self._logs: dict[str, Mapping[str, Sequence[DagsterEvent]]] = {}

    def get(self, run_id: str) -> DagsterRun | None:
        """Return a run as it is now; ``None`` if it is not in this instance."""
        return self.instance.get_run_by_id(run_id)

    def sent_by_celery(self) -> list[SentRun]:
        """Return the runs that have not ended and that dagster-celery has sent, or executes.

        Those are the runs that only have its tag, and those whose log says that a step was sent to
        Celery and that were not sent here since.
        """
        found = []
        for run in self._going():
            task_id = tags.celery_task_of(run.tags)
            if tags.TASK_ID_TAG in run.tags:
                continue
            queue = run.tags.get(tags.OLDER_NAMES[tags.QUEUE_TAG])
            queues = [queue] if task_id and queue else []
            steps = self._steps_sent(run)
            queues += steps
            if task_id:
                found.append(SentRun(run, f"as Celery's task {task_id}", _unique(queues)))
            elif steps:
                found.append(SentRun(run, "its steps, as Celery's tasks", _unique(queues)))
        return found

    def sent_here(self) -> list[SentRun]:
        """Return the runs that have not ended and were sent by this package."""
        found = []
        for run in self._going():
            task_id = run.tags.get(tags.TASK_ID_TAG)
            if task_id:
                found.append(SentRun(run, f"as task {task_id}"))
        return found

    def queues_of(self, run_id: str) -> list[str]:
        """Return the queues that a run loop of dagster-celery has sent steps of a run to."""
        run = self.get(run_id)
        return [] if run is None else self._steps_sent(run)

    def run_of(self, message: CeleryMessage) -> str:
        """Return the id of the run that a message is of.

        Raises:
            ValueError: the arguments are not Dagster's.
        """
        return self._args(message).run_id

    def step_of(self, message: CeleryMessage) -> str:
        """Return the step that a message asks for.

        Raises:
            ValueError: the arguments are not those of one step.
        """
        args = self._args(message)
        keys = args.step_keys_to_execute if isinstance(args, ExecuteStepArgs) else None
        if not keys:
            raise ValueError("names no step")
        return keys[0]

    def attempt(self, message: CeleryMessage) -> StepAttempt:
        """Return what the log has of the attempt at a step that a message asks for.

        The log of a run is read once until :meth:`read_anew` is called.

        Raises:
            ValueError: as :meth:`step_of`.
        """
        args, key = self._args(message), self.step_of(message)
        state = args.known_state if isinstance(args, ExecuteStepArgs) else None
        earlier = state.get_retry_state().get_attempt_count(key) if state else 0
        events: list[DagsterEvent] = []
        for event in self._steps_of(args.run_id).get(key, ()):
            if earlier:
                earlier -= event.event_type is DagsterEventType.STEP_UP_FOR_RETRY
            elif event.event_type not in _OF_THE_ENGINE:
                events.append(event)
        kinds = {event.event_type for event in events}
        return StepAttempt(
            events=tuple(serialize_value(event) for event in events),
            has_begun=bool(kinds & (STEP_BEGINS | STEP_ENDS)),
            has_ended=bool(kinds & STEP_ENDS),
        )

    def read_anew(self) -> None:
        """Let :meth:`attempt` read the logs of runs again."""
        self._logs.clear()

    def code_directory(self, message: CeleryMessage) -> str:
        """Return the working directory of the code of a message's job; empty if it has none.

        Raises:
            ValueError: as :meth:`run_of`.
        """
        return working_directory_of(self._args(message).job_origin)

    def launch(self, run: DagsterRun) -> None:
        """Send a run that has not started to its queue, for a worker of this package.

        Raises:
            as ``TaskiqRunLauncher.launch_run``.
        """
        self._launcher().launch_run(LaunchRunContext(dagster_run=run, workspace=None))

    def resume(self, run: DagsterRun) -> None:
        """Send a run whose process has gone, to go on where it was.

        Raises:
            as ``TaskiqRunLauncher.resume_run``.
        """
        self._launcher().resume_run(
            ResumeRunContext(dagster_run=run, workspace=None, resume_attempt_number=None)
        )

    def cancel(self, run: DagsterRun, why: str) -> None:
        """Write that a run whose cancellation was requested is cancelled."""
        self.instance.report_run_canceled(run, message=why)

    def fail(self, run: DagsterRun, why: str) -> None:
        """Write that a run has failed, unless its log has another end."""
        end_run(self.instance, run.run_id, why)

    def report(self, run: DagsterRun, text: str) -> None:
        """Write a sentence into the log of a run."""
        self.instance.report_engine_event(text, run, cls=TaskiqRunLauncher)

    def was_launched(self, run: DagsterRun) -> bool:
        """Return whether a run launcher of dagster-celery or of this package has sent a run."""
        return tags.read_tag(run.tags, tags.TASK_ID_TAG) is not None

    def begun_steps(self, run: DagsterRun) -> list[str]:
        """Return the steps that have begun and not ended, by the log."""
        open_steps: dict[str, None] = {}
        for event in self._events(run.run_id):
            if event.step_key and event.event_type in STEP_BEGINS:
                open_steps[event.step_key] = None
            elif event.step_key and event.event_type in STEP_ENDS:
                open_steps.pop(event.step_key, None)
        return list(open_steps)

    def _going(self) -> Sequence[DagsterRun]:
        return self.instance.get_runs(RunsFilter(statuses=list(GOING)))

    def _steps_sent(self, run: DagsterRun) -> list[str]:
        """Return the queues that steps of a run were sent to by the run loop of dagster-celery."""
        if run.status in STARTABLE:
            return []
        entries = self.instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT)
        matches = (_SENT_STEP.search(entry.message or "") for entry in entries)
        return [match["queue"] for match in matches if match]

    def _steps_of(self, run_id: str) -> Mapping[str, Sequence[DagsterEvent]]:
        """Return the events of each step of a run, by its key."""
        if run_id not in self._logs:
            steps: dict[str, list[DagsterEvent]] = {}
            for event in self._events(run_id):
                steps.setdefault(event.step_key or "", []).append(event)
            self._logs[run_id] = steps
        return self._logs[run_id]

    def _events(self, run_id: str) -> Iterable[DagsterEvent]:
        entries = self.instance.all_logs(run_id)
        return (entry.dagster_event for entry in entries if entry.dagster_event is not None)

    def _launcher(self) -> RunLauncher[DagsterInstance]:
        launcher = self.instance.run_launcher
        if isinstance(launcher, TaskiqRunLauncher):
            return launcher
        own = TaskiqRunLauncher(self._settings)
        own.register_instance(self.instance)
        return own

    @staticmethod
    def _args(message: CeleryMessage) -> ExecuteRunArgs | ResumeRunArgs | ExecuteStepArgs:
        packed = message.packed
        if not isinstance(packed, dict):
            raise ValueError("has no arguments of Dagster's")  # noqa: TRY004 - as for all others
        try:
            args = unpack_value(packed)
        except Exception as error:
            raise ValueError(f"has arguments that this Dagster cannot read ({error})") from None
        if not isinstance(args, ExecuteRunArgs | ResumeRunArgs | ExecuteStepArgs):
            raise ValueError("has arguments of another kind")  # noqa: TRY004 - as for all others
        return args


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
