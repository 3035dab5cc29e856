"""Dagster's side of the upgrade: the runs that dagster-celery has sent, and their logs."""

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

from dagster_celery._launcher import CeleryRunLauncher
from dagster_celery._upgrade.messages import CeleryMessage
from dagster_celery._upgrade.step_events import OF_THE_ENGINE, SENT_STEP, STEP_BEGINS, STEP_ENDS
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
#: The name under which dagster-celery's launcher writes a run's queue into its log.
_QUEUE_OF_RUN = "Celery Queue"


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
        #: The arguments of messages, by the ids of their tasks.
        self._known_args: dict[str, ExecuteRunArgs | ResumeRunArgs | ExecuteStepArgs] = {}
        #: The queues that runs were sent to, by their logs: these do not change.
        self._launch_queues: dict[str, list[str]] = {}

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
            queues += self._queues_of_launch(run) if task_id else []
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

    @property
    def queues_of_launcher(self) -> tuple[str, ...]:
        """The queue of ``CeleryRunLauncher`` for what has no tag; none of any other launcher."""
        launcher = self.instance.run_launcher
        return (launcher.default_queue,) if isinstance(launcher, CeleryRunLauncher) else ()

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
            elif event.event_type not in OF_THE_ENGINE:
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

    def fail(self, run: DagsterRun, why: str) -> bool:
        """Write that a run has failed, unless its log has another end.

        Args:
            run: the run.
            why: sentences for its log.

        Returns:
            ``False`` if it was sent by a run launcher, and Dagster's run monitoring will resume it.
        """
        return end_run(self.instance, run.run_id, why, may_resume=self.was_launched(run))

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

    def _queues_of_launch(self, run: DagsterRun) -> list[str]:
        """Return the queues that a run was sent to, as the launcher of dagster-celery wrote it."""
        if run.run_id not in self._launch_queues:
            entries = self.instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT)
            events = [entry.dagster_event for entry in entries if entry.dagster_event is not None]
            values = [each.engine_event_data.metadata.get(_QUEUE_OF_RUN) for each in events]
            self._launch_queues[run.run_id] = [
                str(each.value) for each in values if each is not None
            ]
        return self._launch_queues[run.run_id]

    def _steps_sent(self, run: DagsterRun) -> list[str]:
        """Return the queues that steps of a run were sent to by the run loop of dagster-celery."""
        if run.status in STARTABLE:
            return []
        entries = self.instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT)
        matches = (SENT_STEP.search(entry.message or "") for entry in entries)
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

    def _args(self, message: CeleryMessage) -> ExecuteRunArgs | ResumeRunArgs | ExecuteStepArgs:
        known = self._known_args.get(message.id)
        if known is None:
            known = self._known_args[message.id] = self._unpack(message)
        return known

    @staticmethod
    def _unpack(message: CeleryMessage) -> ExecuteRunArgs | ResumeRunArgs | ExecuteStepArgs:
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
