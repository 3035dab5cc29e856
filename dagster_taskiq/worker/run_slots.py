"""How many launched runs a worker holds at once."""

import asyncio
from collections.abc import Callable


class RunSlots:
    """How many launched runs a worker holds, and whether it may take another one."""

    def __init__(self, limit: int) -> None:
        """Hold no run yet.

        Args:
            limit: how many runs may be held at once. A run that was claimed before the limit was
                reached is held in any case.
        """
        self._limit = limit
        self._held: set[str] = set()
        self._is_open = asyncio.Event()
        self._is_open.set()
        self._takes_no_more = False
        self._on_empty: Callable[[], None] = _do_nothing

    def __len__(self) -> int:
        """How many runs are held."""
        return len(self._held)

    def __contains__(self, task_id: str) -> bool:
        """Whether the run of this task is held."""
        return task_id in self._held

    @property
    def is_open(self) -> bool:
        """Whether another run may be taken."""
        return self._is_open.is_set()

    async def until_open(self) -> None:
        """Return when another run may be taken."""
        await self._is_open.wait()

    def hold(self, task_id: str) -> None:
        """Take a run slot for a task; a task that has one keeps it."""
        self._held.add(task_id)
        self._update()

    def free(self, task_id: str) -> None:
        """Free the run slot of a task, if it has one."""
        if task_id not in self._held:
            return
        self._held.discard(task_id)
        self._update()
        if self._takes_no_more and not self._held:
            self._on_empty()

    def take_no_more(self, on_empty: Callable[[], None]) -> None:
        """Never be open again.

        Args:
            on_empty: called whenever the last run has freed its slot; now if none is held.
        """
        self._takes_no_more = True
        self._on_empty = on_empty
        self._update()
        if not self._held:
            on_empty()

    def _update(self) -> None:
        if len(self._held) < self._limit and not self._takes_no_more:
            self._is_open.set()
        else:
            self._is_open.clear()


def _do_nothing() -> None:
    pass
