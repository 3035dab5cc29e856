"""The priority levels in use: each is a queue on the server, which workers have to know of.

They learn of it in two ways: who is about to send to one, as the first in its process, posts that
to a channel of the backend, and each worker asks the server for a list of queues, at its start and
regularly.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from functools import partial

from dagster_taskiq.errors import ConfigError, DagsterTaskiqError, ServerUnavailableError
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.background import look_at
from dagster_taskiq.transport.sqs.names import Level
from dagster_taskiq.transport.sqs.queues import Queues
from dagster_taskiq.wire.notifications import FROM_START

logger = logging.getLogger("dagster_taskiq.broker")

#: Seconds between two lists of queues.
LIST_SECONDS = 60.0
#: How long one look into the channel waits, in seconds.
COLLECT_SECONDS = 30.0
#: Seconds before the backend or SQS is asked again that has not answered.
RETRY_SECONDS = 5.0


class Levels:
    """The levels that are known to this process, of all queues under the prefix."""

    def __init__(self, queues: Queues, are_used: bool, backend: Callable[[], object]) -> None:
        """Know none yet.

        Args:
            queues: the queues of the server.
            are_used: whether there may be any.
            backend: returns the backend with the channel. What is none of ours has no channels.
        """
        self._queues = queues
        self._channel = queues.names.levels_channel
        self._are_used = are_used
        self._backend = backend
        self._known: set[Level] = set()
        self._announced: set[Level] = set()
        #: By the monotonic clock.
        self._listed_at = -LIST_SECONDS
        #: Why the server did not tell, if that is logged.
        self._refusal = ""
        #: Ends when another level becomes known; for the listener that waits.
        self._changed: asyncio.Future[None] | None = None
        self._watching: list[asyncio.Task[None]] = []

    def of(self, queues: Iterable[str]) -> list[Level]:
        """Return the levels of queues, that of the highest priority first."""
        wanted = list(dict.fromkeys(queues))
        levels = [Level(queue) for queue in wanted]
        levels += [level for level in self._known if level.queue in wanted]
        return sorted(levels, key=lambda level: (-level.priority, wanted.index(level.queue)))

    def changed(self) -> "asyncio.Future[None]":
        """Return a future that ends when another level becomes known."""
        if self._changed is None or self._changed.done():
            self._changed = asyncio.get_running_loop().create_future()
        return self._changed

    def add(self, levels: Iterable[Level]) -> None:
        """Note that levels are in use."""
        new = {level for level in levels if level.priority} - self._known
        if new:
            self._known |= new
            if self._changed is not None and not self._changed.done():
                self._changed.set_result(None)

    def forget(self, level: Level) -> None:
        """Note that the queue of a level has been deleted."""
        self._known.discard(level)
        self._announced.discard(level)

    async def list_all(self) -> None:
        """Ask the server which levels there are.

        Raises:
            ServerUnavailableError: SQS does not answer.
            ConfigError: it does not let us.
        """
        self._listed_at = time.monotonic()
        self.add(await self._queues.all())

    async def refresh(self) -> None:
        """Ask the server which levels there are, unless it was asked less than a minute ago.

        If that is not permitted, a warning is logged.

        Raises:
            ServerUnavailableError: SQS does not answer.
        """
        if not self._are_used or time.monotonic() - self._listed_at < LIST_SECONDS:
            return
        try:
            await self.list_all()
        except ConfigError as error:
            if str(error) != self._refusal:
                self._refusal = str(error)
                logger.warning(
                    "Messages with a priority are found only if their senders can reach the "
                    "backend, or have sent some since this process has started. %s",
                    error,
                )

    async def announce(self, levels: Collection[Level]) -> None:
        """Tell workers of the levels that messages are about to be sent to, once for each.

        If the backend does not answer, they learn of them from the next list.
        """
        self.add(levels)
        new = [level for level in levels if level.priority and level not in self._announced]
        backend = self._backend()
        if not new or not isinstance(backend, StateBackend):
            return
        body = {"levels": [[level.queue, level.priority] for level in new]}
        try:
            await backend.home.run(lambda: backend.post(self._channel, body))
        except DagsterTaskiqError as error:
            logger.debug("Could not tell workers of new priorities: %s", error)
        else:
            self._announced.update(new)

    def watch(self) -> None:
        """Learn of other levels in the background, from now on."""
        if self._are_used and not self._watching:
            for work in (self._list_regularly(), self._read_channel()):
                task = asyncio.ensure_future(work)
                task.add_done_callback(look_at)
                self._watching.append(task)

    def end(self) -> None:
        """Watch no longer."""
        for task in self._watching:
            task.cancel()
        self._watching.clear()
        self._changed = None

    async def _list_regularly(self) -> None:
        while True:
            with suppress(ServerUnavailableError):  # the listener logs that
                await self.refresh()
            await asyncio.sleep(LIST_SECONDS)

    async def _read_channel(self) -> None:
        backend = self._backend()
        if not isinstance(backend, StateBackend):
            return
        cursor = FROM_START
        while True:
            try:
                found = await backend.home.run(
                    partial(backend.collect, self._channel, cursor, COLLECT_SECONDS)
                )
                for each in found:
                    cursor = each.cursor
                    self.add(
                        Level(str(queue), int(number)) for queue, number in each.body["levels"]
                    )
            except DagsterTaskiqError as error:
                logger.debug("Cannot learn of new priorities: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
