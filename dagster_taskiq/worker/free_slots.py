"""The slots of a worker that are free, and who gets the next one."""

import asyncio
from collections import deque


class FreeSlots:
    """How many slots are free; who waits for one gets it in order, a task that has lent its first.

    To be used within one running event loop.
    """

    def __init__(self, number: int) -> None:
        """Let all be free."""
        self._free = number
        #: How many are taken for a message that has not come.
        self._for_next = 0
        #: Those who wait for a slot, each with whether it is for a message that may come.
        self._takers: deque[tuple[asyncio.Future[None], bool]] = deque()
        self._lenders: deque[tuple[asyncio.Future[None], bool]] = deque()

    async def take(self, *, for_next: bool = False) -> None:
        """Wait for a free slot, and take it.

        Args:
            for_next: it is for a message that may come; see :meth:`note_came`.
        """
        if self._free <= 0 or self._takers or self._lenders:
            await self._wait(self._takers, for_next)
        else:
            self._grant(for_next)

    def add(self, number: int) -> None:
        """Let there be so many more; fewer, if the number is negative, as they become free."""
        self._free += number
        self._pass_on()

    def note_came(self) -> None:
        """Note that the message has come for which a slot was taken, or that none will."""
        self._for_next -= 1

    async def take_back(self) -> None:
        """Take a slot for a task that has lent its own.

        A slot that is only kept for a message which may come does not keep the task from working:
        until that message's task, or another, has ended, one more works than there are slots.
        """
        if self._may_work:
            self._grant(for_next=False)
        else:
            await self._wait(self._lenders, for_next=False)

    def give(self) -> None:
        """Let a slot be free again."""
        self._free += 1
        self._pass_on()

    def _pass_on(self) -> None:
        """Let those have free slots who wait for them."""
        while self._lenders and self._may_work:
            self._pass_to(self._lenders)
        while self._takers and self._free > 0:
            self._pass_to(self._takers)

    @property
    def _may_work(self) -> bool:
        """Whether fewer tasks work, or are about to, than there are slots."""
        return self._free + self._for_next > 0

    def _pass_to(self, waiting: "deque[tuple[asyncio.Future[None], bool]]") -> None:
        taker, for_next = waiting.popleft()
        if not taker.done():
            self._grant(for_next)
            taker.set_result(None)

    def _grant(self, for_next: bool) -> None:
        self._free -= 1
        self._for_next += for_next

    async def _wait(
        self, waiting: "deque[tuple[asyncio.Future[None], bool]]", for_next: bool
    ) -> None:
        taker: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append((taker, for_next))
        try:
            await taker
        except asyncio.CancelledError:
            if taker.done() and not taker.cancelled():  # it was granted just then
                self._for_next -= for_next
                self.give()
            raise
