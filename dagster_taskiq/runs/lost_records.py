"""Steps of whose tasks the backend has lost the record."""

import time
from collections.abc import Callable, Collection, Iterable, Sequence

from dagster_taskiq.runs.servers import Servers
from dagster_taskiq.runs.steps_in_flight import StepInFlight, StepsInFlight
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.wire.records import Worker


class LostRecords:
    """Decides what becomes of a step of whose task the backend has no record.

    A worker that runs the task puts the record back with its next heartbeat. If none does, the
    event log has the answer: a step that has begun must not begin again; a step that has not may be
    sent again, because a task starts only once.
    """

    def __init__(
        self,
        servers: Servers,
        steps: StepsInFlight,
        settings: Settings,
        *,
        update: Callable[[Collection[str]], None],
        report: Callable[[str], None],
        send: Callable[[Sequence[StepInFlight]], None],
        fail: Callable[[StepInFlight, str], None],
        describe_evictions: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Look at nothing yet.

        Args:
            servers: broker and backend.
            steps: the steps in flight.
            settings: with ``lease`` and ``heartbeat_interval``, in seconds.
            update: applies all events of some steps, by key, that are in the event log.
            report: writes sentences into the event log of the run.
            send: sends steps again.
            fail: writes that a step has ended with its worker; takes the reason, in sentences.
            describe_evictions: returns what the servers have deleted to make room, in sentences,
                with a space before each.
            clock: the time, in seconds from any start.
        """
        self._servers = servers
        self._steps = steps
        self._lease = settings.lease
        self._heartbeat_interval = settings.heartbeat_interval
        self._update = update
        self._report = report
        self._send = send
        self._fail = fail
        self._describe_evictions = describe_evictions
        self._clock = clock

    def check(self, step: StepInFlight, workers: Iterable[Worker]) -> None:
        """Deal with a step, in flight or finalizing, whose task has no record.

        Args:
            step: the step.
            workers: all that are known.

        Raises:
            ServerUnavailableError: as :meth:`Servers.call`.
        """
        if any(worker.runs(step.task_id) for worker in workers):
            step.unrecorded_since = None
            return
        now = self._clock()
        if step.unrecorded_since is None:
            step.unrecorded_since = now
        if now - step.unrecorded_since < self._heartbeat_interval:
            return
        if not self._steps.has(step):  # it is finalizing: its end is in the event log
            self._steps.report_task_end(step.task_id)
            return
        self._update([step.key])
        if not self._steps.has(step):
            return
        if not step.begun:
            self._report(
                f'Sent step "{step.key}" again: the broker has lost it.{self._describe_evictions()}'
            )
            step.unrecorded_since = None
            self._send([step])
        elif now - max(step.unrecorded_since, self._servers.observed_since) > self._lease:
            self._give_up(step)

    def _give_up(self, step: StepInFlight) -> None:
        """End a step that has begun, and of which neither backend nor workers know any more."""
        why = (
            f"Its record has been lost, and no worker has reported for {self._lease:g} s that it "
            f"runs it.{self._describe_evictions()}"
        )
        # If some worker does run it, it is stopped there.
        self._servers.call(lambda client: client.revoke([step.task_id], why))
        step.task_ended = True
        self._fail(step, f'Step "{step.key}" has begun, and has not ended. {why}')
