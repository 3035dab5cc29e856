"""The process of ``dagster-taskiq worker start``: signals, draining, and taskiq's receiver.

taskiq's own worker command is not used for this: its process manager leaves a process that
continues to receive when it is killed, and its signal handler does not wake an idle event loop.
"""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.settings.urls import redact
from dagster_taskiq.tracing import spans
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.connection import RECONNECT_SECONDS
from dagster_taskiq.worker.banner import log_banner
from dagster_taskiq.worker.options import WorkerOptions
from dagster_taskiq.worker.receiver import SlotReceiver
from dagster_taskiq.worker.service import WorkerService

logger = logging.getLogger(__name__)


def run_worker(broker: QueueBroker, options: WorkerOptions) -> int:
    """Run a worker of ``broker`` in this process until it receives a signal or command to end.

    At the first SIGTERM or SIGINT it lets running tasks finish and takes no new ones, except steps
    while it holds a run that may wait for them. At the second it stops the tasks (SIGTERM, then
    SIGKILL after the grace period). At the third it kills them at once.

    Returns:
        The exit code: 0 after a drain, 1 when running tasks were stopped.

    Raises:
        ConfigError: the settings cannot work: an unknown scheme, a refused password, a module that
            cannot be imported.
    """
    # An event loop that costs less for each step. The children have Python's own, as users' code
    # expects it.
    try:
        import uvloop  # noqa: PLC0415 - it is not there on every platform
    except ImportError as error:
        logger.warning("Using Python's own event loop, which takes more CPU: %s.", error)
        run = asyncio.run
    else:
        run = uvloop.run
    try:
        return run(_Runner(broker, options).run())
    finally:
        spans.finish()


class _Runner:
    """Listens for one worker, and ends when signals or commands ask for that."""

    def __init__(self, broker: QueueBroker, options: WorkerOptions) -> None:
        self._options = options
        self._finish = asyncio.Event()
        self._signals = 0
        self._stopped_tasks = False
        self._broker = broker
        self._service = WorkerService(
            self._broker,
            options,
            on_drain=self._drain,
            on_kill=partial(self._kill, "received the command to end at once"),
        )

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            # The loop's own handler: a plain one does not wake a loop that waits.
            loop.add_signal_handler(number, self._on_signal)
        broker = self._broker
        broker.is_worker_process = True
        broker.make_service = lambda: self._service
        log_banner(broker.settings, self._options)
        try:
            await self._service.serve_status()
            broker.use_running_loop()
            if await self._reach_servers():
                await self._listen()
        finally:
            await broker.shutdown()
            await self._service.backend.shutdown()
            await broker.home.close()
            await self._service.serve_no_status()
        logger.info("Worker %s has ended.", self._options.name)
        return 1 if self._stopped_tasks else 0

    async def _listen(self) -> None:
        """Handle messages until the worker is to end; before it is ready, it ends at once."""
        receiver = SlotReceiver(self._broker, self._service.handler.handle)
        listening = asyncio.ensure_future(receiver.listen(self._finish))
        finishing = asyncio.ensure_future(self._finish.wait())
        await asyncio.wait({listening, finishing}, return_when=asyncio.FIRST_COMPLETED)
        finishing.cancel()
        if self._finish.is_set() and not self._service.is_ready:
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening
        else:
            await listening

    async def _reach_servers(self) -> bool:
        """Wait until broker and backend answer; ``False`` if the worker is to end before that."""
        broker, backend = self._broker, self._service.backend
        settings = broker.settings
        return await self._reach(
            f"broker {redact(settings.broker)}", broker, broker.home.open
        ) and await self._reach(f"backend {redact(settings.backend_url)}", backend, backend.startup)

    async def _reach(
        self, shown: str, server: QueueBroker | StateBackend, connect: Callable[[], Awaitable[None]]
    ) -> bool:
        """Connect to a server, however long it takes; ``False`` if the worker is to end before."""
        delay = RECONNECT_SECONDS[0]
        is_open = is_awaited = False
        while not self._finish.is_set():
            try:
                if not is_open:
                    await connect()
                    is_open = True
                await server.ping()
            except ServerUnavailableError as error:
                logger.log(
                    logging.DEBUG if is_awaited else logging.WARNING,
                    "Cannot reach the %s (%s). Trying again until it answers.",
                    shown,
                    error.problem,
                )
                is_awaited = True
                try:
                    await asyncio.wait_for(self._finish.wait(), delay)
                except asyncio.TimeoutError:
                    delay = min(delay * 2, RECONNECT_SECONDS[1])
            else:
                if is_awaited:
                    logger.warning("The %s answers.", shown)
                return True
        return False

    def _on_signal(self) -> None:
        self._signals += 1
        if self._signals == 1:
            self._drain()
        elif self._signals == 2:
            logger.warning("Second signal: stopping the running tasks.")
            self._kill("received a second signal to end")
        else:
            logger.warning("Third signal: killing the running tasks.")
            self._service.stop_tasks("received a third signal to end", at_once=True)

    def _drain(self) -> None:
        if self._service.is_draining:
            return
        self._service.begin_to_drain()
        timeout = self._options.drain_timeout
        if timeout is not None:
            asyncio.get_running_loop().call_later(timeout, self._end_drain, timeout)
        slots = self._service.pool.slots
        slots.take_no_more_runs(on_no_runs=self._take_no_more)
        if slots.runs:
            # There may be no other worker that can run their steps.
            logger.info(
                "Draining: taking only steps until the %d runs held here have ended, or another "
                "worker can go on with them.",
                len(slots.runs),
            )

    def _end_drain(self, timeout: float) -> None:
        """Stop the steps that still run. A run that waits for its steps goes on elsewhere."""
        self._service.hand_over_all()
        self._kill(f"was to end, and its drain timeout of {timeout:g} s is over")

    def _take_no_more(self) -> None:
        if self._finish.is_set():
            return
        running = len(self._service.pool.running)
        logger.info("Draining: %d tasks to finish, taking no more.", running)
        self._service.handler.take_no_more()
        self._finish.set()

    def _kill(self, why: str) -> None:
        self._drain()
        self._take_no_more()
        self._broker.hurry()
        if self._service.stop_tasks(why):
            self._stopped_tasks = True
