"""Lending the slot of a task that waits for the results of others.

A slot is for work. A task that sends others and waits for them would hold its slot for nothing, and
on a worker with one slot it would wait for ever.
"""

import asyncio
import time

from dagster_taskiq.worker.child.parent import Parent

#: A result that was not asked for within this time is not waited for any more, in seconds: the wait
#: has timed out. taskiq asks every 0.2 s unless it is told otherwise.
GIVEN_UP_SECONDS = 5.0


class SlotLending:
    """The slot of one task, in the child that runs it."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        #: The results that are waited for, with the time at which each was asked for last.
        self._waited_for: dict[str, float] = {}
        self._is_lent = False
        self._lock = asyncio.Lock()

    async def note(self, task_id: str, has_ended: bool) -> None:
        """Note a look for a result: lend the slot if it is not there; take it back if all are.

        Args:
            task_id: the task whose result was looked for.
            has_ended: whether it is there. Then this returns when the task may work on.
        """
        now = time.monotonic()
        if not has_ended:
            self._waited_for[task_id] = now
            if not self._is_lent:
                self._is_lent = True
                self._parent.report_waiting()
            return
        self._waited_for.pop(task_id, None)
        async with self._lock:
            if self._is_lent and not self._is_waiting(now):
                await asyncio.to_thread(self._parent.wait_for_slot)
                self._is_lent = False

    def _is_waiting(self, now: float) -> bool:
        return any(now - asked < GIVEN_UP_SECONDS for asked in self._waited_for.values())
