"""How the loop of a run waits for notifications."""

import time
from contextlib import suppress

from dagster._utils.interrupts import check_captured_interrupt

from dagster_taskiq.client import SLICE_SECONDS
from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.runs.servers import Servers
from dagster_taskiq.runs.steps_in_flight import StepsInFlight
from dagster_taskiq.wire.notifications import FROM_START, run_channel

#: How much longer the loop waits between two looks for each step that was sent and that no worker
#: has begun, in seconds: the more of them there are, the longer the workers are busy without new
#: ones, and the more is found with one look.
PAUSE_SECONDS = 0.001
#: The longest such pause, in seconds.
MOST_PAUSE_SECONDS = 0.1


class RunInbox:
    """Reads the notifications in the channel of one run."""

    def __init__(self, servers: Servers, steps: StepsInFlight, run_id: str) -> None:
        """Read nothing yet.

        Args:
            servers: broker and backend.
            steps: the steps in flight; is told which tasks have ended.
            run_id: the run.
        """
        self._servers = servers
        self._steps = steps
        self._channel = run_channel(run_id)
        self._cursor = FROM_START
        self._read_at = time.monotonic()

    def wait(self, timeout: float) -> None:
        """Wait until there are notifications; at most ``timeout`` seconds, or until an interrupt.

        Raises:
            ServerUnavailableError: as :meth:`Servers.call`.
        """
        waiting = sum(not step.begun for step in self._steps)
        pause = min(MOST_PAUSE_SECONDS, PAUSE_SECONDS * waiting)
        sleep(self._read_at + pause - time.monotonic())
        notifications = self._servers.call(
            lambda client: client.wait(
                self._channel, self._cursor, timeout, interrupted=check_captured_interrupt
            )
        )
        if notifications is None:
            sleep(timeout)
            return
        self._read_at = time.monotonic()
        for notification in notifications:
            self._cursor = notification.cursor
            if "state" in notification.body:
                self._steps.report_task_end(str(notification.body["task"]))

    def close(self) -> None:
        """Delete the channel; one that cannot be deleted now expires."""
        with suppress(ServerUnavailableError):
            self._servers.client.close_channel(self._channel)


def sleep(seconds: float) -> None:
    """Sleep for some seconds, but not through an interrupt."""
    deadline = time.monotonic() + seconds
    while not check_captured_interrupt() and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, SLICE_SECONDS))
