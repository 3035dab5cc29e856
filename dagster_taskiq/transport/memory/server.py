"""The 'server' of ``memory://``: plain data in this process, one for each URL."""

import asyncio
import itertools
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

from taskiq import BrokerMessage

from dagster_taskiq.transport.error_boundary import ErrorBoundary
from dagster_taskiq.transport.memory.schedule_store import MemorySchedules
from dagster_taskiq.transport.messages import Outgoing
from dagster_taskiq.wire.notifications import CHANNEL_LENGTH, Notification
from dagster_taskiq.wire.records import Task, Worker


@dataclass
class Message:
    """A message in memory."""

    number: int
    queue: str
    priority: int
    task_id: str
    body: bytes
    #: When it may be claimed, and begins to wait, in seconds since the epoch.
    due_at: float
    claimed_by: str = ""
    claimed_at: float = 0.0
    attempts: int = 0
    #: Why it was rejected, and when, in seconds since the epoch.
    rejected: str = ""
    rejected_at: float = 0.0


@dataclass
class MemoryServer:
    """The data of brokers and backends with the same URL. Used from one event loop."""

    messages: dict[int, Message] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    results: dict[str, bytes] = field(default_factory=dict)
    progress: dict[str, bytes] = field(default_factory=dict)
    #: Each worker, with the time of its last heartbeat.
    workers: dict[str, tuple[Worker, float]] = field(default_factory=dict)
    notifications: defaultdict[str, deque[Notification]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=CHANNEL_LENGTH))
    )
    schedules: MemorySchedules = field(default_factory=lambda: MemorySchedules({}, {}))
    numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    #: Translates nothing: memory is always available.
    boundary: ErrorBoundary = field(default_factory=lambda: ErrorBoundary("memory://"))
    #: The messages that were sent by a project's own code, for its tests; ``None``: they are not
    #: noted.
    sent: list[BrokerMessage] | None = None
    #: Whether such messages wait in their queues in any case, and nothing executes their tasks.
    is_held: bool = False
    _changes: int = 0
    _waiters: list["asyncio.Future[None]"] = field(default_factory=list)

    async def open(self) -> None:
        """Return; memory is always available."""

    async def close(self) -> None:
        """Return; the data stay until the process ends."""

    def put(self, message: Outgoing) -> None:
        """Add a message; the caller reports the change."""
        number = next(self.numbers)
        due_at = time.time() + message.delay
        self.messages[number] = Message(
            number, message.queue, message.priority, message.task_id, message.body, due_at
        )

    def clear(self) -> None:
        """Forget everything that was sent and recorded."""
        for each in (self.messages, self.tasks, self.results, self.workers, self.notifications):
            each.clear()
        self.changed()

    def mark(self) -> int:
        """Return a number for the present state, to wait for a later one."""
        return self._changes

    def changed(self) -> None:
        """Wake all that wait for a change."""
        self._changes += 1
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait_beyond(self, mark: int, timeout: float) -> None:
        """Return when something has changed since ``mark``, or after ``timeout`` seconds."""
        if self._changes != mark:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await asyncio.wait([waiter], timeout=timeout)

    def post(self, channel: str, body: dict[str, Any]) -> None:
        """Add a notification."""
        self.notifications[channel].append(Notification(str(next(self.numbers)), body))


_servers: dict[str, MemoryServer] = {}


def server_at(url: str) -> MemoryServer:
    """Return the server of ``url``, which lives as long as the process."""
    return _servers.setdefault(url, MemoryServer())
