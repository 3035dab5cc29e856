"""Sending steps to the broker."""

from collections.abc import Sequence

from dagster._core.execution.plan.active import ActiveExecution
from dagster._core.execution.plan.step import ExecutionStep

from dagster_taskiq.runs.run_log import RunLog
from dagster_taskiq.runs.servers import Servers
from dagster_taskiq.runs.step_requests import StepRequests
from dagster_taskiq.runs.steps_in_flight import StepInFlight, StepsInFlight
from dagster_taskiq.tracing.span import NO_SPAN, Span

#: How many steps are sent with one call: of many steps, at first this many, so that workers have
#: something to do soon, then twice as many each time, up to the second number.
BATCH_SIZES = (20, 160)


class StepSender:
    """Sends the steps of one run, and keeps those that the broker does not take for later."""

    def __init__(
        self,
        servers: Servers,
        requests: StepRequests,
        active: ActiveExecution,
        steps: StepsInFlight,
        log: RunLog,
        broker: str,
        span: Span = NO_SPAN,
    ) -> None:
        """Send nothing yet.

        Args:
            servers: broker and backend.
            requests: makes what is sent.
            active: the state of the run, as Dagster has it.
            steps: the steps in flight.
            log: the run's event log.
            broker: URL of the broker, without its password, for the event of each step.
            span: that of the run, if this process has one for it.
        """
        self._span = span
        self._servers = servers
        self._requests = requests
        self._active = active
        self._steps = steps
        self._log = log
        self._broker = broker

    def launch(self, execution_steps: Sequence[ExecutionStep], incarnation: int = 0) -> None:
        """Send the current attempt at each of some steps, and count it as in flight.

        Args:
            execution_steps: the steps.
            incarnation: how many tasks of these attempts have died with their workers.

        Raises:
            ServerUnavailableError: as :meth:`Servers.call`.
        """
        steps = [
            StepInFlight(
                step,
                self.task_id(step, incarnation),
                self._requests.queue_of(step),
                incarnation,
            )
            for step in execution_steps
        ]
        self._steps.add(*steps)
        self.send(steps)

    def send(self, steps: Sequence[StepInFlight]) -> None:
        """Send steps that are in flight, the first time or again.

        Those that the broker does not take wait for :meth:`send_unsent`.

        Raises:
            ServerUnavailableError: as :meth:`Servers.call`.
        """
        self._steps.mark_unsent(*steps)
        size, most = BATCH_SIZES
        while steps and self._send_batch(steps[:size]):
            steps = steps[size:]
            size = min(2 * size, most)

    def send_unsent(self) -> None:
        """Send what the broker has not taken so far.

        Raises:
            ServerUnavailableError: as :meth:`Servers.call`.
        """
        self.send(self._steps.unsent)

    def task_id(self, step: ExecutionStep, incarnation: int = 0) -> str:
        """Return the id of the task of the current attempt at a step.

        Args:
            step: the step.
            incarnation: how many tasks of this attempt have died with their workers.
        """
        attempt = self._active.retry_state.get_attempt_count(step.key)
        return self._requests.task_id(step, attempt, incarnation)

    def report_sent(self, step: StepInFlight) -> None:
        """Write that a step was sent, where that was not written when it was.

        The steps of a run that is stopped are found by these events.
        """
        priority = self._requests.priority_of(step.execution_step)
        self._log.report_sent(step, priority, self._broker)

    def _send_batch(self, steps: Sequence[StepInFlight]) -> bool:
        """Send steps with one call; return whether the broker has taken them."""
        state = self._active.get_known_state()
        requests = [self._requests.make(step.execution_step, step.task_id, state) for step in steps]
        with self._span.attached():
            if self._servers.call(lambda client: client.submit(*requests)) is None:
                return False
        self._steps.mark_sent(*steps)
        self._servers.end_outage()
        # Written after the steps were sent: meanwhile, workers already start them.
        for step, request in zip(steps, requests, strict=True):
            self._log.report_sent(step, request.priority, self._broker)
        return True
