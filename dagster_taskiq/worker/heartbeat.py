"""The heartbeat of a worker: the record that shows that it is alive, and what it runs.

It is sent every few seconds, whatever the worker runs. Each one that the backend has accepted
renews the lease from the moment it was sent. Without one for the time of a lease, the children are
ended before another worker may start their tasks again.
"""

import asyncio
import logging
import time
from collections.abc import Callable

import anyio

from dagster_taskiq.errors import DagsterTaskiqError, ServerUnavailableError
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.wire.records import Worker
from dagster_taskiq.worker.cancellation import Cancellation
from dagster_taskiq.worker.detach import report_ready
from dagster_taskiq.worker.pool import Pool

logger = logging.getLogger(__name__)

#: The longest pause between two tries while the backend is unavailable, in seconds.
RETRY_SECONDS = 1.0
#: How often a worker has the backend delete what has expired, in seconds.
SWEEP_SECONDS = 600.0
#: The shortest time between two heartbeats that changes cause while a monitor watches, in seconds.
CHANGE_SECONDS = 0.5
#: The longest time for which one command to watch counts, in seconds.
MOST_WATCH_SECONDS = 60.0
#: How often a worker looks for tasks of lost ones, in seconds. Who waits for one looks more often.
LOST_SECONDS = 60.0


class Heartbeat:
    """Sends the heartbeats of one worker."""

    def __init__(
        self,
        backend: StateBackend,
        pool: Pool,
        cancellation: Cancellation,
        describe: Callable[[], Worker],
        interval: float,
    ) -> None:
        """Send nothing yet.

        Args:
            backend: keeps the heartbeats.
            pool: has its lease renewed.
            cancellation: stops tasks that were revoked.
            describe: returns what to send.
            interval: the time between two heartbeats, in seconds.
        """
        self._backend = backend
        self._pool = pool
        self._cancellation = cancellation
        self._describe = describe
        self._interval = interval
        self._lease = backend.settings.lease
        self._swept_at = 0.0
        self._looked_at = time.monotonic()
        #: When the last heartbeat that was accepted was sent, of ``time.monotonic()``.
        self._sent_at = 0.0
        self._is_urgent = asyncio.Event()
        #: Until when a monitor watches, of ``time.monotonic()``.
        self._watched_until = 0.0
        #: Sends the heartbeat that a change has caused.
        self._change: asyncio.TimerHandle | None = None
        #: Why the last heartbeat could not be sent, as it was logged; empty if it was.
        self._trouble = ""
        #: Whether the log has that the lease is over.
        self._is_overdue = False

    def send_soon(self) -> None:
        """Send the next heartbeat now, because something has changed, and not after the pause."""
        self._is_urgent.set()

    @property
    def is_watched(self) -> bool:
        """Whether a monitor watches, so that the record has what has ended lately."""
        return time.monotonic() < self._watched_until

    def watch(self, seconds: float) -> None:
        """Send a heartbeat now, and soon after each change, for some seconds.

        Args:
            seconds: how many; at most ``MOST_WATCH_SECONDS``.
        """
        was_watched = self.is_watched
        self._watched_until = time.monotonic() + min(max(0.0, seconds), MOST_WATCH_SECONDS)
        if not was_watched:
            self.send_soon()

    def note_change(self) -> None:
        """Note that a task has started or ended: while a monitor watches, the next heartbeat comes
        soon, and two within a second at most.
        """
        if self._change is None and self.is_watched:
            wait = max(0.0, self._sent_at + CHANGE_SECONDS - time.monotonic())
            self._change = asyncio.get_running_loop().call_later(wait, self._send_change)

    def _send_change(self) -> None:
        self._change = None
        self.send_soon()

    async def send(self) -> None:
        """Send one heartbeat, and stop the tasks that the backend answers must stop.

        Raises:
            ServerUnavailableError: the backend is unavailable.
        """
        sent = time.monotonic()
        if sent - self._sent_at > self._lease:
            # This process was frozen, or the backend unavailable, for longer than the lease: the
            # tasks that run here may have been started by other workers.
            if not self._is_overdue:
                logger.error(
                    "No heartbeat was sent for %.0f s, longer than the lease of %g s.",
                    sent - self._sent_at,
                    self._lease,
                )
            self._is_overdue = True
            name = self._describe().name
            self._pool.stop_all(f"worker {name} had lost its lease", at_once=True)
        revoked = await self._backend.beat(self._describe())
        self._sent_at = sent
        self._is_overdue = False
        report_ready()
        self._pool.renew(sent + self._lease)
        if revoked:
            # The commands to stop them may still come, or be lost. The records have the reason.
            known = await self._backend.tasks(revoked)
            for task_id in revoked:
                why = known[task_id].error if task_id in known else ""
                self._cancellation.cancel(task_id, why or "it was revoked")
        if sent - self._looked_at > LOST_SECONDS:
            self._looked_at = sent
            await self._backend.end_reported_by_lost()
        if sent - self._swept_at > SWEEP_SECONDS:
            self._swept_at = sent
            await self._backend.sweep()

    async def run(self) -> None:
        """Send one at every interval, and sooner again while that fails, until cancelled."""
        self._sent_at = time.monotonic()
        while True:
            try:
                await self.send()
            except Exception as error:
                # If this coroutine ended, nothing would report it, and the worker would run on
                # without heartbeats. The server may be repaired while it runs.
                self._log_trouble(error)
                is_away = isinstance(error, ServerUnavailableError)
                await asyncio.sleep(
                    min(RETRY_SECONDS, self._interval) if is_away else self._interval
                )
                continue
            if self._trouble:
                logger.warning("The backend answers again.")
                self._trouble = ""
            # Counted from when it was sent: a heartbeat may take most of the lease if the server is
            # frozen or its file locked, and the next one must come before the rest is over.
            await self._pause(self._sent_at + self._interval - time.monotonic())

    def _log_trouble(self, error: Exception) -> None:
        """Log why a heartbeat cannot be sent: once for each outage, and for each other fault."""
        if isinstance(error, ServerUnavailableError):
            trouble = "the backend does not answer"
            if self._trouble != trouble:
                logger.warning("Cannot send a heartbeat: %s (%s).", trouble, error.problem)
        else:
            trouble = str(error) or type(error).__name__
            if self._trouble != trouble:
                # An error of ours has the fix.
                traceback = not isinstance(error, DagsterTaskiqError)
                logger.error("Cannot send a heartbeat: %s", trouble, exc_info=traceback)
        self._trouble = trouble

    async def _pause(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self._is_urgent.wait()
        self._is_urgent.clear()
