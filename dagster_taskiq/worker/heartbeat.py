"""The heartbeat of a worker, and what it learns from it.

One record every few seconds, whatever the worker runs. A beat that succeeded lets the children
live for one lease from the moment it was sent; with no beat for a lease they end by themselves,
before anyone else may take what they run to be free.
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
from dagster_taskiq.worker.detach import tell_ready
from dagster_taskiq.worker.pool import Pool

logger = logging.getLogger("dagster_taskiq.worker.liveness")

#: The longest pause between two tries while the backend is away, in seconds.
RETRY_SECONDS = 1.0
#: How often a worker clears the backend of what has expired, in seconds.
SWEEP_SECONDS = 600.0


class Liveness:
    """Beats until it is cancelled."""

    def __init__(
        self,
        backend: StateBackend,
        pool: Pool,
        cancellation: Cancellation,
        describe: Callable[[], Worker],
        interval: float,
    ) -> None:
        self._backend = backend
        self._pool = pool
        self._cancellation = cancellation
        self._describe = describe
        self._interval = interval
        self._lease = backend.settings.lease
        self._swept_at = 0.0
        #: When the last beat that succeeded was sent, of ``time.monotonic()``.
        self._beat_at = 0.0
        self._has_news = asyncio.Event()

    def beat_soon(self) -> None:
        """Beat now and not at the end of the interval: others should know of something at once."""
        self._has_news.set()

    async def beat(self) -> None:
        """Beat once, and stop what the backend says must stop.

        Raises:
            ServerUnavailableError: the backend is away.
        """
        sent = time.monotonic()
        if sent - self._beat_at > self._lease:
            # This process was frozen, or the backend away, for longer than the lease: what ran
            # here may have been given up and started elsewhere.
            logger.error("Silent for %.0f s, longer than the lease.", sent - self._beat_at)
            name = self._describe().name
            self._pool.stop_all(f"worker {name} had lost its lease", at_once=True)
        stop = await self._backend.beat(self._describe())
        self._beat_at = sent
        tell_ready()
        self._pool.renew(sent + self._lease)
        if stop:
            # Before their mail, or in place of it: why they must stop is on record as well.
            known = await self._backend.tasks(stop)
            for task_id in stop:
                why = known[task_id].error if task_id in known else ""
                self._cancellation.cancel(task_id, why or "it was revoked")
        if sent - self._swept_at > SWEEP_SECONDS:
            self._swept_at = sent
            await self._backend.sweep()

    async def run(self) -> None:
        """Beat at every interval; sooner again while the backend is away."""
        self._beat_at = time.monotonic()
        away = False
        while True:
            try:
                await self.beat()
            except ServerUnavailableError as error:
                if not away:
                    logger.warning("Cannot beat: the backend does not answer (%s).", error.problem)
                away = True
                await asyncio.sleep(min(RETRY_SECONDS, self._interval))
                continue
            except DagsterTaskiqError as error:
                logger.error("Cannot beat: %s", error)  # noqa: TRY400 - it says what to do
                await asyncio.sleep(self._interval)
                continue
            except Exception:
                # Nobody waits for this coroutine: if it ended, the worker would look alive to
                # itself only. What is wrong with the server may be mended while it runs.
                logger.exception("Cannot beat.")
                await asyncio.sleep(self._interval)
                continue
            if away:
                logger.warning("The backend answers again.")
                away = False
            # Counted from when it was sent: a beat may take most of the lease, where the server is
            # frozen or its file locked, and the next one must come before the rest is over.
            await self._pause(self._beat_at + self._interval - time.monotonic())

    async def _pause(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self._has_news.wait()
        self._has_news.clear()
