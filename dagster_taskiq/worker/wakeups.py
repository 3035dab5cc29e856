"""Waking the loops of runs when their steps have written events, no more often than it helps."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

#: How long after one wake-up of a run there is no other, in seconds. That is shorter than a step
#: takes. If many steps end at once, the loop reads the events of all of them after one wake-up.
PAUSE_SECONDS = 0.02


class WakeUps:
    """The wake-ups that one worker sends: the first at once, those that follow it together."""

    def __init__(
        self,
        post: Callable[[str, str], Awaitable[None]],
        in_background: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        """Send nothing yet.

        Args:
            post: wakes the loop of a run, on behalf of a task; both are given by their ids. It
                raises no error.
            in_background: runs a coroutine whose end is not awaited.
        """
        self._post = post
        self._in_background = in_background
        #: The runs that were woken within ``PAUSE_SECONDS``, each with the last task that has asked
        #: for a wake-up since then; empty if none has.
        self._paused: dict[str, str] = {}

    def wake(self, run_id: str, task_id: str) -> None:
        """Wake the loop of a run, now or within ``PAUSE_SECONDS``."""
        if run_id in self._paused:
            self._paused[run_id] = task_id
        else:
            self._paused[run_id] = ""
            self._in_background(self._wake(run_id, task_id))

    def note_woken(self, run_id: str) -> None:
        """Drop the wake-up that is due: the loop has been woken in another way meanwhile."""
        if run_id in self._paused:
            self._paused[run_id] = ""

    async def _wake(self, run_id: str, task_id: str) -> None:
        try:
            while task_id:
                await self._post(run_id, task_id)
                await asyncio.sleep(PAUSE_SECONDS)
                task_id, self._paused[run_id] = self._paused[run_id], ""
        finally:
            del self._paused[run_id]
