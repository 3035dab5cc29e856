"""Children that execute users' async tasks side by side, each in the slot of one task.

A task that only awaits needs no process of its own, and hundreds of them no hundred processes. The
price is that they are not apart from each other: a task that blocks its event loop blocks them all,
and what kills the process of one ends them all. So it is an option of the worker.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from taskiq import TaskiqMessage

from dagster_taskiq.wire.labels import CODE_LABEL
from dagster_taskiq.wire.stop_causes import StopCause
from dagster_taskiq.wire.task_names import is_own_task
from dagster_taskiq.worker.child_process import ChildProcess
from dagster_taskiq.worker.children import Children
from dagster_taskiq.worker.fork_server.client import Exit
from dagster_taskiq.worker.slots import Slots


class SharedChild:
    """A child as one of its tasks sees it, which several have."""

    def __init__(self, host: "AsyncHost", task_id: str) -> None:
        self.host = host
        self.task_id = task_id
        self._frames: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._kill_timer: asyncio.TimerHandle | None = None
        #: Whether the task was stopped.
        self.is_stopped = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.host.child.pid

    @property
    def tasks_done(self) -> int:
        """How many tasks it has run."""
        return self.host.child.tasks_done

    def note_task_done(self) -> None:
        """Count one more."""
        self.host.child.note_task_done()

    def send(self, frame: dict[str, Any]) -> None:
        """Send it a frame about the task."""
        self.host.child.send({**frame, "id": self.task_id})

    async def receive(self) -> dict[str, Any] | None:
        """Return its next frame about the task; ``None`` when it has ended."""
        return await self._frames.get()

    def deliver(self, frame: dict[str, Any] | None) -> None:
        """Let :meth:`receive` return a frame."""
        self._frames.put_nowait(frame)

    def request_stop(self, reason: str, cause: StopCause, grace: float) -> None:
        """Cancel the task, and kill the child with all its tasks if it does not end in time."""
        self.is_stopped = True
        self.send({"stop": reason, "cause": cause})
        self._kill_timer = asyncio.get_running_loop().call_later(grace, self.kill)

    def kill(self) -> None:
        """Kill the child with all its tasks."""
        self.is_stopped = True
        self.host.child.kill()

    async def wait_for_exit(self) -> Exit | None:
        """Return how the child ended."""
        return await self.host.child.wait_for_exit()

    def take_no_more(self) -> None:
        """Let the child end when its tasks have ended: it has run enough, or left something."""
        self.host.is_open = False

    def leave(self) -> None:
        """Note that the task has ended."""
        if self._kill_timer is not None:
            self._kill_timer.cancel()


class AsyncHost:
    """One child with async tasks."""

    def __init__(self, child: ChildProcess) -> None:
        self.child = child
        self.tasks: dict[str, SharedChild] = {}
        #: Those of its tasks that wait for the results of others.
        self.waiting: set[str] = set()
        #: Whether its slot is lent, as all its tasks wait; and the lock to take it back.
        self.is_lent = False
        self.taking_back = asyncio.Lock()
        #: Whether it takes more tasks.
        self.is_open = True
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        """Give each frame to its task, until the child has ended."""
        while (frame := await self.child.receive()) is not None:
            task = self.tasks.get(str(frame.get("id")))
            if task is not None:
                task.deliver(frame)
        self.is_open = False
        for task in self.tasks.values():
            task.deliver(None)

    def close(self) -> None:
        """Read no more."""
        self._reading.cancel()


class AsyncHosts:
    """The children of one worker that execute async tasks."""

    def __init__(
        self, room: int, children: Children, slots: Slots, names: Callable[[], frozenset[str]]
    ) -> None:
        """Have none yet.

        Args:
            room: how many tasks each executes at once; 0 if there are to be none.
            children: where they come from.
            slots: of the worker.
            names: returns the names of the tasks that are coroutines.
        """
        self._room = room
        self._children = children
        self._slots = slots
        self._names = names
        self._hosts: list[AsyncHost] = []
        self._opening = asyncio.Lock()

    def serves(self, message: TaskiqMessage) -> bool:
        """Return whether the task of a message is to be executed beside others."""
        return (
            self._room > 0
            and is_own_task(message.task_name, message.labels)
            and message.task_name in self._names()
        )

    @asynccontextmanager
    async def joined(self, message: TaskiqMessage) -> AsyncIterator[SharedChild]:
        """Have room for a task in a child, inside the block."""
        code = str(message.labels.get(CODE_LABEL, ""))
        async with self._opening:
            host = self._with_room(code) or await self._open(code)
            task = SharedChild(host, message.task_id)
            host.tasks[message.task_id] = task
        try:
            yield task
        finally:
            task.leave()
            del host.tasks[message.task_id]
            host.waiting.discard(message.task_id)
            if not host.tasks:
                self._release(host)
            else:
                self._lend_if_all_wait(host)

    def lend(self, task: SharedChild) -> None:
        """Let another task have the place of one that waits for the results of others.

        When all tasks of a child wait, its slot is free for another child.
        """
        if self._slots.lend(task.task_id):
            task.host.waiting.add(task.task_id)
            self._lend_if_all_wait(task.host)

    async def take_back(self, task: SharedChild) -> None:
        """Return when a task that has lent its place may work on."""
        if not await self._slots.take_back(task.task_id):
            return
        host = task.host
        async with host.taking_back:
            if host.is_lent:
                await self._slots.take_host_back()
                self._note_taken_back(host)
            host.waiting.discard(task.task_id)

    def _note_taken_back(self, host: AsyncHost) -> None:
        if host.is_lent:
            host.is_lent = False
            self._children.note_slot_taken(host.child)
        else:  # all its tasks have ended meanwhile
            self._slots.lend_host()

    def _lend_if_all_wait(self, host: AsyncHost) -> None:
        if not host.is_lent and host.tasks and host.waiting >= host.tasks.keys():
            host.is_lent = True
            self._slots.lend_host()
            self._children.note_slot_freed(host.child)

    def close(self) -> None:
        """Read nothing more; the children are ended by :class:`Children`."""
        for host in self._hosts:
            host.close()

    def _with_room(self, code: str) -> AsyncHost | None:
        """Return a child that works and has room, the fullest of them."""
        found = [
            host
            for host in self._hosts
            if host.is_open
            and not host.is_lent
            and host.child.code == code
            and 0 < len(host.tasks) < self._room
        ]
        return max(found, key=lambda host: len(host.tasks), default=None)

    async def _open(self, code: str) -> AsyncHost:
        """Let a child work that waits, or a new one, in a slot of its own."""
        await self._slots.start_host(self._room)
        for host in self._hosts:
            if host.is_open and not host.tasks and host.child.code == code:
                self._children.note_slot_taken(host.child)
                return host
        host = AsyncHost(await self._children.take(code))
        self._hosts.append(host)
        return host

    def _release(self, host: AsyncHost) -> None:
        """Free the slot of a child that has no task, and keep the child unless it is used up."""
        if host.is_open and host.child.is_usable:
            self._children.note_slot_freed(host.child)
        else:
            host.close()
            self._hosts.remove(host)
            self._children.give_back(host.child, is_reusable=False)
        has_slot, host.is_lent = not host.is_lent, False
        self._slots.end_host(self._room, has_slot=has_slot)
