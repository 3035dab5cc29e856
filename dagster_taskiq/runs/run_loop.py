"""One run's loop: ready steps out, step events in.

What happened to a step is what Dagster's event log says. The loop tails it, and uses the mail of
the run's channel only to know when to look; without mail it looks once a second. A task's own
record is asked about one thing: whether there is still someone who will write the step's end.
"""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from dagster import DagsterEvent, DagsterRunStatus
from dagster._core.errors import DagsterExecutionInterruptedError, DagsterSubprocessError
from dagster._core.events import DagsterEventType, EngineEventData
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.active import ActiveExecution
from dagster._core.execution.plan.objects import StepRetryData
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.plan.step import ExecutionStep
from dagster._core.instance import DagsterInstance
from dagster._core.storage.dagster_run import DagsterRun
from dagster._utils.interrupts import check_captured_interrupt
from dagster_shared.error import SerializableErrorInfo

from dagster_taskiq import tags
from dagster_taskiq.client import SLICE_SECONDS, client_for
from dagster_taskiq.dagster_internals.sqlite_engines import open_engines_kept
from dagster_taskiq.dagster_internals.temporary_instance import note_on_temporary_home
from dagster_taskiq.errors import ServerUnavailableError, TaskFailedError, WorkerLostError
from dagster_taskiq.execution.late_rows import LATE_LOOK_SECONDS, LATE_SECONDS
from dagster_taskiq.execution.perform import describe_failure, perform
from dagster_taskiq.execution.pool_slots import pool_of
from dagster_taskiq.execution.task_beginnings import begun_task
from dagster_taskiq.execution.task_context import TaskContext, current_context, task_context
from dagster_taskiq.execution.tasks import register_tasks
from dagster_taskiq.runs.event_tail import ALL_TYPES, EventTail, Tailed, ends_step
from dagster_taskiq.runs.evicting_servers import said_of_evictions, warn_of_evictions
from dagster_taskiq.runs.instance_settings import settings_for
from dagster_taskiq.runs.replay import Pools, replay
from dagster_taskiq.runs.run_options import RunOptions
from dagster_taskiq.runs.step_client import InProcessTasks, StepClient
from dagster_taskiq.runs.step_requests import StepRequests
from dagster_taskiq.runs.unserved_queues import UnservedQueues
from dagster_taskiq.settings.settings import OnWorkerLost, Settings
from dagster_taskiq.settings.urls import redact
from dagster_taskiq.wire.labels import CUSTOM_STEP_SECONDS, KILL_GRACE_SECONDS
from dagster_taskiq.wire.notifications import FROM_START, run_channel
from dagster_taskiq.wire.records import Task, TaskState, Worker
from dagster_taskiq.wire.task_names import is_custom_step
from dagster_taskiq.wire.task_request import TaskRequest

T = TypeVar("T")

#: What is read from the log: all but what the loop writes for each step that it sends, and has
#: already.
_NOT_OURS = ALL_TYPES - {DagsterEventType.STEP_WORKER_STARTING}

#: The longest the loop goes without looking at the event log, in seconds.
TICK_SECONDS = 1.0
#: How much longer the loop waits between two looks for each step that has been sent and that no
#: worker has begun, in seconds: the more of them there are, the longer the workers are busy without
#: any new ones, and the more is seen in one look.
PAUSE_SECONDS = 0.001
#: The longest that is, in seconds.
MOST_PAUSE_SECONDS = 0.1
#: How many steps are sent together: of many, the first few soon, and then twice as many each time.
SENT_AT_ONCE = (20, 160)
#: The longest between two looks at the health of what is in flight, in seconds.
CHECK_SECONDS = 5.0
#: How long the loop goes on trying to reach a broker or backend that went away during the run.
OUTAGE_SECONDS = 600.0
#: How long the loop waits, once every step has ended, for tasks that still close hooks and logs.
CLOSING_SECONDS = 300.0
#: How long stopped tasks may take to be gone beyond the grace period of their workers, or beyond
#: the lease where their worker is lost meanwhile, in seconds.
STOPPING_SECONDS = 30.0
#: How often ``worker_lost: retry`` runs a step again for a worker or child that died under it.
LOST_RETRIES = 3


@dataclass
class StepInFlight:
    """A step that has been sent, until its task has ended."""

    step: ExecutionStep
    task_id: str
    queue: str
    since: float = field(default_factory=time.monotonic)
    #: Whether the log has a word of it from a worker.
    begun: bool = False
    #: Whether its task has ended, whatever the log says of the step so far.
    landed: bool = False
    #: Whether the loop itself has written the step's failure or retry.
    decided: bool = False
    #: Since when its task has ended without an end of the step in the log, in ``time.monotonic()``.
    silent_since: float | None = None
    #: The ids of the log's rows that were missing then, and still are.
    awaited: frozenset[int] = frozenset()
    #: Why the step is run again if its worker or process has died; it fails, where this is empty.
    run_again: str = ""
    #: Since when the backend knows nothing of the task, nor any worker, in ``time.monotonic()``.
    unknown_since: float | None = None
    #: How often in a row the broker had no message where the task's should have been.
    missing: int = 0
    #: How often it was sent again for that.
    sent_again: int = 0


class RunLoop:
    """The execution of one plan."""

    def __init__(
        self,
        options: RunOptions,
        context: PlanOrchestrationContext,
        plan: ExecutionPlan,
        client: Callable[[Settings], StepClient] = client_for,
    ) -> None:
        """Look at the plan; nothing is connected until :meth:`events` is read.

        Args:
            options: how this run is executed.
            context: Dagster's context of the run.
            plan: what is to be executed.
            client: opens the door to broker and backend.

        Raises:
            ConfigError: a setting or a tag cannot work.
        """
        self._options = options
        self._open = client
        self._context = context
        self._plan = plan
        self._instance: DagsterInstance = context.instance
        self._run: DagsterRun = context.dagster_run
        self._settings = settings_for(context.instance, options.settings)
        self._orders = StepRequests(options, context, plan, self._settings)
        self._tail = EventTail(self._instance, self._run.run_id)
        self._channel = run_channel(self._run.run_id)
        self._cursor = FROM_START
        #: Events read and handled, to be yielded.
        self._read: list[DagsterEvent] = []
        #: Where in the log each step's last end is that has been read.
        self._end_ids: dict[str, int] = {}
        #: Steps in flight, by key.
        self._flights: dict[str, StepInFlight] = {}
        #: Tasks whose step has ended and which have not: hooks and logs are being closed.
        self._closing: dict[str, StepInFlight] = {}
        #: Steps in flight that the broker, being away, has not taken yet.
        self._unsent: dict[str, StepInFlight] = {}
        #: Steps of a resumed run that still need a slot of their pool.
        self._unclaimed: dict[str, ExecutionStep] = {}
        #: Which incarnation of a resumed run's step is to be sent.
        self._incarnations: dict[str, int] = {}
        #: Tasks that are said to have ended.
        self._ended: set[str] = set()
        self._unserved = UnservedQueues()
        #: How often each step's worker or process has died under it.
        self._lost_count: Counter[str] = Counter()
        self._errors: list[SerializableErrorInfo] = []
        self._checked_at = self._steady_since = self._looked_at = time.monotonic()
        self._away_since: float | None = None
        #: Since when the backend does not know a worker that has a step, in ``time.monotonic()``.
        self._absent_since: dict[str, float] = {}

    def events(self) -> Iterator[DagsterEvent]:
        """Execute the plan; yield the run's events as they are read from its log.

        Raises:
            ServerUnavailableError: broker or backend does not answer.
            DagsterSubprocessError: a step failed and the caller wants errors raised.
        """
        self._client: StepClient = self._open(self._settings)
        self._evictions = warn_of_evictions(self._client, self._instance, self._run)
        # Where a worker runs this run, its slot is free from here on for the steps.
        current_context().orchestrating()
        if (here := self._client.in_process) is not None:
            register_tasks(here.broker)
        elif temporary := note_on_temporary_home(self._instance):
            self._say(temporary)
        with ExitStack() as stack:
            stack.enter_context(open_engines_kept())
            self._pools = stack.enter_context(Pools(self._instance, self._run))
            self._active = stack.enter_context(
                ActiveExecution(
                    self._plan,
                    retry_mode=self._options.retries,
                    sort_key_fn=lambda step: -self._orders.priority_of(step),
                    max_concurrent=self._options.max_concurrent,
                    tag_concurrency_limits=[
                        dict(each) for each in self._options.tag_concurrency_limits
                    ],
                    instance_concurrency_context=self._pools,
                    step_dependency_config=self._options.step_dependency_config,
                )
            )
            try:
                if self._context.resume_from_failure:
                    self._resume()
                yield from self._loop()
            except BaseException:
                self._stop(self._in_flight, "the run's loop ended with an error")
                raise
        if self._errors and self._context.raise_on_error:
            texts = "\n".join(error.to_string() for error in self._errors)
            raise DagsterSubprocessError(
                f"Steps failed in their workers:\n{texts}", subprocess_error_infos=self._errors
            )

    def _loop(self) -> Iterator[DagsterEvent]:
        active = self._active
        while True:
            if active.check_for_interrupts():
                yield from self._interrupt()
                return  # it will be resumed
            self._read_log()
            self._settle_ended()
            self._check_flights()
            # What these two iterators make is in the log, and comes back from its tail.
            for _ in active.plan_events_iterator(self._context):
                pass
            for _ in active.concurrency_event_iterator(self._context):
                pass
            yield from self._take_read()
            # In this order: a step that has become ready counts as in flight before the plan is
            # asked whether it is complete.
            self._claim_for_resumed()
            self._send(list(self._unsent.values()))
            self._launch(active.get_steps_to_execute())
            if active.is_complete:
                break
            self._wait(self._pause())
        yield from self._close()

    # Events in.

    def _read_log(self, steps: Collection[str] = ()) -> None:
        """Handle what has come into the log; of some steps, also what has been passed over."""
        for tailed in self._tail.read(_NOT_OURS, steps):
            self._read.append(tailed.event)
            if not self._is_of_former_attempt(tailed):
                self._note_end(tailed)
                self._handle(tailed.event)

    def _is_of_former_attempt(self, tailed: Tailed) -> bool:
        """Whether an event was written before the end, which is known, of an attempt at its step.

        It came late into the log, and the loop may have written that end in the meantime.
        """
        return tailed.id < self._end_ids.get(tailed.event.step_key or "", 0)

    def _note_end(self, tailed: Tailed) -> None:
        if ends_step(tailed.event) and tailed.event.step_key:
            self._end_ids[tailed.event.step_key] = tailed.id

    def _take_read(self) -> list[DagsterEvent]:
        read, self._read = self._read, []
        return read

    def _handle(self, event: DagsterEvent) -> None:
        # Skips are decided by ActiveExecution, which has handled them before they are logged.
        # An event of a step that is not in flight is a lost worker's: the step's end is known.
        flight = None if event.is_step_skipped else self._flights.get(event.step_key or "")
        if flight is None:
            return
        # An engine event of a step is the loop's own.
        flight.begun = flight.begun or event.event_type is not DagsterEventType.ENGINE_EVENT
        if event.is_resource_init_failure:
            error = event.engine_event_data.error
            self._active.handle_event(event)
            self._decide(flight, error or _error("A resource could not be set up."))
            return
        if ends_step(event):
            del self._flights[flight.step.key]
            self._unsent.pop(flight.step.key, None)
            if not flight.landed:
                self._closing[flight.task_id] = flight
            if event.is_step_failure and event.step_failure_data.error is not None:
                self._errors.append(event.step_failure_data.error)
        self._active.handle_event(event)

    def _settle_ended(self) -> None:
        """Look after steps whose task has ended: each must have said how, or be told for."""
        if not self._ended:
            return
        ended, self._ended = self._ended, set()
        for task_id in ended:
            self._closing.pop(task_id, None)
        silent = [flight for flight in self._flights.values() if flight.task_id in ended]
        if not silent:
            return
        known = self._reach(lambda: self._client.tasks([each.task_id for each in silent]))
        if known is None:
            self._ended |= ended
            return
        self._say_cut_off(silent, known)
        # A step's last event is written before its task ends. Where it can be read only later, or
        # has been passed over, the task must not be taken for one that has written none.
        self._read_log([flight.step.key for flight in silent])
        for flight in silent:
            task = known.get(flight.task_id)
            if task is None or not task.state.is_final:
                continue
            flight.landed = True
            self._closing.pop(flight.task_id, None)
            if self._flights.get(flight.step.key) is not flight or flight.decided:
                continue
            if self._may_come_late(flight, task):
                self._ended.add(flight.task_id)
            elif flight.run_again and self._has_died(task):
                del self._flights[flight.step.key]
                self._run_again(flight.step, flight.run_again)
            else:
                kind = WorkerLostError if self._has_died(task) else None
                self._decide(flight, _error(_silent_end(flight, task), kind))

    def _say_cut_off(self, silent: Sequence[StepInFlight], known: Mapping[str, Task]) -> None:
        """Say which steps were cut off, where rows of the log may become visible late.

        This event has a higher id than what they have written: should the database still be at work
        on that, it is missing below.
        """
        cut_off = [
            flight.step.key
            for flight in silent
            if flight.silent_since is None and _is_cut_off(known.get(flight.task_id))
        ]
        if cut_off and self._tail.may_miss_rows:
            self._say(f"The processes of some steps have ended: {', '.join(cut_off)}.")

    def _may_come_late(self, flight: StepInFlight, task: Task) -> bool:
        """Whether the end of a step, whose task has ended, may still come into the log.

        A task that has returned has written it. One that was cut off may have been writing it, and
        the database goes on with that alone.
        """
        now = time.monotonic()
        if flight.silent_since is None:
            flight.silent_since, flight.awaited = now, self._tail.missing
        flight.awaited &= self._tail.missing
        expected = bool(flight.awaited) if _is_cut_off(task) else task.state is TaskState.SUCCESS
        return expected and now - flight.silent_since < LATE_SECONDS

    def _has_died(self, task: Task) -> bool:
        """Whether a task ended because its worker or process did, and not by a fault of its own.

        A worker that is shut down by force, or finds that it has lost its lease, stops what it
        runs: then nobody has asked for that, and the run goes on.
        """
        stopped = task.state is TaskState.REVOKED and task.started_at > 0
        if not stopped or task.revoke_requested:
            return task.state is TaskState.LOST
        run = self._instance.get_run_by_id(self._run.run_id)
        return run is not None and not run.is_finished and run.status not in _CANCELLED

    def _decide(self, flight: StepInFlight, error: SerializableErrorInfo) -> None:
        """Write the failure, or the retry, of a step that cannot say for itself."""
        if flight.decided:
            return
        flight.decided = True
        context = self._context.for_step(flight.step)
        key = flight.step.key
        mode = self._options.settings.worker_lost
        if _is_lost(error) and mode is OnWorkerLost.RETRY and self._options.retries.enabled:
            self._lost_count[key] += 1
            if self._lost_count[key] <= LOST_RETRIES:
                DagsterEvent.step_retry_event(
                    context, StepRetryData(error=error, seconds_to_wait=None)
                )
                return
        state = self._active.get_known_state()
        self._options.report_error(context, error, state)

    # Steps out.

    def _launch(self, steps: Sequence[ExecutionStep]) -> None:
        flights = []
        for step in steps:
            task_id = self._task_id(step, self._incarnations.pop(step.key, 0))
            flights.append(StepInFlight(step, task_id, self._orders.queue_of(step)))
        self._flights.update((flight.step.key, flight) for flight in flights)
        self._send(flights)

    def _send(self, flights: Sequence[StepInFlight]) -> None:
        """Send steps, or keep those for later that the broker does not take."""
        self._unsent.update((flight.step.key, flight) for flight in flights)
        count, most = SENT_AT_ONCE
        while flights and self._send_together(flights[:count]):
            flights = flights[count:]
            count = min(2 * count, most)

    def _send_together(self, flights: Sequence[StepInFlight]) -> bool:
        """Send a few steps; return whether the broker has taken them."""
        state = self._active.get_known_state()
        orders = [self._orders.order(each.step, each.task_id, state) for each in flights]
        if self._reach(lambda: self._client.submit(*orders)) is None:
            return False
        for flight in flights:
            self._unsent.pop(flight.step.key, None)
        self._end_outage()
        # Said after the fact: while this is being written, workers already pick the tasks up.
        for flight, order in zip(flights, orders, strict=True):
            self._read.append(self._say_sent(flight, order))
        return True

    def _say_sent(self, flight: StepInFlight, order: TaskRequest) -> DagsterEvent:
        key = flight.step.key
        return DagsterEvent.step_worker_starting(
            self._context.for_step(flight.step),
            f'Sent step "{key}" to queue "{flight.queue}".',
            metadata={
                "queue": flight.queue,
                "priority": order.priority,
                "task_id": flight.task_id,
                "broker": redact(self._settings.broker),
            },
        )

    def _task_id(self, step: ExecutionStep, incarnation: int) -> str:
        attempt = self._active.retry_state.get_attempt_count(step.key)
        return self._orders.task_id(step, attempt, incarnation)

    # The time between.

    def _pause(self) -> float:
        if any(flight.silent_since is not None for flight in self._flights.values()):
            return LATE_LOOK_SECONDS
        retry_in: float = self._active.sleep_interval()
        return min(TICK_SECONDS, retry_in) if retry_in > 0 else TICK_SECONDS

    def _wait(self, timeout: float) -> None:
        if (here := self._client.in_process) is not None:
            self._run_one_here(here, timeout)
            return
        waiting = sum(not flight.begun for flight in self._flights.values())
        pause = min(MOST_PAUSE_SECONDS, PAUSE_SECONDS * waiting)
        _sleep(self._looked_at + pause - time.monotonic())
        mails = self._reach(
            lambda: self._client.wait(
                self._channel, self._cursor, timeout, interrupted=check_captured_interrupt
            )
        )
        if mails is None:
            _sleep(timeout)
            return
        self._looked_at = time.monotonic()
        for mail in mails:
            self._cursor = mail.cursor
            if "state" in mail.body:
                self._ended.add(str(mail.body["task"]))

    def _run_one_here(self, here: InProcessTasks, timeout: float) -> None:
        claimed = here.claim_in_process()
        if claimed is None:
            _sleep(timeout)
            return
        message, task = claimed
        with task_context(TaskContext("in process")):
            result = perform(here.broker, message)
        if result.error is not None:
            result.error = TaskFailedError(describe_failure(result.error))
        here.finish_in_process(task, result)
        self._ended.add(task.id)

    def _reach(self, call: Callable[[], T]) -> T | None:
        """Make a call to broker or backend; ``None`` while they are away.

        The run goes on: steps that are running write to the event log, and the log is read.

        Raises:
            ServerUnavailableError: they have been away for ``OUTAGE_SECONDS``.
        """
        try:
            answer = call()
        except ServerUnavailableError as error:
            now = time.monotonic()
            self._steady_since = now
            if self._away_since is None:
                self._away_since = now
                self._say(f"{error} Running steps go on; trying again until it answers.")
            elif now - self._away_since > OUTAGE_SECONDS:
                raise
            return None
        self._end_outage()
        return answer

    def _end_outage(self) -> None:
        """Say that broker and backend answer again, if they do.

        One whose disk is full, or who takes no writes for another reason, still lets itself be
        read: that is no answer for as long as there are steps that it does not take.
        """
        if self._away_since is not None and not self._unsent:
            away = time.monotonic() - self._away_since
            self._away_since = None
            self._say(f"Broker and backend answer again, after {away:.0f} s.")

    # Health.

    def _check_flights(self) -> None:
        """See, every few seconds, that every step in flight has somebody who works on it."""
        now = time.monotonic()
        since = now - self._checked_at
        interval = min(self._settings.heartbeat_interval, CHECK_SECONDS)
        if since < interval or self._client.in_process is not None:
            return
        self._checked_at = now
        if since > 3 * interval:
            # This process was frozen, and perhaps the whole machine: what looks silent may not
            # have had the time to speak yet.
            self._steady_since = now
        flights = {flight.task_id: flight for flight in self._flights.values()}
        ids = [*flights, *self._closing]
        if not ids:
            return
        found = self._reach(lambda: (self._client.tasks(ids), self._client.workers()))
        if found is None:
            return
        known, workers = found
        by_id = {worker.id: worker for worker in workers}
        for task_id, flight in {**flights, **self._closing}.items():
            if flight.step.key not in self._unsent:
                self._check_flight(flight, known.get(task_id), by_id)
        self._send_what_is_missing(known, workers)
        self._complain_of_unserved(known, workers)

    def _check_flight(
        self, flight: StepInFlight, task: Task | None, workers: Mapping[str, Worker]
    ) -> None:
        if task is None:
            self._check_unknown(flight, workers.values())
            return
        flight.unknown_since = None
        if task.state.is_final:
            self._ended.add(task.id)
        elif task.state is TaskState.STARTED:
            silence = self._silence_of(task.worker, workers.get(task.worker))
            if silence:
                # Recorded, it comes back as mail like any other end; unless the task ended by
                # itself meanwhile, which is what counts then.
                self._reach(lambda: self._client.mark_lost(task, silence))
                self._ended.add(task.id)

    def _check_unknown(self, flight: StepInFlight, workers: Iterable[Worker]) -> None:
        """Decide on a step of whose task the record has been lost.

        Whoever runs it puts the record back with the next heartbeat. Then it has begun before, and
        must not begin again, or it waits, and may be sent again: a task starts only once.
        """
        if any(each.runs(flight.task_id) for each in workers):
            flight.unknown_since = None
            return
        now = time.monotonic()
        if flight.unknown_since is None:
            flight.unknown_since = now
        if now - flight.unknown_since < self._settings.heartbeat_interval:
            return
        if flight.task_id in self._closing:
            self._ended.add(flight.task_id)
            return
        self._read_log([flight.step.key])
        if self._flights.get(flight.step.key) is not flight:
            return
        if not flight.begun:
            self._say(
                f'Sent step "{flight.step.key}" again: the broker has lost it.'
                f"{said_of_evictions(self._client, self._evictions)}"
            )
            flight.unknown_since = None
            self._send([flight])
        elif now - max(flight.unknown_since, self._steady_since) > self._settings.lease:
            self._give_up_unknown(flight)

    def _give_up_unknown(self, flight: StepInFlight) -> None:
        """End a step that has begun, and of which neither backend nor workers know any more."""
        why = (
            f"Its record has been lost, and no worker has said for {self._settings.lease:g} s that "
            f"it runs it.{said_of_evictions(self._client, self._evictions)}"
        )
        # Should it run all the same, it is stopped.
        self._reach(partial(self._client.revoke, [flight.task_id], why))
        flight.landed = True
        text = f'Step "{flight.step.key}" has begun, and did not end by itself. {why}'
        self._decide(flight, _error(text, WorkerLostError))

    def _send_what_is_missing(self, known: Mapping[str, Task], workers: Sequence[Worker]) -> None:
        """Send steps again of which the record says that they wait, and the broker has nothing.

        Somebody has emptied or deleted the queue, or the broker has lost what it had while the
        backend is elsewhere. What is only looked at twice, and while somebody is idle, may still
        be wrong; but a task that is sent twice starts once.
        """
        empty: dict[str, bool] = {}
        for flight in self._flights.values():
            queue = flight.queue
            task = known.get(flight.task_id)
            waits = task is not None and task.state is TaskState.WAITING
            if not waits or flight.step.key in self._unsent or not _has_idle(workers, queue):
                flight.missing = 0
                continue
            if queue not in empty:
                empty[queue] = bool(self._reach(partial(self._client.is_empty, queue)))
            flight.missing = flight.missing + 1 if empty[queue] else 0
            if flight.missing <= 1:
                continue
            flight.missing = 0
            if flight.sent_again >= LOST_RETRIES:
                # It comes back as mail that the task has ended.
                self._reach(partial(self._client.revoke, [flight.task_id], _never_taken(flight)))
                continue
            self._say(
                f'Sent step "{flight.step.key}" again: its message is not in queue "{queue}".'
            )
            flight.sent_again += 1
            self._send([flight])

    def _silence_of(self, worker_id: str, worker: Worker | None) -> str:
        """Return why a worker counts as lost, or nothing while it does not."""
        now = time.monotonic()
        if worker is None:
            # It may be about to beat for the first time since the backend lost its data.
            absent_since = self._absent_since.setdefault(worker_id, now)
            if now - max(absent_since, self._steady_since) <= self._settings.lease:
                return ""
            return "The worker that ran it is not there any more."
        self._absent_since.pop(worker_id, None)
        steady = now - self._steady_since
        if not worker.is_lost or steady <= 2 * self._settings.heartbeat_interval:
            return ""
        return worker.silence

    def _complain_of_unserved(self, known: Mapping[str, Task], workers: Sequence[Worker]) -> None:
        """Say which queues hold steps of this run that no worker will ever take."""
        waiting: dict[str, list[float]] = {}
        for flight in self._flights.values():
            task = known.get(flight.task_id)
            if task is not None and task.state is TaskState.WAITING:
                waiting.setdefault(flight.queue, []).append(flight.since)
        broker = redact(self._settings.broker)
        for complaint in self._unserved.complaints(waiting, workers, broker):
            self._say(complaint)

    # Ends.

    def _interrupt(self) -> Iterator[DagsterEvent]:
        """Stop the steps in flight, unless the run will be resumed and they with it."""
        self._active.mark_interrupted()
        run = self._instance.get_run_by_id(self._run.run_id)
        is_cancelled = run is None or run.status in _CANCELLED or run.is_finished
        wanted = is_cancelled or self._was_revoked()
        if not wanted and self._instance.run_will_resume(self._run.run_id):
            self._say(
                "The executor was interrupted. The steps in flight go on, since the run will be "
                f"resumed: {', '.join(self._flights) or 'none'}."
            )
            return
        # A step that has ended may still be at work: it tears its resources down, or runs hooks.
        closing = [flight.step.key for flight in self._closing.values()]
        going = [*self._flights, *closing]
        DagsterEvent.engine_event(
            self._context,
            "The executor was interrupted: cancelling the steps that wait, and stopping those "
            f"that run: {', '.join(going) or 'none'}.",
            EngineEventData.interrupted(going),
        )
        task_ids = [*self._in_flight, *self._closing]
        self._stop(task_ids, "the run was interrupted")
        workers = self._reach(self._client.workers) or ()
        deadline = time.monotonic() + stopping_seconds(workers, self._settings.lease)
        custom = self._custom_steps(task_ids)
        if custom and is_cancelled:
            deadline += CUSTOM_STEP_SECONDS
        elif custom:
            # They end when they see that the run is not STARTED any more. Nobody has said so yet,
            # and it is said as soon as this loop ends.
            self._say(f"Not waiting for what ends with its run: {', '.join(custom.values())}.")
            self._ended.update(custom)
            self._forget_ended()
        while (self._flights or self._closing) and time.monotonic() < deadline:
            # Another request to end says nothing new, and would keep this from waiting.
            self._active.check_for_interrupts()
            self._wait(TICK_SECONDS)
            self._read_log()
            self._forget_ended()
            self._check_flights()
        still = f" Still not stopped: {', '.join(self._flights)}." if self._flights else ""
        self._say(f"What had not started was revoked.{still}")
        self._close_channel()
        self._read_log()
        yield from self._take_read()
        # Steps that failed as they were stopped are not why the run ends.
        raise DagsterExecutionInterruptedError

    def _custom_steps(self, task_ids: Sequence[str]) -> dict[str, str]:
        """Return the steps of those tasks that are not ours, and only watch what runs elsewhere."""
        known = self._reach(lambda: self._client.tasks(task_ids)) if task_ids else None
        return {
            task.id: task.step_key
            for task in (known or {}).values()
            if is_custom_step(task.name, task.step_key)
        }

    def _was_revoked(self) -> bool:
        """Whether somebody has revoked the task that executes this run, if one does."""
        task_id = tags.read_tag(self._run.tags, tags.TASK_ID_TAG) or ""
        known = self._reach(lambda: self._client.tasks([task_id])) if task_id else None
        task = (known or {}).get(task_id)
        return task is not None and task.revoke_requested

    def _forget_ended(self) -> None:
        """Drop what has ended; of an interrupted run nobody asks any more how.

        What was killed cannot have said so, and its slot is freed here.
        """
        for task_id in self._ended:
            self._closing.pop(task_id, None)
        for key in [key for key, each in self._flights.items() if each.task_id in self._ended]:
            del self._flights[key]
            self._pools.free_step(key)
        self._ended.clear()

    @property
    def _in_flight(self) -> list[str]:
        """The tasks of the steps in flight."""
        return [flight.task_id for flight in self._flights.values()]

    def _stop(self, task_ids: Sequence[str], reason: str) -> None:
        if not task_ids:
            return
        try:
            self._client.revoke(task_ids, reason)
            known = self._client.tasks(task_ids)
        except ServerUnavailableError as error:
            # What waits will find, before it starts, that its run has ended.
            self._say(f"Could not stop the steps in flight: {error}")
            return
        # What had not started never will, and the next run may have its slot.
        for flight in self._flights.values():
            task = known.get(flight.task_id)
            if task is not None and task.state.is_final:
                self._pools.free_step(flight.step.key)

    def _close(self) -> Iterator[DagsterEvent]:
        """Wait for tasks that still run hooks and close logs after their step's last event."""
        deadline = time.monotonic() + CLOSING_SECONDS
        while self._closing and time.monotonic() < deadline:
            if self._active.check_for_interrupts():
                yield from self._interrupt()
                return
            self._wait(TICK_SECONDS)
            self._check_flights()
            self._settle_ended()
        self._close_channel()
        self._read_log()
        yield from self._take_read()

    def _close_channel(self) -> None:
        """Leave no mail behind, now that none is to come; what is missed here expires."""
        with suppress(ServerUnavailableError):
            self._client.close_channel(self._channel)

    # Resuming.

    def _resume(self) -> None:
        """Rebuild the run from its events; go on with the steps that are alive."""
        self._say("Resuming the run: rebuilding its state from the event log.")
        past = self._tail.read()
        for tailed in past:
            self._note_end(tailed)
        self._lost_count.update(_lost_before([tailed.event for tailed in past]))
        flying = replay(past, self._context, self._active, self._pools)
        self._read += [tailed.event for tailed in past]
        workers = {worker.id: worker for worker in self._client.workers()}
        began = {begun_task(tailed.event) for tailed in past}
        for step in flying.values():
            self._adopt(step, workers, began)

    def _run_again(self, step: ExecutionStep, why: str) -> None:
        self._say(f'Step "{step.key}" is run again: {why}.', step)
        self._unclaimed[step.key] = step

    def _adopt(
        self, step: ExecutionStep, workers: Mapping[str, Worker], began: Collection[str]
    ) -> None:
        """Go on with a step's last task as if this loop had sent it; send the step without one.

        What has ended between the look at the log and the look at its task has its end in the log;
        the loop looks for it there before it runs the step again.

        Args:
            step: which one.
            workers: all that are known, by id.
            began: the tasks that have begun, as the log has it.
        """
        task: Task | None = None
        for incarnation in itertools.count():
            task_id = self._task_id(step, incarnation)
            known = self._client.tasks([task_id]).get(task_id)
            if known is None and task_id in began:
                # Its record has been lost; whoever runs it puts it back.
                known = Task(task_id, queue=self._orders.queue_of(step), state=TaskState.STARTED)
            if known is None:
                self._incarnations[step.key] = incarnation
                break
            task = known
        if task is None:
            self._say(f'Step "{step.key}" is sent anew: nothing is known of a task of it.', step)
            self._unclaimed[step.key] = step
            return
        begun = task.state is not TaskState.WAITING
        flight = StepInFlight(step, task.id, task.queue, begun=begun)
        self._flights[step.key] = flight
        worker = workers.get(task.worker)
        if task.state is TaskState.STARTED and worker is not None and worker.is_lost:
            flight.run_again = "its worker was lost"
            # Unless it has ended by itself, this moment.
            self._client.mark_lost(task, "its worker was lost before the run was resumed")
            self._ended.add(task.id)
        elif task.state.is_final:
            flight.run_again = "its worker or process died without the run"
            self._ended.add(task.id)
        else:
            self._say(f'Step "{step.key}" is {task.state.value}: going on with it.', step)

    def _claim_for_resumed(self) -> None:
        """Send the steps that a resumed run has to run, as their pools have slots for them."""
        for key, step in list(self._unclaimed.items()):
            pool = pool_of(step)
            if pool is None or self._pools.claim(pool, key):
                del self._unclaimed[key]
                self._launch([step])

    def _say(self, text: str, step: ExecutionStep | None = None) -> None:
        context = self._context.for_step(step) if step is not None else self._context
        DagsterEvent.engine_event(context, text, EngineEventData())


def stopping_seconds(workers: Sequence[Worker], lease: float) -> float:
    """Return how many seconds stopped steps may take to be gone, whatever they do.

    Args:
        workers: those that may run them; each says what grace it gives. Where none is known, it is
            a worker's default.
        lease: after how many seconds a worker that is lost meanwhile is noticed.
    """
    graces = [worker.kill_grace for worker in workers if not worker.is_lost]
    return max([lease, *(graces or [KILL_GRACE_SECONDS])]) + STOPPING_SECONDS


#: A run that somebody asked to end.
_CANCELLED = (DagsterRunStatus.CANCELING, DagsterRunStatus.CANCELED)


def _error(text: str, kind: type[Exception] | None = None) -> SerializableErrorInfo:
    return SerializableErrorInfo(message=text, stack=[], cls_name=kind.__name__ if kind else None)


def _is_lost(error: SerializableErrorInfo | None) -> bool:
    """Whether an error, also one read from the log, says that a worker or process died."""
    return error is not None and error.cls_name == WorkerLostError.__name__


def _lost_before(past: Sequence[DagsterEvent]) -> Iterator[str]:
    """Yield the step of each retry of which the log says that a worker or process had died."""
    for event in past:
        if event.is_step_up_for_retry and _is_lost(event.step_retry_data.error):
            yield str(event.step_key)


def _is_cut_off(task: Task | None) -> bool:
    """Whether a task's process was ended from outside, in the middle of whatever it did."""
    if task is None:
        return False
    stopped = task.state is TaskState.REVOKED and task.started_at > 0
    return stopped or task.state is TaskState.LOST


def _silent_end(flight: StepInFlight, task: Task) -> str:
    why = task.error or "Its task ended, and there is no end of the step in the event log."
    why = why[:1].upper() + why[1:]
    return f'Step "{flight.step.key}" did not end by itself ({task.state.value}). {why}'


def _never_taken(flight: StepInFlight) -> str:
    return (
        f"It was sent {flight.sent_again + 1} times, and each time its message has gone from queue "
        f'"{flight.queue}" and no worker has started it. A worker that cannot read a message says '
        "why in its log, and sets it aside."
    )


def _sleep(seconds: float) -> None:
    """Sleep, but not through an interrupt."""
    deadline = time.monotonic() + seconds
    while not check_captured_interrupt() and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, SLICE_SECONDS))


def _has_idle(workers: Sequence[Worker], queue: str) -> bool:
    """Whether somebody serves a queue and has a slot free."""
    return any(
        queue in worker.queues and not worker.is_lost and worker.busy_slots < worker.concurrency
        for worker in workers
    )
