"""The warm children of a worker: one for each slot, used again and again, replaced when they end.

A child keeps the user's code that it has loaded, so it suits tasks of the same code only. A run
that only waits for its steps holds no slot, so there is one more child for each of those, and for
each task of the worker's own.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from dagster_taskiq.errors import ChildStartError, ConfigError
from dagster_taskiq.worker.child_process import ChildProcess

logger = logging.getLogger(__name__)

#: The pause between two tries to start a child when that fails, in seconds.
RESTART_SECONDS = 1.0
#: How long a child that is one too many stays, in case another run comes, in seconds.
SPARE_SECONDS = 60.0


class Children:
    """Starts, lends and ends children, so that there is one for each task that may run."""

    def __init__(self, number: int, start_child: Callable[[], Awaitable[ChildProcess]]) -> None:
        """Start nothing yet.

        Args:
            number: how many there are, besides those whose task holds no slot.
            start_child: starts one; see :meth:`ChildStarter.start_child`.
        """
        self._number = number
        self._start_child = start_child
        #: Those that wait for a task, the one that has waited longest first.
        self._idle: list[ChildProcess] = []
        #: Those that were taken.
        self._in_use: set[ChildProcess] = set()
        #: Of those, the ones whose task holds no slot.
        self._without_slot: set[ChildProcess] = set()
        #: How many are being started to be idle.
        self._number_starting = 0
        #: Those who wait for one that suits them.
        self._takers: list[asyncio.Future[None]] = []
        self._starts: set[asyncio.Task[None]] = set()
        self._ends: set[asyncio.Task[None]] = set()
        self._is_closing = False

    @property
    def pids(self) -> list[int]:
        """The process ids of those that are ready or in use."""
        return [child.pid for child in (*self._idle, *self._in_use)]

    async def open(self) -> None:
        """Start all children side by side, and return when the first is ready.

        Raises:
            ConfigError: it cannot import one of the modules that it should.
            ChildStartError: it does not come up.
            OSError: there can be no more processes.
        """
        self._idle.append(await self._start())
        self._start_missing()

    async def close(self) -> None:
        """End all: those that are idle as any Python process ends, the others by SIGKILL."""
        self._is_closing = True
        for start in list(self._starts):
            start.cancel()
        for child in self._idle:
            self._end_in_background(child)
        self._idle.clear()
        killed = [child.kill_and_wait() for child in self._in_use]
        await asyncio.gather(*killed, *self._ends)

    async def take(self, code: str) -> ChildProcess:
        """Wait for a child for one task, and take it.

        Args:
            code: the working directory of the task's code. A child that has loaded this code is
                preferred to one that has loaded none; one that has loaded other code is not taken.
        """
        while (child := self._choose(code)) is None:
            taker: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._takers.append(taker)
            await taker
        self._idle.remove(child)
        self._in_use.add(child)
        child.code = code
        return child

    async def start_extra(self) -> ChildProcess:
        """Start a child for a task that needs no slot, and take it.

        Raises:
            ConfigError: it cannot import one of the modules that it should.
            ChildStartError: it does not come up.
            OSError: there can be no more processes.
        """
        child = await self._start()
        self._in_use.add(child)
        self._without_slot.add(child)
        return child

    def note_slot_freed(self, child: ChildProcess) -> None:
        """Start another child: the task of this one continues without its slot."""
        self._without_slot.add(child)
        self._start_missing()

    def note_slot_taken(self, child: ChildProcess) -> None:
        """Note that the task of a child has a slot again."""
        self._without_slot.discard(child)
        if self._missing < 0:
            asyncio.get_running_loop().call_later(SPARE_SECONDS, self._end_spare)

    def give_back(self, child: ChildProcess, is_reusable: bool) -> None:
        """Let a child that was taken wait for the next task; end it if it must not have one."""
        self._in_use.discard(child)
        self._without_slot.discard(child)
        if is_reusable and child.is_usable and not self._is_closing:
            self._make_idle(child)
        else:
            self._end_in_background(child)
            self._start_missing()

    def replace_if_idle(self, child: ChildProcess) -> None:
        """End a child that waits for a task, and start another one."""
        if child in self._idle:
            self._idle.remove(child)
            self._end_in_background(child)
            self._start_missing()

    def _choose(self, code: str) -> ChildProcess | None:
        for child in list(self._idle):
            if not child.is_usable:
                self.replace_if_idle(child)
        suited = [each for each in self._idle if each.code in (None, code)]
        if suited:
            return max(suited, key=lambda each: each.code is not None)
        while self._idle and not self._number_starting:
            # All that are idle have loaded other code. Those that have waited longest are ended
            # until a new one is being started. There will be one: the task has a slot, so fewer
            # children than slots are in use.
            self.replace_if_idle(self._idle[0])
        return None

    @property
    def _missing(self) -> int:
        """How many children there are too few; less than 0 when there are too many."""
        there = len(self._idle) + len(self._in_use) + self._number_starting
        return self._number + len(self._without_slot) - there

    def _start_missing(self) -> None:
        for _ in range(0 if self._is_closing else self._missing):
            self._number_starting += 1
            start = asyncio.ensure_future(self._start_idle())
            self._starts.add(start)
            start.add_done_callback(self._starts.discard)

    async def _start_idle(self) -> None:
        """Start a child that waits for a task, and try again until that works."""
        try:
            while not self._is_closing:
                try:
                    child = await self._start()
                except (ConfigError, ChildStartError, OSError) as error:
                    logger.error("A child process did not start: %s", error)  # noqa: TRY400
                    await asyncio.sleep(RESTART_SECONDS)
                else:
                    self._make_idle(child)
                    return
        finally:
            self._number_starting -= 1

    async def _start(self) -> ChildProcess:
        child = await self._start_child()
        child.on_exit(lambda: self.replace_if_idle(child))
        return child

    def _make_idle(self, child: ChildProcess) -> None:
        self._idle.append(child)
        takers, self._takers = self._takers, []
        for taker in takers:
            if not taker.done():
                taker.set_result(None)
        if self._missing < 0:
            asyncio.get_running_loop().call_later(SPARE_SECONDS, self._end_spare)

    def _end_spare(self) -> None:
        """End the children that are too many, first those that have waited longest."""
        for child in self._idle[: max(0, -self._missing)]:
            self.replace_if_idle(child)

    def _end_in_background(self, child: ChildProcess) -> None:
        end = asyncio.ensure_future(child.end())
        self._ends.add(end)
        end.add_done_callback(self._ends.discard)
