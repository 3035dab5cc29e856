"""The loop of one run: sends steps that are ready, and follows what happens to them.

What happened to a step is what Dagster's event log has. The loop tails it; notifications in the
channel of the run only tell it when to look, and without any it looks once a second. The record of
a task answers one question: whether some process may still write the end of its step.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from dagster import DagsterEvent
from dagster._core.errors import DagsterExecutionInterruptedError, DagsterSubprocessError
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.active import ActiveExecution
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster_shared.error import SerializableErrorInfo

from dagster_taskiq.client import client_for
from dagster_taskiq.dagster_internals.storage_connections import open_connections_kept
from dagster_taskiq.dagster_internals.temporary_instance import note_on_temporary_home
from dagster_taskiq.errors import WorkerLostError
from dagster_taskiq.execution.late_rows import LATE_LOOK_SECONDS
from dagster_taskiq.execution.task_context import current_context
from dagster_taskiq.runs.ended_tasks import EndedTasks
from dagster_taskiq.runs.evicting_servers import describe_evictions, warn_of_evictions
from dagster_taskiq.runs.health import Health
from dagster_taskiq.runs.instance_settings import settings_for
from dagster_taskiq.runs.lost_messages import LostMessages
from dagster_taskiq.runs.lost_records import LostRecords
from dagster_taskiq.runs.lost_workers import LostWorkers
from dagster_taskiq.runs.outcomes import Outcomes, make_error
from dagster_taskiq.runs.progress import Progress
from dagster_taskiq.runs.replay import Pools
from dagster_taskiq.runs.resumption import Resumption
from dagster_taskiq.runs.run_inbox import RunInbox
from dagster_taskiq.runs.run_log import RunLog
from dagster_taskiq.runs.run_options import RunOptions
from dagster_taskiq.runs.sending import StepSender
from dagster_taskiq.runs.servers import Servers
from dagster_taskiq.runs.step_client import InProcessTasks, StepClient
from dagster_taskiq.runs.step_requests import StepRequests
from dagster_taskiq.runs.steps_in_flight import StepInFlight, StepsInFlight
from dagster_taskiq.runs.stopping import Stopping
from dagster_taskiq.runs.unserved_queues import UnservedQueues
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.settings.urls import redact
from dagster_taskiq.tags import describe_unread_priority
from dagster_taskiq.tracing import spans
from dagster_taskiq.transport.eviction import Eviction

if TYPE_CHECKING:
    from dagster_taskiq.runs.in_process_runner import InProcessRunner

#: The longest time between two looks at the event log, in seconds.
TICK_SECONDS = 1.0
#: How long the loop waits, once every step has ended, for tasks that still run hooks and close
#: logs, in seconds. The run then ends without them: a hook that does not return must not keep it
#: from ending, and their steps have their ends in the log.
FINALIZING_SECONDS = 300.0


class RunLoop:
    """The execution of one plan."""

    def __init__(
        self,
        options: RunOptions,
        context: PlanOrchestrationContext,
        plan: ExecutionPlan,
        open_client: Callable[[Settings], StepClient] = client_for,
    ) -> None:
        """Check the plan; nothing is connected until :meth:`events` is read.

        Args:
            options: how this run is executed.
            context: Dagster's context of the run.
            plan: what is to be executed.
            open_client: connects to broker and backend.

        Raises:
            ConfigError: a setting or a tag cannot work.
        """
        self._options = options
        self._context = context
        self._plan = plan
        self._open_client = open_client
        self._settings = settings_for(context.instance, options.settings)
        self._requests = StepRequests(options, context, plan, self._settings)

    def events(self) -> Iterator[DagsterEvent]:
        """Execute the plan; yield the run's events as they are read from its log.

        Raises:
            ServerUnavailableError: broker or backend does not answer.
            DagsterExecutionInterruptedError: the run was interrupted, and its steps were stopped.
            DagsterSubprocessError: a step failed and the caller wants errors raised.
        """
        with open_connections_kept():
            yield from self._events()

    def _events(self) -> Iterator[DagsterEvent]:
        client = self._open_client(self._settings)
        log = RunLog(self._context)
        instance, run = self._context.instance, self._context.dagster_run
        evictions = warn_of_evictions(client, instance, run)
        # If a worker runs this run, its slot is free for steps from here on.
        current_context().orchestrating()
        if client.in_process is None and (temporary := note_on_temporary_home(instance)):
            log.report(temporary)
        if unread := describe_unread_priority(run.tags):
            log.report(unread)
        with ExitStack() as stack:
            pools = stack.enter_context(Pools(instance, run))
            active = stack.enter_context(self._open_plan(pools))
            open_run = _OpenRun(
                self._options,
                self._context,
                settings=self._settings,
                requests=self._requests,
                client=client,
                log=log,
                evictions=evictions,
                active=active,
                pools=pools,
            )
            yield from open_run.events()
        wanted = self._options.raises_step_errors or open_run.task_has_raised
        if open_run.errors and wanted and self._context.raise_on_error:
            texts = "\n".join(error.to_string() for error in open_run.errors)
            raise DagsterSubprocessError(
                f"Steps failed in their workers:\n{texts}", subprocess_error_infos=open_run.errors
            )

    def _open_plan(self, pools: Pools) -> ActiveExecution:
        options = self._options
        return ActiveExecution(
            self._plan,
            retry_mode=options.retries,
            sort_key_fn=lambda step: -self._requests.priority_of(step),
            max_concurrent=options.max_concurrent,
            tag_concurrency_limits=[dict(each) for each in options.tag_concurrency_limits],
            instance_concurrency_context=pools,
            step_dependency_config=options.step_dependency_config,
        )


class _OpenRun:
    """A run that is being executed: everything it needs is open."""

    def __init__(
        self,
        options: RunOptions,
        context: PlanOrchestrationContext,
        *,
        settings: Settings,
        requests: StepRequests,
        client: StepClient,
        log: RunLog,
        evictions: Mapping[str, Eviction],
        active: ActiveExecution,
        pools: Pools,
    ) -> None:
        """Put together the parts of the loop; nothing is read or sent yet.

        Args:
            options: how this run is executed.
            context: Dagster's context of the run.
            settings: those of the run, resolved.
            requests: makes what is sent for a step.
            client: the connection to broker and backend.
            log: the run's event log.
            evictions: what the servers had deleted to make room when the run began.
            active: the state of the run, as Dagster has it.
            pools: the run's claims on Dagster's concurrency pools.
        """
        instance, run_id = context.instance, context.run_id
        broker = redact(settings.broker)
        self._context = context
        self._active = active
        self._log = log
        self._steps = steps = StepsInFlight()
        servers = Servers(client, steps, log.report)
        outcomes = Outcomes(options, context, active)
        run = context.dagster_run
        #: That of the run, unless a worker executes it, which has one.
        self._span = spans.begin_run(run_id, run.job_name, run.tags)
        self._sender = StepSender(servers, requests, active, steps, log, broker, self._span)
        self._progress = Progress(log, active, steps, outcomes, self._sender.report_sent)
        self._resumption = Resumption(
            context, active, pools, client, requests, steps, log, self._sender, outcomes
        )
        self._ended_tasks = EndedTasks(
            servers, steps, log, self._progress, outcomes, self._resumption, instance, run_id
        )

        def fail_lost(step: StepInFlight, why: str) -> None:
            outcomes.record(step, make_error(why, WorkerLostError))

        self._health = Health(
            servers,
            steps,
            interval=settings.heartbeat_interval,
            lost_workers=LostWorkers(servers, settings),
            lost_records=LostRecords(
                servers,
                steps,
                settings,
                update=self._progress.update,
                report=log.report,
                send=self._sender.send,
                fail=fail_lost,
                describe_evictions=partial(describe_evictions, client, evictions),
            ),
            lost_messages=LostMessages(servers, steps, report=log.report, send=self._sender.send),
            unserved_queues=UnservedQueues(broker, log.report),
        )
        self._stopping = Stopping(
            context, active, pools, servers, steps, log, self._sender, settings.lease
        )
        self._inbox = RunInbox(servers, steps, run_id)
        tasks = client.in_process
        #: Executes the steps if there are no workers to do it.
        self._runner = _open_runner(tasks, steps) if tasks is not None else None

    @property
    def errors(self) -> list[SerializableErrorInfo]:
        """The errors of steps that have failed so far."""
        return self._progress.errors

    @property
    def task_has_raised(self) -> bool:
        """Whether a task that was executed in this process has raised an error itself."""
        return self._runner is not None and self._runner.has_raised

    def events(self) -> Iterator[DagsterEvent]:
        """Execute the plan; yield the run's events as they are read from its log."""
        try:
            if self._context.resume_from_failure:
                self._resumption.resume()
            yield from self._execute()
        except BaseException as error:
            self._span.note_error(error)
            self._stopping.stop_in_flight("the run's loop ended with an error")
            raise
        finally:
            if self.errors:
                self._span.note_failure("StepFailed", self.errors[0].message)
            self._span.end()

    def _execute(self) -> Iterator[DagsterEvent]:
        active = self._active
        while True:
            if active.check_for_interrupts():
                yield from self._interrupt()
                return  # it has not raised: the run will be resumed
            self._progress.update()
            self._ended_tasks.settle()
            self._check_health()
            # These two write events into the log, from where they are read like all others.
            for _ in active.plan_events_iterator(self._context):
                pass
            for _ in active.concurrency_event_iterator(self._context):
                pass
            yield from self._log.take_events()
            # In this order: a step that has become ready counts as in flight before the plan is
            # asked whether it is complete.
            self._resumption.send_claimed()
            self._sender.send_unsent()
            self._sender.launch(active.get_steps_to_execute())
            if active.is_complete:
                break
            self._wait(self._seconds_to_wait())
        yield from self._finalize()

    def _seconds_to_wait(self) -> float:
        """Return how long to wait for notifications before the event log is read again."""
        if any(step.end_missing_since is not None for step in self._steps):
            return LATE_LOOK_SECONDS
        until_retry: float = self._active.sleep_interval()
        return min(TICK_SECONDS, until_retry) if until_retry > 0 else TICK_SECONDS

    def _wait(self, seconds: float) -> None:
        if self._runner is not None:
            self._runner.wait(seconds)
        else:
            self._inbox.wait(seconds)

    def _check_health(self) -> None:
        if self._runner is None:  # what runs in this process is as healthy as the loop
            self._health.check()

    def _interrupt(self) -> Iterator[DagsterEvent]:
        """Stop the steps, and end with an error, unless the run will be resumed."""
        if not self._stopping.interrupt(self._follow):
            return
        yield from self._close()
        # Steps that failed as they were stopped are not why the run ends.
        raise DagsterExecutionInterruptedError

    def _follow(self) -> None:
        """Wait for a tick at most, and learn what is new of the run and of its tasks."""
        self._check_health()
        self._wait(TICK_SECONDS)
        self._progress.update()

    def _finalize(self) -> Iterator[DagsterEvent]:
        """Wait for tasks that still run hooks and close logs after the last event of their step."""
        deadline = time.monotonic() + FINALIZING_SECONDS
        while self._steps.finalizing and time.monotonic() < deadline:
            if self._active.check_for_interrupts():
                yield from self._interrupt()
                return
            self._wait(TICK_SECONDS)
            self._check_health()
            self._ended_tasks.settle()
        yield from self._close()

    def _close(self) -> Iterator[DagsterEvent]:
        """Delete the channel of the run, and yield its last events."""
        self._inbox.close()
        self._progress.update()
        yield from self._log.take_events()


def _open_runner(tasks: InProcessTasks, steps: StepsInFlight) -> "InProcessRunner":
    """Return what executes the steps of a run in this process."""
    # Imported here: it needs all that a worker's child has to execute tasks.
    from dagster_taskiq.runs.in_process_runner import InProcessRunner  # noqa: PLC0415

    return InProcessRunner(tasks, steps)
