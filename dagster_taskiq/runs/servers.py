"""Broker and backend during a run, which may not answer for a while."""

import time
from collections.abc import Callable
from typing import TypeVar

from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.runs.step_client import StepClient
from dagster_taskiq.runs.steps_in_flight import StepsInFlight

T = TypeVar("T")

#: How long the loop goes on trying to reach a broker or backend that does not answer, in seconds.
OUTAGE_SECONDS = 600.0


class Servers:
    """Calls broker and backend, and lets the run go on while they do not answer.

    Steps that are running write to Dagster's event log, which the loop goes on reading.
    """

    def __init__(
        self,
        client: StepClient,
        steps: StepsInFlight,
        report: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Call nothing yet.

        Args:
            client: the connection to broker and backend.
            steps: the steps in flight, some of which may wait for the broker to answer.
            report: writes sentences into the event log of the run.
            clock: the time, in seconds from any start.
        """
        #: The connection itself, for calls whose failure the caller deals with.
        self.client = client
        self._steps = steps
        self._report = report
        self._clock = clock
        self._outage_since: float | None = None
        self._observed_since = clock()

    @property
    def observed_since(self) -> float:
        """Since when this process has seen without interruption what the servers record.

        What looks overdue may only look so because of an interruption: for each wait, time counts
        from here at the earliest.
        """
        return self._observed_since

    def note_interruption(self) -> None:
        """Note that this process, and perhaps the whole machine, did not run for a while."""
        self._observed_since = self._clock()

    def call(self, work: Callable[[StepClient], T]) -> T | None:
        """Do something with broker or backend.

        Args:
            work: what; it is given the connection.

        Returns:
            What ``work`` returns; ``None`` if a server does not answer.

        Raises:
            ServerUnavailableError: there has been no answer for ``OUTAGE_SECONDS``.
        """
        try:
            answer = work(self.client)
        except ServerUnavailableError as error:
            now = self._clock()
            self._observed_since = now
            if self._outage_since is None:
                self._outage_since = now
                self._report(f"{error} Running steps go on; trying again until it answers.")
            elif now - self._outage_since > OUTAGE_SECONDS:
                raise
            return None
        self.end_outage()
        return answer

    def end_outage(self) -> None:
        """Report that broker and backend answer again, if they do.

        A server whose disk is full, or that refuses writes for another reason, still answers reads.
        So the outage goes on for as long as there are steps that the broker has not taken.
        """
        if self._outage_since is not None and not self._steps.unsent:
            seconds = self._clock() - self._outage_since
            self._outage_since = None
            self._report(f"Broker and backend answer again, after {seconds:.0f} s.")
