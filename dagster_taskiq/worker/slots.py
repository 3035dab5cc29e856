"""Which messages a worker may take: its slots, its run slots, and who holds them.

A slot is for one task that works. A run slot is for one launched run, and bounds how many runs the
worker holds at once. A run that executes its steps in its own process needs both; a run that only
waits for steps it has sent keeps its run slot and frees its slot for another task.

How many slots there are is an option of the worker; its default is in
:func:`dagster_taskiq.worker.options.default_concurrency`. The slots of Dagster's concurrency pools
are something else: :mod:`dagster_taskiq.execution.pool_slots`.

The broker reserves a slot before it claims a message (:meth:`Slots.reserve`), and keeps it for the
task that the message names (:meth:`Slots.expect`). Then the worker records the start, and the task
takes the slot (:meth:`Slots.start`), or it does not run here and the reservation is released
(:meth:`Slots.release_reservation`).

There are no processes here: :mod:`dagster_taskiq.worker.pool` runs the tasks.
"""

import asyncio
import logging
from collections.abc import Callable

from dagster_taskiq.worker.free_slots import FreeSlots
from dagster_taskiq.worker.run_slots import RunSlots

logger = logging.getLogger(__name__)

#: How long a slot is kept for a message that taskiq has and that never starts, whatever the reason,
#: in seconds.
RESERVATION_SECONDS = 60.0
#: How many tasks of a worker may wait for the results of others without a slot, each in a process.
MOST_LENT = 100


class Slots:
    """The slots of one worker; the :class:`~dagster_taskiq.transport.gate.SlotGate` of its broker.

    To be used within one running event loop.
    """

    def __init__(self, number: int, max_runs: int, has_hosts: bool = False) -> None:
        """Let all slots be free.

        Args:
            number: how many tasks may work at once.
            max_runs: how many runs may be held at once.
            has_hosts: whether there are children that execute several async tasks in one slot.
                Then more messages may be taken than there are slots, while such a child has room;
                one that is not for it waits until a slot is free.
        """
        #: The launched runs that are held here.
        self.runs = RunSlots(max_runs)
        #: Whether the worker takes no more messages, or only those of steps.
        self.is_draining = False
        self._free = FreeSlots(number)
        #: The same without the room of hosts; ``None`` if it is the same.
        self._processes = FreeSlots(number) if has_hosts else None
        self._reservations: dict[str, asyncio.TimerHandle] = {}
        #: The tasks that have started and not ended; each with whether it still has its slot.
        self._has_slot: dict[str, bool] = {}
        #: Those of them that have lent their slot until they have what they wait for.
        self._lent: set[str] = set()
        #: Those of them that share no slot, if there are hosts.
        self._in_process: set[str] = set()

    @property
    def takes_runs(self) -> bool:
        """Whether the next message may be a run."""
        return self.runs.is_open

    async def until_takes_runs(self) -> None:
        """Return when the next message may be a run."""
        await self.runs.until_open()

    async def reserve(self) -> None:
        """Wait for a free slot, and reserve it for the message that comes next."""
        await self._free.take(for_next=True)

    def unreserve(self) -> None:
        """Free a reserved slot for which no message came."""
        self._free.note_came()
        self._free.give()

    def expect(self, task_id: str, is_run: bool) -> None:
        """Keep the reserved slot for a task, and a run slot if it is a launched run.

        Both are freed when the task has not started within ``RESERVATION_SECONDS``.
        """
        self._free.note_came()
        if is_run:
            self.runs.hold(task_id)
        # The same message twice: only one delivery of it will start.
        self._end_reservation(task_id)
        loop = asyncio.get_running_loop()
        self._reservations[task_id] = loop.call_later(RESERVATION_SECONDS, self._expire, task_id)

    def end_listening(self) -> None:
        """Note that no more messages are taken, whether by our own command or by taskiq's."""
        self.is_draining = True

    async def start(self, task_id: str, is_run: bool, in_host: bool = False) -> None:
        """Start a task: take the slot that is reserved for it, else wait for a free one.

        Args:
            task_id: the task.
            in_host: whether it shares the slot of a host.
            is_run: whether it is a launched run, which needs a run slot as well. It takes one even
                if it was reserved before: of two deliveries of one run, the one that was dropped
                has freed the run slot of both.
        """
        timer = self._reservations.pop(task_id, None)
        if timer is not None:
            timer.cancel()
        else:
            await self._free.take()
        if self._processes is not None and not in_host:
            try:
                await self._processes.take()
            except asyncio.CancelledError:
                self._free.give()
                raise
            self._in_process.add(task_id)
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
        self._give(task_id)
        return True

    async def start_host(self, room: int) -> None:
        """Take a slot for a child that executes several async tasks, each of which is started.

        Args:
            room: how many it executes at once.
        """
        if self._processes is not None:
            await self._processes.take()
            self._free.add(room - 1)

    def end_host(self, room: int, *, has_slot: bool) -> None:
        """Free the slot of such a child, unless it is lent."""
        if self._processes is not None:
            if has_slot:
                self._processes.give()
            self._free.add(1 - room)

    def lend_host(self) -> None:
        """Free the slot of such a child, all tasks of which have lent their places in it."""
        if self._processes is not None:
            self._processes.give()

    async def take_host_back(self) -> None:
        """Return when such a child has a slot again."""
        if self._processes is not None:
            await self._processes.take_back()

    def lend(self, task_id: str) -> bool:
        """Free the slot of a task that only waits for the results of others.

        Returns:
            Whether it was freed: ``False`` if the task has none, or so many tasks wait already,
            each in a process of its own, that there may be no more.
        """
        if not self._has_slot.get(task_id):
            return False
        if len(self._lent) >= MOST_LENT:
            logger.warning(
                "%d tasks wait for the results of others. Task %s waits too, and keeps its slot: "
                "if the tasks that it waits for find no other worker, it waits for ever.",
                MOST_LENT,
                task_id,
            )
            return False
        self._lent.add(task_id)
        self._has_slot[task_id] = False
        self._give(task_id)
        return True

    async def take_back(self, task_id: str) -> bool:
        """Return when a task that has lent its slot has one again.

        Returns:
            Whether it had lent it; if not, nothing changes.
        """
        if task_id not in self._lent:
            return False
        processes = self._processes if task_id in self._in_process else None
        # In this order, as :meth:`start`: who has one of the first waits for one of the others.
        await self._free.take_back()
        if processes is not None:
            await processes.take_back()
        if task_id in self._lent:
            self._lent.discard(task_id)
            self._has_slot[task_id] = True
        else:  # it has ended meanwhile
            self._free.give()
            if processes is not None:
                processes.give()
        return True

    def end(self, task_id: str) -> None:
        """Free what a task that has ended holds."""
        self.runs.free(task_id)
        self._lent.discard(task_id)
        if self._has_slot.pop(task_id):
            self._give(task_id)
        self._in_process.discard(task_id)

    def _give(self, task_id: str) -> None:
        """Let the slot be free that a task has."""
        if self._processes is not None and task_id in self._in_process:
            self._processes.give()
        self._free.give()

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
        self._free.give()
        return True

    def _expire(self, task_id: str) -> None:
        logger.error(
            "Task %s was received and did not start within %g s; see the errors before this. "
            "Its slot is free again.",
            task_id,
            RESERVATION_SECONDS,
        )
        self.release_reservation(task_id)
