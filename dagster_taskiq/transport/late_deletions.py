"""Deleting messages with the next claim: those of tasks that were started with their own claims.

Such a message has no use any more once its task begins, and nothing waits for its deletion. Should
it be delivered again before that, its task is not started again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

from dagster_taskiq.transport.background import look_at
from dagster_taskiq.transport.messages import Delivery

#: How long a message waits to be deleted with the next claim, in seconds.
DELETE_SECONDS = 0.05
#: How many messages are deleted at once.
MOST_DELETED = 100


class LateDeletions:
    """The messages of one broker that are to be deleted. Used from one event loop."""

    def __init__(self, delete: Callable[[Sequence[Delivery]], Awaitable[object]]) -> None:
        """Delete nothing yet.

        Args:
            delete: deletes those that no claim has deleted after a moment.
        """
        self._delete = delete
        #: By the handle of the message.
        self._waiting: dict[str, Delivery] = {}
        self._deleting: asyncio.Task[None] | None = None

    @property
    def next(self) -> list[Delivery]:
        """Those that the next claim is to delete."""
        return list(self._waiting.values())[:MOST_DELETED]

    def add(self, delivery: Delivery) -> None:
        """Have a message deleted with the next claim, or in a moment."""
        self._waiting[delivery.handle] = delivery
        if self._deleting is None:
            self._deleting = asyncio.ensure_future(self._delete_soon())
            self._deleting.add_done_callback(look_at)

    def note_deleted(self, deliveries: Iterable[Delivery]) -> None:
        """Note that messages are deleted."""
        for each in deliveries:
            self._waiting.pop(each.handle, None)

    async def finish(self) -> None:
        """Delete what is left.

        Raises:
            ServerUnavailableError: the server does not answer; it can be called again.
        """
        while deleted := self.next:
            await self._delete(deleted)
            self.note_deleted(deleted)

    async def _delete_soon(self) -> None:
        try:
            await asyncio.sleep(DELETE_SECONDS)
            await self.finish()
        finally:
            self._deleting = None
