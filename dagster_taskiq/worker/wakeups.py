"""Waking the loops of runs whose steps have something to say, no more often than it helps."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

#: How long after one wake of a run there is no other, in seconds. A step ends more seldom; of many
#: that end at once, the loop reads what all of them wrote.
REST_SECONDS = 0.02


class Wakes:
    """The wakes that one worker sends: at once, or together where they come in a crowd."""

    def __init__(
        self,
        post: Callable[[str, str], Awaitable[None]],
        in_background: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        """Send nothing yet.

        Args:
            post: wakes the loop of a run, on behalf of a task; raises nothing.
            in_background: has something done that nobody waits for.
        """
        self._post = post
        self._in_background = in_background
        # The runs that were woken a moment ago, and the task that has asked for it since.
        self._resting: dict[str, str] = {}

    def wake(self, run_id: str, task_id: str) -> None:
        """Wake the loop of a run, now or within ``REST_SECONDS``."""
        if run_id in self._resting:
            self._resting[run_id] = task_id
        else:
            self._resting[run_id] = ""
            self._in_background(self._wake(run_id, task_id))

    def is_awake(self, run_id: str) -> None:
        """Forget who has asked: something else has woken the loop after that."""
        if run_id in self._resting:
            self._resting[run_id] = ""

    async def _wake(self, run_id: str, task_id: str) -> None:
        try:
            while task_id:
                await self._post(run_id, task_id)
                await asyncio.sleep(REST_SECONDS)
                task_id, self._resting[run_id] = self._resting[run_id], ""
        finally:
            del self._resting[run_id]
