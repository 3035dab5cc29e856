"""Wake-ups by LISTEN and NOTIFY, on a connection of their own, or by looking where these are lost.

The connection is made at the first wait, and used without blocking the event loop (psycopg2's
asynchronous mode). Before it is relied on, a notification is sent by the other connection: a pooler
in transaction mode (PgBouncer) takes LISTEN without an error, and passes nothing on. Then the
waiters look for themselves, in pauses that grow as nothing comes.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Hashable
from typing import Any

import anyio
import psycopg2

from dagster_taskiq.errors import DagsterTaskiqError
from dagster_taskiq.transport.sql.postgresql.dialect import PostgresqlDialect
from dagster_taskiq.transport.sql.postgresql.listener import PostgresqlListener

logger = logging.getLogger("dagster_taskiq.broker")

#: After so many seconds a waiter looks in any case: a notification may be lost.
FALLBACK_SECONDS = 1.0
#: Seconds between two looks without notifications: soon after something was found, and later.
POLL_SECONDS = (0.02, 0.5)
#: The pause, as a part of the time since something was found.
POLL_PART = 0.1
#: How long to wait for the notification that is sent to test the connection, in seconds.
TEST_SECONDS = 3.0
#: Seconds between two tries to connect: the first, and the longest.
RECONNECT_SECONDS = (0.1, 5.0)
#: Seconds until notifications are tried again that were found not to be passed on.
RETEST_SECONDS = 300.0


class PostgresqlWakeups:
    """Wakes those who wait in one process. Used from one event loop."""

    def __init__(
        self,
        server: str,
        dialect: PostgresqlDialect,
        connect: Callable[[], Any],
        notify: Callable[[str], Awaitable[None]],
    ) -> None:
        """Connect to nothing yet.

        Args:
            server: the URL, for the log.
            dialect: names the server's channels.
            connect: begins a connection of psycopg2 in asynchronous mode; may block.
            notify: sends a notification to a channel over another connection.
        """
        self._server = server
        self._dialect = dialect
        self._connect = connect
        self._notify = notify
        #: How many changes have been seen, and the number of the last one of each topic.
        self._count = 0
        self._changes: dict[str, int] = {}
        self._waiters: dict[asyncio.Future[None], frozenset[str]] = {}
        #: The topics that are waited for, by the name of their channel.
        self._topics: dict[str, str] = {}
        #: The last looks that found nothing, by the topics that would have changed: what was looked
        #: for, the number of the last change before that, and when it was.
        self._empty: dict[frozenset[str], tuple[Hashable, int, float]] = {}
        self._listener: PostgresqlListener | None = None
        #: When something was found last, of ``time.monotonic()``.
        self._found_at = 0.0
        self._is_listening = False
        self._has_warned = False
        self._task: asyncio.Task[None] | None = None

    @property
    def is_listening(self) -> bool:
        """Whether notifications come; else the waiters look for themselves."""
        return self._is_listening

    def mark(self) -> int:
        """Return the number of the last change that was seen."""
        return self._count

    def is_unchanged(self, look: Hashable, topics: Collection[str]) -> bool:
        """Return whether the last look for these topics found nothing, and no change came since.

        That is not known while no notifications come, and not relied on for longer than
        ``FALLBACK_SECONDS``.

        Args:
            look: what is looked for.
            topics: of which one changes when there is something to find.
        """
        last, mark, at = self._empty.get(frozenset(topics), (None, 0, 0.0))
        if last != look or time.monotonic() - at >= FALLBACK_SECONDS or not self._is_listening:
            return False
        # A topic counts as changed when it begins to be listened to.
        return all(topic in self._changes and self._changes[topic] <= mark for topic in topics)

    def note_empty(self, look: Hashable, topics: Collection[str], mark: int) -> None:
        """Note that a look found nothing.

        Args:
            look: what was looked for.
            topics: of which one changes when there is something to find.
            mark: of :meth:`mark`, taken before the look.
        """
        self._empty[frozenset(topics)] = look, mark, time.monotonic()

    def note_found(self) -> None:
        """Note that a look has found something: more may follow soon."""
        self._found_at = time.monotonic()

    async def wait_beyond(self, mark: int, topics: Collection[str], timeout: float) -> None:
        """Return when one of the topics may have changed since ``mark``, or sooner.

        Args:
            mark: of :meth:`mark`, taken before the last look.
            topics: what to wait for.
            timeout: after so many seconds it returns in any case.
        """
        self._listen_to(topics)
        if any(self._changes.get(topic, 0) > mark for topic in topics):
            return
        pause = FALLBACK_SECONDS if self._is_listening else self._pause()
        changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[changed] = frozenset(topics)
        try:
            await asyncio.wait([changed], timeout=min(timeout, pause))
        finally:
            del self._waiters[changed]

    def forget(self, topic: str) -> None:
        """Listen to a topic no longer."""
        self._changes.pop(topic, None)
        self._empty.pop(frozenset([topic]), None)
        if self._topics.pop(self._dialect.channel_of(topic), None) is not None:
            self._stir()

    async def close(self) -> None:
        """Disconnect."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    def _listen_to(self, topics: Collection[str]) -> None:
        for topic in topics:
            channel = self._dialect.channel_of(topic)
            if channel not in self._topics:
                self._topics[channel] = topic
                self._stir()
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())

    def _pause(self) -> float:
        shortest, longest = POLL_SECONDS
        quiet = time.monotonic() - self._found_at
        return min(max(quiet * POLL_PART, shortest), longest)

    def _report(self, topics: Collection[str]) -> None:
        """Wake those who wait for one of these topics."""
        self._count += 1
        self._changes.update(dict.fromkeys(topics, self._count))
        for waiter, wanted in self._waiters.items():
            if not waiter.done() and not wanted.isdisjoint(topics):
                waiter.set_result(None)

    def _stir(self) -> None:
        """Have the task look at the topics."""
        if self._listener is not None:
            self._listener.stirred.set()

    async def _run(self) -> None:
        """Keep a connection, until this is cancelled."""
        delay = RECONNECT_SECONDS[0]
        while True:
            try:
                async with PostgresqlListener.open(self._connect) as self._listener:
                    if await self._is_passed_on(self._listener):
                        delay = RECONNECT_SECONDS[0]
                        await self._serve(self._listener)
                self._warn()
                await asyncio.sleep(RETEST_SECONDS)
            except (psycopg2.Error, OSError, DagsterTaskiqError) as error:
                # Those who wait look for themselves meanwhile, and report what is wrong.
                logger.debug("No notifications from %s: %s", self._server, error)
            finally:
                self._is_listening, self._listener = False, None
            await asyncio.sleep(delay)
            delay = min(delay * 2, RECONNECT_SECONDS[1])

    async def _is_passed_on(self, listener: PostgresqlListener) -> bool:
        """Return whether a notification comes that the other connection sends."""
        channel = f"dagster_taskiq_test_{uuid.uuid4().hex}"
        await listener.execute(f"LISTEN {channel}")
        await self._notify(channel)
        deadline = time.monotonic() + TEST_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            if channel in listener.take():
                break
            with anyio.move_on_after(left):
                await listener.wait()
        await listener.execute(f"UNLISTEN {channel}")
        return left > 0

    async def _serve(self, listener: PostgresqlListener) -> None:
        """Listen to what is waited for, and wake those who wait, until the connection is lost."""
        listened: set[str] = set()
        self._is_listening = True
        while True:
            wanted = set(self._topics)
            for channel in listened - wanted:
                await listener.execute(f"UNLISTEN {channel}")
            for channel in wanted - listened:
                await listener.execute(f"LISTEN {channel}")
            # What came before was not noticed.
            received = listener.take() | (wanted - listened)
            listened = wanted
            topics = [self._topics[channel] for channel in received if channel in self._topics]
            if topics:
                self._report(topics)
            await listener.wait()

    def _warn(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%s does not pass on notifications (LISTEN), as a connection pooler in transaction "
                "mode does not. Messages are looked for every %g to %g s instead.",
                self._server,
                *POLL_SECONDS,
            )
