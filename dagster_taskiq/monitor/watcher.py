"""Asks broker and backend again and again what there is, for the model of the fleet.

While nobody looks, it asks as seldom as workers send heartbeats. Who opens the page or ``top`` has
it ask twice a second, and has workers report each start and end soon after it. Who asks once gets
an answer of now. A server that is away is asked again with longer pauses, until it answers; what
was known last is kept, with the reason why it is not newer.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio

from dagster_taskiq.errors import ConfigError, DagsterTaskiqError
from dagster_taskiq.monitor.ended_list import LISTED_SECONDS
from dagster_taskiq.monitor.fleet import Fleet
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.settings.urls import redact, scheme_of
from dagster_taskiq.transport import current
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.background import look_at
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.connection import RECONNECT_SECONDS
from dagster_taskiq.wire.commands import Command, command
from dagster_taskiq.wire.notifications import (
    FLEET_CHANNEL,
    FROM_START,
    Notification,
    worker_channel,
)
from dagster_taskiq.wire.records import Worker
from dagster_taskiq.wire.safe_text import printable

logger = logging.getLogger(__name__)

#: Seconds between two looks while somebody watches.
WATCHED_SECONDS = 0.5
#: How old the last look may be for one who asks once, in seconds.
FRESH_SECONDS = 1.0
#: How long one who asks once waits for a newer look, and how long a server has to answer before it
#: is said that it does not, in seconds.
PATIENCE_SECONDS = 5.0
#: For how long a worker reports each start and end after it was told to, and how often it is told
#: again, in seconds.
TOLD_SECONDS = 20.0
TELL_AGAIN_SECONDS = 5.0


class Watcher:
    """Looks at one broker and backend; :meth:`run` has to run for anything else to happen."""

    def __init__(self, settings: Settings, show_lost: float = LISTED_SECONDS) -> None:
        """Connect to nothing yet.

        Args:
            settings: whose broker and backend to look at.
            show_lost: for how long after the end of its lease a lost worker is shown, in seconds.

        Raises:
            ConfigError: the settings cannot work, or there is nothing to look at from outside.
            MissingExtraError: as :func:`dagster_taskiq.transport.registry.make_broker`.
        """
        if scheme_of(settings.broker) == "memory":
            raise ConfigError(
                "memory:// is inside of one process, and cannot be looked at from another. Name "
                "the broker of the workers: -b, -y, or $DAGSTER_TASKIQ_BROKER."
            )
        self.broker: QueueBroker = current.make(settings)
        backend = self.broker.result_backend
        if not isinstance(backend, StateBackend):
            raise TypeError(f"{backend!r} keeps no state of tasks and workers.")
        self.backend: StateBackend = backend
        shown = redact(settings.broker), redact(settings.backend_url)
        interval = settings.heartbeat_interval
        #: What is known.
        self.fleet = Fleet(*shown, interval, show_lost=show_lost)
        self._idle_seconds = interval
        self._connecting = asyncio.Lock()
        self._servers = {
            "broker": _Server("broker", shown[0], self._open_broker, self._ask_broker),
            "backend": _Server("backend", shown[1], self._open_backend, self._ask_backend),
        }
        self._watching = 0
        #: Set when the next look is not to wait for the end of the pause.
        self._hurry = asyncio.Event()
        #: How many looks there were, and when the last one ended (monotonic).
        self._looks = 0
        self._looked_at = float("-inf")
        self._looked = asyncio.Condition()
        self._cursor = FROM_START
        #: When each worker was told to report each start and end (monotonic), by its id.
        self._told_at: dict[str, float] = {}

    async def run(self) -> None:
        """Look again and again, until this is cancelled."""
        for each in (self.broker, self.backend):
            each.home.use_running_loop()
        failures = 0
        try:
            while True:
                await asyncio.gather(*(each.look() for each in self._servers.values()))
                self.fleet.troubles = {name: each.trouble for name, each in self._servers.items()}
                failures = failures + 1 if self.fleet.trouble else 0
                async with self._looked:
                    self._looks += 1
                    self._looked_at = time.monotonic()
                    self._looked.notify_all()
                await self._pause(failures)
        finally:
            for server in self._servers.values():
                server.stop()
            await self.broker.home.close()
            await self.backend.shutdown()

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Look often while this is open."""
        self._watching += 1
        self._hurry.set()
        try:
            yield
        finally:
            self._watching -= 1

    @property
    def looks(self) -> int:
        """How many looks there were, failed ones included."""
        return self._looks

    async def wait_for_look(self, after: int, timeout: float) -> bool:
        """Wait until there were more looks than ``after``; return ``False`` after ``timeout``."""
        with anyio.move_on_after(timeout):
            async with self._looked:
                await self._looked.wait_for(lambda: self._looks > after)
        return self._looks > after

    async def refresh(self) -> None:
        """Return when the last look is of now, or has failed, or takes too long."""
        if time.monotonic() - self._looked_at > FRESH_SECONDS:
            self._hurry.set()
            await self.wait_for_look(self._looks, PATIENCE_SECONDS)

    async def _pause(self, failures: int) -> None:
        seconds = WATCHED_SECONDS if self._watching else self._idle_seconds
        if failures:
            shortest, longest = RECONNECT_SECONDS
            seconds = min(shortest * 2 ** min(failures, 10), longest)
        with anyio.move_on_after(seconds):
            await self._hurry.wait()
        self._hurry.clear()

    # They may have one connection, which is opened once.
    async def _open_broker(self) -> None:
        async with self._connecting:
            await self.broker.home.open()

    async def _open_backend(self) -> None:
        async with self._connecting:
            await self.backend.startup()

    async def _ask_broker(self) -> None:
        self.fleet.note_queues(await self.broker.depths(), await self.broker.rejected())

    async def _ask_backend(self) -> None:
        # Before the workers: what was in the channel before the first look is of the past.
        notifications = await self.backend.collect(FLEET_CHANNEL, self._cursor, 0.0)
        if notifications:
            self._cursor = notifications[-1].cursor
            self.fleet.note_goodbyes([each for each in map(_goodbye, notifications) if each])
        self.fleet.note_workers(await self.backend.workers())
        if self._watching:
            await self._tell_workers()

    async def _tell_workers(self) -> None:
        """Tell the workers that know it to report each start and end soon."""
        now = time.monotonic()
        knowing = {each.id for each in self.fleet.alive if each.counts is not None}
        self._told_at = {id_: at for id_, at in self._told_at.items() if id_ in knowing}
        for worker_id in knowing:
            if now - self._told_at.get(worker_id, float("-inf")) >= TELL_AGAIN_SECONDS:
                body = command(Command.WATCH, seconds=TOLD_SECONDS)
                await self.backend.post(worker_channel(worker_id), body)
                self._told_at[worker_id] = now


class _Server:
    """The broker or the backend, as it is asked: one question at a time."""

    def __init__(
        self,
        name: str,
        shown: str,
        connect: Callable[[], Awaitable[None]],
        ask: Callable[[], Awaitable[None]],
    ) -> None:
        self._name = name
        self._shown = shown
        self._connect = connect
        self._ask = ask
        self._is_open = False
        #: The question that has not been answered yet.
        self._asking: asyncio.Future[None] | None = None
        self._asked_at = 0.0
        #: Why it cannot be asked, and what to do; empty if it has answered.
        self.trouble = ""

    async def look(self) -> None:
        """Ask, unless a question is open, and wait for the answer, but not for long."""
        if self._asking is None or self._asking.done():
            self._asked_at = time.monotonic()
            self._asking = asyncio.ensure_future(self._connect_and_ask())
            # It may fail after it was waited for; the next look asks anew then.
            self._asking.add_done_callback(look_at)
        # Waited for, and not cancelled: a command that is cut off costs some clients a connection.
        done, _ = await asyncio.wait({self._asking}, timeout=PATIENCE_SECONDS)
        if not done:
            seconds = time.monotonic() - self._asked_at
            self._note(
                f"{self._shown} does not answer: nothing has come for {seconds:.0f} s. Check that "
                "the server runs and that this machine may reach it."
            )
            return
        error = None if self._asking.cancelled() else self._asking.exception()
        if error is None:
            self._note("")
        elif isinstance(error, DagsterTaskiqError):
            self._note(str(error))
        else:
            trouble = (
                f"The {self._name} {self._shown} cannot be read: {type(error).__name__}: {error}."
            )
            if self.trouble != trouble:
                logger.error("%s", printable(trouble), exc_info=error)
            self.trouble = trouble

    def stop(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()

    async def _connect_and_ask(self) -> None:
        if not self._is_open:
            await self._connect()
            self._is_open = True
        await self._ask()

    def _note(self, trouble: str) -> None:
        if bool(trouble) != bool(self.trouble):
            if trouble:
                logger.warning("Cannot look at the %s. %s", self._name, printable(trouble))
            else:
                logger.warning("The %s %s answers again.", self._name, self._shown)
        self.trouble = trouble


def _goodbye(notification: Notification) -> Worker | None:
    """Return the last record of a worker that has ended; ``None`` if it cannot be read."""
    try:
        return Worker.loads(notification.body["ended"], age=0.0)
    except (AttributeError, LookupError, TypeError, ValueError):
        logger.warning("Ignored a notification that cannot be read: %.200r.", notification.body)
        return None
