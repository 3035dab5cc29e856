"""Which messages a worker may take: its slots, its run slots, and who holds them.

A slot is for one task that works. A run slot is for one launched run, and bounds how many runs the
worker holds at once. A run that executes its steps in its own process needs both; a run that only
waits for steps it has sent keeps its run slot and frees its slot for another task.

How many slots there are is an option of the worker; its default is in
:func:`dagster_taskiq.worker.options.default_concurrency`. The slots of Dagster's concurrency pools
are something else: :mod:`dagster_taskiq.execution.pool_slots`.

The broker reserves a slot before it claims a message (:meth:`Slots.reserve`), and keeps it for the
task that the message names (:meth:`Slots.expect`). taskiq then calls the middlewares and the worker
records the start; after that the task takes the slot (:meth:`Slots.start`), or it does not run
here and the reservation is released (:meth:`Slots.release_reservation`).

There are no processes here: :mod:`dagster_taskiq.worker.pool` runs the tasks.
"""

import asyncio
import logging
from collections.abc import Callable

logger = logging.getLogger(__name__)

#: How long a slot is kept for a message that taskiq has and that never starts, because a middleware
#: raised an error, in seconds.
RESERVATION_SECONDS = 60.0


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


class Slots:
    """The slots of one worker; the :class:`~dagster_taskiq.transport.gate.SlotGate` of its broker.

    To be used within one running event loop.
    """

    def __init__(self, number: int, max_runs: int) -> None:
        """Let all slots be free.

        Args:
            number: how many tasks may work at once.
            max_runs: how many runs may be held at once.
        """
        #: The launched runs that are held here.
        self.runs = RunSlots(max_runs)
        #: Whether the worker takes no more messages, or only those of steps.
        self.is_draining = False
        self._free = asyncio.Semaphore(number)
        self._reservations: dict[str, asyncio.TimerHandle] = {}
        #: The tasks that have started and not ended; each with whether it still has its slot.
        self._has_slot: dict[str, bool] = {}

    @property
    def takes_runs(self) -> bool:
        """Whether the next message may be a run."""
        return self.runs.is_open

    async def until_takes_runs(self) -> None:
        """Return when the next message may be a run."""
        await self.runs.until_open()

    async def reserve(self) -> None:
        """Wait for a free slot, and reserve it for the message that comes next."""
        await self._free.acquire()

    def unreserve(self) -> None:
        """Free a reserved slot for which no message came."""
        self._free.release()

    def expect(self, task_id: str, is_run: bool) -> None:
        """Keep the reserved slot for a task, and a run slot if it is a launched run.

        Both are freed when the task has not started within ``RESERVATION_SECONDS``.
        """
        if is_run:
            self.runs.hold(task_id)
        # The same message twice: only one delivery of it will start.
        self._end_reservation(task_id)
        loop = asyncio.get_running_loop()
        self._reservations[task_id] = loop.call_later(RESERVATION_SECONDS, self._expire, task_id)

    def end_listening(self) -> None:
        """Note that no more messages are taken, whether by our own command or by taskiq's."""
        self.is_draining = True

    async def start(self, task_id: str, is_run: bool) -> None:
        """Start a task: take the slot that is reserved for it, else wait for a free one.

        Args:
            task_id: the task.
            is_run: whether it is a launched run, which needs a run slot as well. It takes one even
                if it was reserved before: of two deliveries of one run, the one that was dropped
                has freed the run slot of both.
        """
        timer = self._reservations.pop(task_id, None)
        if timer is not None:
            timer.cancel()
        else:
            await self._free.acquire()
        self._has_slot[task_id] = True
        if is_run:
            self.runs.hold(task_id)

    def free_while_waiting(self, task_id: str) -> bool:
        """Free the slot of a run that only waits for its own steps from now on.

        Returns:
            Whether it was freed: ``False`` for a task that is not a launched run, and so may not
            hold a process without a slot, and for one whose slot is free already.
        """
        if task_id not in self.runs or not self._has_slot.get(task_id):
            return False
        self._has_slot[task_id] = False
        self._free.release()
        return True

    def end(self, task_id: str) -> None:
        """Free what a task that has ended holds."""
        self.runs.free(task_id)
        if self._has_slot.pop(task_id):
            self._free.release()

    def release_reservation(self, task_id: str) -> None:
        """Free what is reserved for a task that will not run here; nothing if nothing is.

        If another delivery of its message has started here, its run slot is in use and stays.
        """
        if self._end_reservation(task_id) and task_id not in self._has_slot:
            self.runs.free(task_id)

    def take_no_more_runs(self, on_no_runs: Callable[[], None]) -> None:
        """Take steps only from now on, among them those of the runs that are held here.

        Args:
            on_no_runs: called when the last of these runs has ended; now if there is none.
        """
        self.is_draining = True
        self.runs.take_no_more(on_no_runs)

    def _end_reservation(self, task_id: str) -> bool:
        timer = self._reservations.pop(task_id, None)
        if timer is None:
            return False
        timer.cancel()
        self._free.release()
        return True

    def _expire(self, task_id: str) -> None:
        logger.error(
            "Task %s was received and did not start within %g s: a middleware may have raised an "
            "error. Its slot is free again.",
            task_id,
            RESERVATION_SECONDS,
        )
        self.release_reservation(task_id)


def _do_nothing() -> None:
    pass
