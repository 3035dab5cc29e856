"""The loop of a run whose steps are sent by a function of the executor's own."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

from dagster import DagsterEvent
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._grpc.types import ExecuteStepArgs
from dagster._serdes import unpack_value

from dagster_celery._celery_app import SENT_FOR, CeleryApp
from dagster_celery._celery_result import AsyncResult
from dagster_celery._door import door
from dagster_celery.make_app import make_app
from dagster_taskiq.client import Client, client_for
from dagster_taskiq.errors import TaskRevokedError
from dagster_taskiq.execution.perform import describe_failure
from dagster_taskiq.executor import TaskiqExecutor
from dagster_taskiq.runs.event_tail import ends_step
from dagster_taskiq.runs.run_loop import TICK_SECONDS, RunLoop
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.eviction import Eviction
from dagster_taskiq.wire.notifications import Notification
from dagster_taskiq.wire.records import Task, TaskState, Worker, end_notification
from dagster_taskiq.wire.task_request import TaskRequest

#: What executors of this kind mark the waiting of a step with, in Dagster's events.
DELEGATE_MARKER = "celery_queue_wait"

#: Sends a step: app, context, step, queue, priority, known state in; the result to come out.
StepExecutionFn = Callable[..., Any]

#: The worker, so to speak, of what a function has sent to where no worker of ours is.
_ELSEWHERE = Worker("elsewhere", "elsewhere", "", 0, (), 0, "", lease=1.0)
#: Seconds between two looks at results that do not say when they are ready.
_LOOK_SECONDS = 0.05


def core_celery_execution_loop(
    job_context: PlanOrchestrationContext,
    execution_plan: ExecutionPlan,
    step_execution_fn: StepExecutionFn,
) -> Iterator[DagsterEvent]:
    """Execute a plan, each step of which a function sends.

    Args:
        job_context: Dagster's context; its executor has ``app_args()``, for :func:`make_app`, and
            ``retries``.
        execution_plan: what to execute.
        step_execution_fn: called with the app, the context, the step, its queue, its priority and
            the state of the run, so far as it concerns the step. Returns the result of a task of
            the app; or anything with ``ready()``, ``get()`` and ``revoke()``. The step's events are
            read from Dagster's event log.

    Yields:
        The run's events, those of a step together when it has ended.

    Raises:
        as ``TaskiqExecutor.execute``, and whatever the function raises.
    """
    executor: Any = job_context.executor
    app = make_app(executor.app_args())
    open_client = partial(_submitting, app, job_context, execution_plan, step_execution_fn)
    ours = TaskiqExecutor(app.configuration.settings, executor.retries)
    return by_step(RunLoop(ours.run_options, job_context, execution_plan, open_client).events())


def by_step(events: Iterator[DagsterEvent]) -> Iterator[DagsterEvent]:
    """Hold back the events of a step until it has ended, as the original's loop does.

    Who reads the events of a run as it goes on may count on a step that has started having ended.
    """
    held: dict[str, list[DagsterEvent]] = {}
    ended: set[str] = set()
    try:
        for event in events:
            key = event.step_key
            if key is None or key in ended:
                yield event
                continue
            held.setdefault(key, []).append(event)
            if ends_step(event):
                yield from held.pop(key)
                # What comes of another attempt at it comes together as well.
                if not event.is_step_up_for_retry:
                    ended.add(key)
    except DagsterExecutionInterruptedError:
        yield from chain.from_iterable(held.values())
        raise
    yield from chain.from_iterable(held.values())


@dataclass
class _SubmittingClient:
    """A client whose tasks are sent by a function; all else is the client's own."""

    client: Client
    send: Callable[[TaskRequest], Any]
    #: The results, by task id, of what was sent elsewhere than to the client's broker.
    elsewhere: dict[str, Any] = field(default_factory=dict)
    #: Those that have ended, and how.
    ended: dict[str, Task] = field(default_factory=dict)
    #: Tasks that were sent together with one that could not be: the loop sends all of them again.
    sent_before: set[str] = field(default_factory=set)
    #: What is sent runs on workers, or has run when it is sent.
    in_process: None = None

    def submit(self, *orders: TaskRequest) -> list[str]:
        """Have tasks sent, one after the other, each under the id its order has.

        Where one of them fails, those before it are not sent again with it.

        Raises:
            Exception: whatever the function raises.
        """
        ids = [order.id for order in orders]
        for order in orders:
            if order.id not in self.elsewhere and order.id not in self.sent_before:
                self._send(order)
                self.sent_before.add(order.id)
        # What is asked for once more after this was lost on its way.
        self.sent_before.difference_update(ids)
        return ids

    def tasks(self, task_ids: Sequence[str]) -> dict[str, Task]:
        """Return what is known of tasks, here or elsewhere."""
        here = [each for each in task_ids if each not in self.elsewhere]
        known = self.client.tasks(here) if here else {}
        known.update({each: self._look(each) for each in task_ids if each in self.elsewhere})
        return known

    def workers(self) -> list[Worker]:
        """Return the workers, with one for what runs elsewhere, if anything does."""
        return [*self.client.workers(), *([_ELSEWHERE] if self.elsewhere else [])]

    def revoke(self, task_ids: Sequence[str], reason: str) -> None:
        """Cancel tasks, here or elsewhere."""
        for task_id in task_ids:
            if task_id in self.elsewhere:
                self.elsewhere[task_id].revoke()
        here = [each for each in task_ids if each not in self.elsewhere]
        if here:
            self.client.revoke(here, reason)

    def mark_lost(self, task: Task, error: str) -> bool:
        """Record that a task's worker is lost; none is of what runs elsewhere."""
        return self.client.mark_lost(task, error)

    def is_empty(self, queue: str) -> bool:
        """Return whether nothing of a queue of the client's waits."""
        return self.client.is_empty(queue)

    def evictions(self) -> dict[str, Eviction]:
        """Return how the client's servers delete what is theirs to keep."""
        return self.client.evictions()

    def close_channel(self, channel: str) -> None:
        """Delete the mail of a channel."""
        self.client.close_channel(channel)

    def wait(
        self, channel: str, after: str, timeout: float, interrupted: Callable[[], bool]
    ) -> list[Notification]:
        """Wait for mail, or for a result from elsewhere."""
        deadline = time.monotonic() + timeout
        while going := [each for each in self.elsewhere if each not in self.ended]:
            found = [task for each in going if (task := self._look(each)).state.is_final]
            if found:
                return [Notification(after, end_notification(task, task.state)) for task in found]
            left = deadline - time.monotonic()
            if left <= 0 or interrupted():
                return []
            mails = self.client.wait(channel, after, min(_LOOK_SECONDS, left), interrupted)
            if mails:
                return mails
        return self.client.wait(channel, after, deadline - time.monotonic(), interrupted)

    def _send(self, order: TaskRequest) -> None:
        token = SENT_FOR.set(order)
        try:
            result = self.send(order)
        finally:
            SENT_FOR.reset(token)
        if not (isinstance(result, AsyncResult) and result.id == order.id):
            self.elsewhere[order.id] = result

    def _look(self, task_id: str) -> Task:
        if task_id in self.ended:
            return self.ended[task_id]
        result = self.elsewhere[task_id]
        state, text = TaskState.STARTED, ""
        if result.ready():
            state = TaskState.SUCCESS
            try:
                result.get()
            except TaskRevokedError as error:
                state, text = TaskState.REVOKED, str(error)
            except Exception as error:
                state, text = TaskState.FAILURE, describe_failure(error)
        task = Task(task_id, state=state, worker=_ELSEWHERE.id, started_at=1.0, error=text)
        if state.is_final:
            self.ended[task_id] = task
        return task


def _submitting(
    app: CeleryApp,
    context: PlanOrchestrationContext,
    plan: ExecutionPlan,
    step_execution_fn: StepExecutionFn,
    settings: Settings,
) -> _SubmittingClient:
    def send(order: TaskRequest) -> Any:
        packed = order.kwargs["execute_step_args_packed"]
        state = unpack_value(packed, as_type=ExecuteStepArgs).known_state
        step = plan.get_step_by_key(order.step_key)
        return step_execution_fn(app, context, step, order.queue, order.priority, state)

    return _SubmittingClient(client_for(settings), send)


__all__ = ["DELEGATE_MARKER", "TICK_SECONDS", "core_celery_execution_loop"]

door(__name__)
