"""Stopping the steps of a run: because it was interrupted, or because its loop has failed."""

import time
from collections.abc import Callable, Sequence

from dagster import DagsterEvent, DagsterInstance, DagsterRunStatus
from dagster._core.events import EngineEventData
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.active import ActiveExecution

from dagster_taskiq import tags
from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.runs.replay import Pools
from dagster_taskiq.runs.run_log import RunLog
from dagster_taskiq.runs.sending import StepSender
from dagster_taskiq.runs.servers import Servers
from dagster_taskiq.runs.steps_in_flight import StepInFlight, StepsInFlight
from dagster_taskiq.wire.labels import CUSTOM_STEP_SECONDS, KILL_GRACE_SECONDS
from dagster_taskiq.wire.records import Task, TaskState, Worker
from dagster_taskiq.wire.task_names import is_custom_step
from dagster_taskiq.wire.watching_tasks import is_to_end_its_step, watches_a_step

#: How long stopped tasks may take to end beyond the grace period of their workers, or beyond the
#: lease if their worker is lost meanwhile, in seconds.
STOPPING_SECONDS = 30.0


class Stopping:
    """Stops the steps of one run."""

    def __init__(
        self,
        context: PlanOrchestrationContext,
        active: ActiveExecution,
        pools: Pools,
        servers: Servers,
        steps: StepsInFlight,
        log: RunLog,
        sender: StepSender,
        lease: float,
    ) -> None:
        """Stop nothing yet.

        Args:
            context: Dagster's context of the run.
            active: the state of the run, as Dagster has it.
            pools: the run's claims on Dagster's concurrency pools.
            servers: broker and backend.
            steps: the steps in flight.
            log: the run's event log.
            sender: sends tasks to end what nobody watches any more.
            lease: after how many seconds without a heartbeat a worker is lost.
        """
        self._context = context
        self._active = active
        self._pools = pools
        self._servers = servers
        self._steps = steps
        self._log = log
        self._sender = sender
        self._lease = lease

    def stop_in_flight(self, reason: str) -> None:
        """Cancel the steps in flight, and do not wait until they have ended.

        Args:
            reason: for logs, as a part of a sentence.
        """
        self._stop(self._steps.task_ids, reason)

    def interrupt(self, follow: Callable[[], None]) -> bool:
        """Stop all steps and wait until they have ended, unless the run will be resumed.

        Args:
            follow: waits up to a second, and learns what is new of the run and of its tasks.

        Returns:
            ``False`` if the run will be resumed: then its steps go on.

        Raises:
            ServerUnavailableError: as :meth:`Servers.call`.
        """
        self._active.mark_interrupted()
        instance, run_id = self._context.instance, self._context.run_id
        is_cancelled = is_cancelled_or_ended(instance, run_id)
        if not is_cancelled and not self._was_revoked() and instance.run_will_resume(run_id):
            self._log.report(
                "The executor was interrupted. The steps in flight go on, since the run will be "
                f"resumed: {', '.join(self._steps.keys) or 'none'}."
            )
            return False
        # A step that has ended may still be at work: it tears its resources down, or runs hooks.
        steps = [*self._steps, *self._steps.finalizing]
        keys = [step.key for step in steps]
        DagsterEvent.engine_event(
            self._context,
            "The executor was interrupted: cancelling the steps that wait, and stopping those "
            f"that run: {', '.join(keys) or 'none'}.",
            EngineEventData.interrupted(keys),
        )
        task_ids = [step.task_id for step in steps]
        self._stop(task_ids, "the run was interrupted")
        self._wait_for(task_ids, follow, is_cancelled=is_cancelled)
        running = self._steps.keys
        still = f" Still not stopped: {', '.join(running)}." if running else ""
        self._log.report(f"What had not started was revoked.{still}")
        return True

    def _stop(self, task_ids: Sequence[str], reason: str) -> None:
        if not task_ids:
            return
        client = self._servers.client
        try:
            left = [task for task in client.tasks(task_ids).values() if is_to_end_its_step(task)]
            left_ids = {task.id for task in left}
            client.revoke([each for each in task_ids if each not in left_ids], reason)
            tasks = client.tasks(task_ids)
        except ServerUnavailableError as error:
            # A task that waits finds, before it starts, that its run has ended.
            self._log.report(f"Could not stop the steps in flight: {error}")
            return
        # What had not started never will, and the next run may have its slot.
        for step in self._steps:
            task = tasks.get(step.task_id)
            if task is not None and task.state.is_final:
                self._pools.free_step(step.key)
        for task in left:
            self._log.report(_describe_left(task.step_key, task.queue))
            self._steps.report_task_end(task.id)  # it is not waited for

    def _wait_for(
        self, task_ids: Sequence[str], follow: Callable[[], None], *, is_cancelled: bool
    ) -> None:
        self._drop_ended()
        workers = self._servers.call(lambda client: client.workers()) or ()
        deadline = time.monotonic() + stopping_seconds(workers, self._lease)
        custom = self._custom_steps(task_ids)
        if custom and is_cancelled:
            deadline += CUSTOM_STEP_SECONDS
        elif custom:
            # They end when they see that the run is not STARTED any more, which Dagster records
            # only when this loop has ended.
            keys = ", ".join(custom.values())
            self._log.report(f"Not waiting for steps that end after their run: {keys}.")
            for task_id in custom:
                self._steps.report_task_end(task_id)
            self._drop_ended()
        while (self._steps or self._steps.finalizing) and time.monotonic() < deadline:
            # A second interrupt asks for nothing new, and would keep `follow` from waiting.
            self._active.check_for_interrupts()
            follow()
            self._drop_ended()

    def _drop_ended(self) -> None:
        """Forget the steps whose tasks have ended, and free their slots in Dagster's pools.

        A process that was killed could not free the slot itself.
        """
        dropped = self._steps.drop_ended()
        for step in dropped:
            self._pools.free_step(step.key)
        self._end_unwatched(dropped)

    def _end_unwatched(self, dropped: Sequence[StepInFlight]) -> None:
        """Send a task to end each step whose task watched it, and has died with its worker."""
        task_ids = [step.task_id for step in dropped]
        tasks = self._servers.call(lambda client: client.tasks(task_ids)) if task_ids else None
        for step in dropped:
            task = (tasks or {}).get(step.task_id)
            if task is not None and watches_a_step(task) and has_died(task):
                self._sender.launch([step.execution_step], step.incarnation + 1)
                self._log.report(_describe_left(step.key, step.queue), step.execution_step)
                # Nobody waits for it. It finds that the run is over, whenever it starts.
                for sent in [each for each in self._steps if each.key == step.key]:
                    self._steps.mark_sent(sent)
                    self._steps.remove(sent)

    def _custom_steps(self, task_ids: Sequence[str]) -> dict[str, str]:
        """Return the keys, by task id, of steps whose tasks are a library's own.

        Such a task only watches what runs elsewhere.
        """
        if not task_ids:
            return {}
        tasks = self._servers.call(lambda client: client.tasks(task_ids)) or {}
        return {
            task.id: task.step_key
            for task in tasks.values()
            if is_custom_step(task.name, task.step_key)
        }

    def _was_revoked(self) -> bool:
        """Return whether someone has revoked the task that executes this run, if one does."""
        task_id = tags.read_tag(self._context.dagster_run.tags, tags.TASK_ID_TAG)
        if not task_id:
            return False
        tasks = self._servers.call(lambda client: client.tasks([task_id])) or {}
        task = tasks.get(task_id)
        return task is not None and task.revoke_requested


def has_died(task: Task) -> bool:
    """Return whether a task ended because its worker or process did, and nobody has asked for it.

    A worker that is shut down by force, or finds that it has lost its lease, stops what it runs.
    """
    return task.state is TaskState.LOST or (task.was_stopped and not task.revoke_requested)


def _describe_left(step_key: str, queue: str) -> str:
    return (
        f'Nobody watches the container or Kubernetes Job of step "{step_key}" now: the next worker '
        f'of queue "{queue}" will end it. Its task is left in the queue for that.'
    )


def is_cancelled_or_ended(instance: DagsterInstance, run_id: str) -> bool:
    """Return whether a run is being cancelled, has ended, or was deleted."""
    run = instance.get_run_by_id(run_id)
    return run is None or run.is_finished or run.status is DagsterRunStatus.CANCELING


def stopping_seconds(workers: Sequence[Worker], lease: float) -> float:
    """Return how many seconds stopped steps may take to end, whatever they do.

    Args:
        workers: those that may run them, each with its grace period. If none is known, a worker's
            default counts.
        lease: after how many seconds a worker that is lost meanwhile is noticed.
    """
    graces = [worker.kill_grace for worker in workers if not worker.is_lost]
    return max([lease, *(graces or [KILL_GRACE_SECONDS])]) + STOPPING_SECONDS
