"""Steps that wait, as the backend has it, and whose messages are not in their queue."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial

from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.runs.servers import Servers
from dagster_taskiq.runs.steps_in_flight import StepInFlight, StepsInFlight
from dagster_taskiq.wire.records import Task, TaskState, Worker

#: How often a step is sent again because its message is missing, before it fails.
MOST_RESENDS = 3


class LostMessages:
    """Sends steps again whose messages the broker has lost.

    Someone has emptied or deleted the queue, or the broker has lost its data while the backend,
    which is another server, has not. A message counts as missing if two checks in a row found its
    queue empty while a worker of that queue was idle. Should that be wrong, nothing is done twice:
    a task that is sent twice starts once.
    """

    def __init__(
        self,
        servers: Servers,
        steps: StepsInFlight,
        *,
        report: Callable[[str], None],
        send: Callable[[Sequence[StepInFlight]], None],
    ) -> None:
        """Look at nothing yet.

        Args:
            servers: broker and backend.
            steps: the steps in flight.
            report: writes sentences into the event log of the run.
            send: sends steps again.
        """
        self._servers = servers
        self._steps = steps
        self._report = report
        self._send = send

    def check(self, tasks: Mapping[str, Task], workers: Sequence[Worker]) -> None:
        """Look whether the messages of waiting steps are there, and send missing ones again.

        Args:
            tasks: the records of the tasks of the steps in flight, by id.
            workers: all that are known.

        Raises:
            ServerUnavailableError: as :meth:`Servers.call`.
        """
        is_empty: dict[str, bool] = {}
        has_idle = cache(partial(_has_idle_worker, workers))
        for step in self._steps:
            queue = step.queue
            task = tasks.get(step.task_id)
            waits = task is not None and task.state is TaskState.WAITING
            if not waits or self._steps.is_unsent(step) or not has_idle(queue):
                step.times_missing = 0
                continue
            if queue not in is_empty:
                is_empty[queue] = self._is_empty(queue)
            step.times_missing = step.times_missing + 1 if is_empty[queue] else 0
            if step.times_missing > 1:
                step.times_missing = 0
                self._send_again(step)

    def _is_empty(self, queue: str) -> bool:
        """Ask the broker; one that does not answer has not lost the messages.

        That is no outage for the run, which has nothing to send now. It would be taken for over as
        soon as the backend answers, if that is another server, and be reported again at each check.
        """
        try:
            return self._servers.client.is_empty(queue)
        except ServerUnavailableError:
            return False

    def _send_again(self, step: StepInFlight) -> None:
        if step.times_resent >= MOST_RESENDS:
            # A notification follows that the task has ended, and the step fails for this reason.
            reason = _describe_resends(step)
            self._servers.call(lambda client: client.revoke([step.task_id], reason))
            return
        self._report(f'Sent step "{step.key}" again: its message is not in queue "{step.queue}".')
        step.times_resent += 1
        self._send([step])


def _describe_resends(step: StepInFlight) -> str:
    return (
        f"It was sent {step.times_resent + 1} times, and each time its message has gone from queue "
        f'"{step.queue}" and no worker has started it. A worker that cannot read a message logs '
        "why, and rejects it."
    )


def _has_idle_worker(workers: Sequence[Worker], queue: str) -> bool:
    """Return whether a worker that serves a queue has a free slot."""
    return any(
        queue in worker.queues and not worker.is_lost and worker.busy_slots < worker.concurrency
        for worker in workers
    )
