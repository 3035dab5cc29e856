"""How often a message has been handed out without being started.

SQS counts how often it was received. That includes polls that received it for nobody, and messages
that were released. Only as many leases can have run out as there is room for since the first time.
Where both allow for more than one attempt, they are counted one by one in the backend.
"""

import logging
from collections.abc import Callable, Coroutine
from typing import Any

from dagster_taskiq.errors import DagsterTaskiqError
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.messages import MAX_DELIVERIES
from dagster_taskiq.transport.sqs.messages import Received
from dagster_taskiq.wire.notifications import FROM_START

logger = logging.getLogger("dagster_taskiq.broker")

#: What a notification says of a message that was handed out, or released afterwards.
_HANDED_OUT = {"by": 1}
_RELEASED = {"by": -1}


class Attempts:
    """Counts the attempts of messages."""

    def __init__(self, lease: int, backend: Callable[[], object]) -> None:
        """Count none yet.

        Args:
            lease: for how long a message that was received is hidden, in seconds.
            backend: returns the backend with the counts. One that is none of ours has none.
        """
        self._lease = lease
        self._backend = backend
        #: The messages that are counted in the backend, by the ids that SQS has given them.
        self._counted: set[str] = set()

    async def count(self, message: Received) -> int:
        """Count a message that is handed out; return how often it has been, this time included."""
        attempt = min(message.count, 1 + int(message.age / self._lease))
        backend = self._backend()
        if attempt == 1 or not isinstance(backend, StateBackend):
            return attempt
        channel = _channel(message)
        try:
            await backend.home.run(lambda: backend.post(channel, _HANDED_OUT))
            counts = await backend.home.run(lambda: backend.collect(channel, FROM_START, 0))
        except DagsterTaskiqError as error:
            logger.debug("Cannot count the attempts of message %s: %s", message.id, error)
            return min(attempt, MAX_DELIVERIES)
        self._counted.add(message.id)
        # The first attempt, which may have been none, is not among them.
        return min(attempt, 1 + sum(int(each.body["by"]) for each in counts))

    async def uncount(self, message: Received) -> None:
        """Take back the count of a message that is released."""
        if message.id in self._counted:
            self._counted.discard(message.id)
            await self._in_backend(lambda backend: backend.post(_channel(message), _RELEASED))

    async def forget(self, message: Received) -> None:
        """Delete the count of a message that is gone."""
        if message.id in self._counted:
            self._counted.discard(message.id)
            await self._in_backend(lambda backend: backend.close_channel(_channel(message)))

    async def _in_backend(self, work: Callable[[StateBackend], Coroutine[Any, Any, None]]) -> None:
        backend = self._backend()
        try:
            if isinstance(backend, StateBackend):
                await backend.home.run(lambda: work(backend))
        except DagsterTaskiqError as error:
            logger.debug("Cannot change the count of a message's attempts: %s", error)


def _channel(message: Received) -> str:
    return f"sqs-attempts:{message.id}"
