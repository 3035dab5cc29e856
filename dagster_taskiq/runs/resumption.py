"""Going on with a run that another process has begun."""

import itertools
from collections.abc import Collection, Mapping

from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.active import ActiveExecution
from dagster._core.execution.plan.step import ExecutionStep

from dagster_taskiq.execution.pool_slots import pool_of
from dagster_taskiq.execution.task_beginnings import begun_task, sent_task
from dagster_taskiq.runs.outcomes import Outcomes
from dagster_taskiq.runs.replay import Pools, replay
from dagster_taskiq.runs.run_log import RunLog
from dagster_taskiq.runs.sending import StepSender
from dagster_taskiq.runs.step_client import StepClient
from dagster_taskiq.runs.step_requests import StepRequests
from dagster_taskiq.runs.steps_in_flight import StepInFlight, StepsInFlight
from dagster_taskiq.wire.records import Task, TaskState, Worker


class Resumption:
    """Takes the steps over that were in flight, and runs those again that have died."""

    def __init__(
        self,
        context: PlanOrchestrationContext,
        active: ActiveExecution,
        pools: Pools,
        client: StepClient,
        requests: StepRequests,
        steps: StepsInFlight,
        log: RunLog,
        sender: StepSender,
        outcomes: Outcomes,
    ) -> None:
        """Resume nothing yet.

        Args:
            context: Dagster's context of the run.
            active: the state of the run, as Dagster has it.
            pools: the run's claims on Dagster's concurrency pools.
            client: the connection to broker and backend.
            requests: knows the queue of a step.
            steps: the steps in flight.
            log: the run's event log.
            sender: sends steps.
            outcomes: counts how often workers were lost.
        """
        self._context = context
        self._active = active
        self._pools = pools
        self._client = client
        self._requests = requests
        self._steps = steps
        self._log = log
        self._sender = sender
        self._outcomes = outcomes
        #: Steps that still need a slot of their pool before they are sent, by key.
        self._unclaimed: dict[str, ExecutionStep] = {}
        #: How many tasks there have been of the attempt at each step taken over or sent again, by
        #: key.
        self._incarnations: dict[str, int] = {}

    def resume(self) -> None:
        """Rebuild the run from its events, and take over the steps that were in flight.

        Raises:
            ServerUnavailableError: broker or backend does not answer.
        """
        self._log.report("Resuming the run: rebuilding its state from the event log.")
        past = self._log.read_past()
        self._outcomes.count_past_losses([tailed.event for tailed in past])
        in_flight = replay(past, self._context, self._active, self._pools)
        workers = {worker.id: worker for worker in self._client.workers()}
        begun = {begun_task(tailed.event) for tailed in past}
        sent = {sent_task(tailed.event) for tailed in past}
        for step in in_flight.values():
            self._take_over(step, workers, begun, sent)

    def run_again(self, step: StepInFlight, why: str) -> None:
        """Send a step again whose task has died with its worker before the run was resumed.

        Args:
            step: the step; it is not in flight any more.
            why: what happened, as a part of a sentence.
        """
        self._log.report(f'Step "{step.key}" is run again: {why}.', step.execution_step)
        self._send_next(step)

    def watch_again(self, step: StepInFlight, why: str) -> None:
        """Send a step again whose task only watched it, and has died with its worker.

        Args:
            step: the step; it is not in flight any more, but goes on elsewhere.
            why: what happened, in a sentence.
        """
        text = f'Step "{step.key}" goes on without its task, and another one will watch it. {why}'
        self._log.report(text, step.execution_step)
        self._send_next(step)

    def _send_next(self, step: StepInFlight) -> None:
        self._unclaimed[step.key] = step.execution_step
        self._incarnations[step.key] = step.incarnation + 1

    def send_claimed(self) -> None:
        """Send the steps that are to be run again and for which their pools have slots.

        Raises:
            ServerUnavailableError: as :meth:`Servers.call`.
        """
        for key, step in list(self._unclaimed.items()):
            pool = pool_of(step)
            if pool is None or self._pools.claim(pool, key):
                del self._unclaimed[key]
                self._sender.launch([step], self._incarnations[key])

    def _take_over(
        self,
        step: ExecutionStep,
        workers: Mapping[str, Worker],
        begun: Collection[str],
        sent: Collection[str],
    ) -> None:
        """Go on with a step's last task as if this loop had sent it; if there is none, send one.

        A task may have ended after the log was read, and the end of its step is in the log then:
        the loop looks for it there before it runs the step again.

        Args:
            step: the step.
            workers: all that are known, by id.
            begun: the ids of the tasks that have begun, as the log has it.
            sent: the ids of those that were sent.
        """
        task = self._last_task(step, begun)
        if task is None:
            self._log.report(
                f'Step "{step.key}" is sent anew: nothing is known of a task of it.', step
            )
            self._pools.count_as_pending(step.key)
            self._unclaimed[step.key] = step
            return
        has_begun = task.state is not TaskState.WAITING
        incarnation = self._incarnations[step.key] - 1
        in_flight = StepInFlight(
            step,
            task.id,
            task.queue,
            incarnation,
            sent_reported=task.id in sent,
            begun=has_begun,
        )
        self._steps.add(in_flight)
        if not in_flight.sent_reported:
            self._sender.report_sent(in_flight)
        worker = workers.get(task.worker)
        if task.state is TaskState.STARTED and worker is not None and worker.is_lost:
            in_flight.rerun_reason = "its worker was lost"
            # Has no effect if the task has ended meanwhile.
            self._client.mark_lost(task, "its worker was lost before the run was resumed")
            self._steps.report_task_end(task.id)
        elif task.state.is_final:
            in_flight.rerun_reason = "its worker or process died without the run"
            self._steps.report_task_end(task.id)
        else:
            self._log.report(f'Step "{step.key}" is {task.state.value}: going on with it.', step)

    def _last_task(self, step: ExecutionStep, begun: Collection[str]) -> Task | None:
        """Return the last task of the current attempt at a step, and note how many there were."""
        last: Task | None = None
        for incarnation in itertools.count():
            task_id = self._sender.task_id(step, incarnation)
            task = self._client.tasks([task_id]).get(task_id)
            if task is None and task_id in begun:
                # The record has been lost; a worker that runs the task puts it back.
                queue = self._requests.queue_of(step)
                task = Task(task_id, queue=queue, state=TaskState.STARTED)
            if task is None:
                self._incarnations[step.key] = incarnation
                return last
            last = task
        raise AssertionError("unreachable")
