"""The synchronous door to the asynchronous broker and backend.

Dagster is synchronous, taskiq is not. One event loop runs on a thread of its own for the whole
process (anyio's blocking portal); connections are opened on it once and closed at exit.
"""

import asyncio
import atexit
import concurrent.futures
import os
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal
from taskiq import TaskiqMessage, TaskiqResult
from taskiq.exceptions import ResultGetError

from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport import registry
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.connection import reach
from dagster_taskiq.transport.eviction import Eviction
from dagster_taskiq.wire.commands import Command, command
from dagster_taskiq.wire.labels import (
    EXPIRED,
    WORKER_LABEL,
    has_expired,
)
from dagster_taskiq.wire.notifications import Notification, worker_channel
from dagster_taskiq.wire.queues import QueueDepth
from dagster_taskiq.wire.records import Task, TaskState, Worker
from dagster_taskiq.wire.task_request import TaskRequest

T = TypeVar("T")

#: How long one wait may block the calling thread before it looks for an interrupt, in seconds.
#: An interrupt is only noticed between two waits.
SLICE_SECONDS = 0.25


class Client:
    """One broker and backend, open, for callers on any thread. Make it with :func:`client_for`.

    Every method raises ``ServerUnavailableError`` if the server does not answer.
    """

    def __init__(self, settings: Settings, portal: BlockingPortal) -> None:
        self.settings = settings
        self._portal = portal
        self.broker: QueueBroker = registry.make(settings)
        backend = self.broker.result_backend
        if not isinstance(backend, StateBackend):
            raise TypeError(f"{backend!r} keeps no state of tasks and workers.")
        self.backend: StateBackend = backend

    @property
    def in_process(self) -> "Client | None":
        """Itself, where tasks run in this process, which has to claim them; ``None`` elsewhere."""
        return self if self.settings.broker.startswith("memory:") else None

    def open(self) -> None:
        """Connect, and see that broker and backend answer within ``connect_timeout``.

        Raises:
            ServerUnavailableError: one of them does not.
            ConfigError: one of them refuses us, or an option is wrong.
        """
        self._call(self.broker.startup)
        try:
            for server in (self.broker, self.backend):
                self._call(partial(reach, server, self.settings.connect_timeout))
        except ServerUnavailableError:
            self.close()
            raise

    def close(self) -> None:
        """Disconnect."""
        self._call(self.broker.shutdown)

    def submit(self, *orders: TaskRequest) -> list[str]:
        """Send tasks, in this order; when this returned, the broker has them.

        Where it raises, it may have some of them: to send all of them again is safe, since a task
        starts only once.

        Returns:
            Their ids.
        """
        tasks = [
            Task(
                id=order.id,
                name=order.name,
                queue=order.queue,
                run_id=order.run_id,
                step_key=order.step_key,
            )
            for order in orders
        ]
        messages = [self.broker.formatter.dumps(order.message()) for order in orders]

        async def send() -> None:
            await self.backend.submitted(tasks)
            await self.broker.kick_all(messages)

        self._call(send)
        return [order.id for order in orders]

    def revoke(self, task_ids: Sequence[str], reason: str, at_once: bool = False) -> None:
        """Cancel tasks: what waits is taken out of its queue, what runs is stopped.

        Args:
            task_ids: which.
            reason: for logs and for whoever asks what became of them.
            at_once: what runs is killed, with no time to write anything more.
        """

        async def work() -> None:
            started = await self.backend.revoke(task_ids, reason)
            for task_id, worker in started.items():
                body = command(Command.REVOKE, task=task_id, reason=reason, at_once=at_once)
                await self.backend.post(worker_channel(worker), body)
            await self.broker.discard([each for each in task_ids if each not in started])

        self._call(work)

    def stop_later(self, task: Task, reason: str, seconds: float) -> None:
        """Have a started task stopped by its worker after so many seconds."""
        self.tell(task.worker, command(Command.REVOKE, task=task.id, reason=reason, after=seconds))

    def stop_where_it_runs(self, task_id: str, reason: str, *, begun: bool) -> bool:
        """Stop a task of which the backend has lost the record, where a worker says it runs it.

        Args:
            task_id: which.
            reason: for logs and for whoever asks what became of it.
            begun: whether somebody must have begun it. Then a worker that does not say so may not
                have beaten since, and its next heartbeat is waited for, or the end of its lease.

        Returns:
            Whether one runs it, by its last heartbeat.
        """
        first_seen: dict[str, float] = {}
        while True:
            alive = [worker for worker in self.workers() if not worker.is_lost]
            found = [worker.id for worker in alive if worker.runs(task_id)]
            for worker_id in found:
                self.tell(worker_id, command(Command.REVOKE, task=task_id, reason=reason))
            if found or not begun:
                return bool(found)
            uptimes = {worker.id: worker.uptime for worker in alive}
            first_seen = {**uptimes, **first_seen}
            if all(uptimes[worker_id] != first_seen[worker_id] for worker_id in uptimes):
                return False
            time.sleep(SLICE_SECONDS)

    def tell(self, worker_id: str, body: Mapping[str, Any]) -> None:
        """Send a worker a command (see ``worker.control``)."""
        self._call(lambda: self.backend.post(worker_channel(worker_id), dict(body)))

    def tasks(self, task_ids: Sequence[str]) -> dict[str, Task]:
        """Return what is known of these tasks, by id."""
        return self._call(lambda: self.backend.tasks(task_ids))

    def result(self, task_id: str) -> TaskiqResult[Any] | None:
        """Return how a task has ended, with its value or error; ``None`` where it has not.

        So it is of one that nobody knows, or that has been forgotten. A step or run has no value:
        what became of it is in Dagster's event log.
        """

        async def look() -> TaskiqResult[Any] | None:
            if not await self.backend.is_result_ready(task_id):
                return None
            try:
                return await self.backend.get_result(task_id)
            except ResultGetError:  # it has expired, or was forgotten, this moment
                return None

        return self._call(look)

    def forget(self, task_ids: Sequence[str]) -> None:
        """Delete what the backend knows of those of these tasks that have ended."""
        self._call(lambda: self.backend.forget(task_ids))

    def mark_lost(self, task: Task, error: str) -> bool:
        """Record that a task's worker is lost; ``False`` when the task has ended meanwhile."""
        return self._call(lambda: self.backend.mark_lost(task, error))

    def workers(self) -> list[Worker]:
        """Return the workers that are known, the lost ones too."""
        return self._call(self.backend.workers)

    def worker(self, worker_id: str) -> Worker | None:
        """Return one worker, lost or not; ``None`` where it is not known."""
        return next((each for each in self.workers() if each.id == worker_id), None)

    def confirm_lost(self, worker: Worker) -> Worker | None:
        """Look at a worker that seems lost until it beats, or until it would have.

        One look proves nothing: the server may have come back this moment with what it knew before
        it went away, or this machine may just have woken up. Takes two heartbeats at the most.

        Returns:
            The worker as it stands when it is lost indeed, else ``None``.
        """
        deadline = time.monotonic() + 2 * self.settings.heartbeat_interval
        while worker.is_lost:
            left = deadline - time.monotonic()
            if left <= 0:
                return worker
            time.sleep(min(left, SLICE_SECONDS))
            found = self.worker(worker.id)
            if found is None:
                return worker
            worker = found
        return None

    def evictions(self) -> dict[str, Eviction]:
        """Return how servers delete messages or records to make room, by URL; of those that do."""

        async def look() -> list[Eviction | None]:
            return [await self.broker.eviction(), await self.backend.eviction()]

        return {each.server: each for each in self._call(look) if each is not None}

    def depths(self) -> list[QueueDepth]:
        """Return what waits in each queue."""
        return self._call(self.broker.depths)

    def is_empty(self, queue: str) -> bool:
        """Return whether no message of a queue waits or is being taken, runs left aside."""
        return self._call(lambda: self.broker.is_empty(queue))

    def rejected(self) -> int:
        """Return how many messages were set aside as unreadable."""
        return self._call(self.broker.rejected)

    def wait(
        self, channel: str, after: str, timeout: float, interrupted: Callable[[], bool]
    ) -> list[Notification]:
        """Return the mail of a channel after a cursor; wait for it, up to ``timeout`` seconds.

        Args:
            channel: which one.
            after: a cursor, or ``FROM_START``.
            timeout: seconds.
            interrupted: asked every quarter of a second; the wait ends when it says so.
        """
        future = self._portal.start_task_soon(self.backend.collect, channel, after, timeout)
        deadline = time.monotonic() + timeout + 1.0
        try:
            while not future.done() and not interrupted() and time.monotonic() < deadline:
                concurrent.futures.wait([future], SLICE_SECONDS)
            if not future.done():
                return []
            return future.result()
        finally:
            future.cancel()

    def close_channel(self, channel: str) -> None:
        """Delete the mail of a channel that nobody will read any more."""
        self._call(lambda: self.backend.close_channel(channel))

    def claim_in_process(self) -> tuple[TaskiqMessage, Task] | None:
        """Start the next waiting task on behalf of this process, which then has to run it.

        Returns:
            Its message, and the record to pass to :meth:`finish_in_process`; ``None`` when
            nothing waits. Tasks that were revoked meanwhile, or have expired, are dropped.
        """
        me = f"process-{os.getpid()}"

        async def claim() -> tuple[TaskiqMessage, Task] | None:
            while (delivery := await self.broker.claim()) is not None:
                message = self.broker.formatter.loads(delivery.body)
                known = (await self.backend.tasks([delivery.task_id])).get(delivery.task_id)
                task = replace(known or Task(delivery.task_id), worker=me)
                refused = await self.backend.start(task)
                await self.broker.acknowledge(delivery)
                if refused is not None:
                    continue
                if not has_expired(message.labels):
                    return message, task
                await self.backend.finish(task, TaskState.REVOKED, EXPIRED, None)
            return None

        self.broker.queues = tuple(each.queue for each in self.depths())
        return self._call(claim)

    def finish_in_process(self, task: Task, result: TaskiqResult[Any]) -> None:
        """Record how a task that :meth:`claim_in_process` started has ended."""
        result.labels[WORKER_LABEL] = task.worker
        self._call(lambda: self.backend.set_result(task.id, result))

    def _call(self, work: Callable[[], Awaitable[T]]) -> T:
        return self._portal.call(work)


@dataclass
class _Process:
    """What this process has open; a fork starts with nothing of it."""

    pid: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    portal: BlockingPortal | None = None
    stack: AbstractContextManager[BlockingPortal] | None = None
    clients: dict[str, Client] = field(default_factory=dict)


_process = _Process(os.getpid())


def client_for(settings: Settings) -> Client:
    """Return the open client for ``settings``; the same one for equal settings.

    Raises:
        ServerUnavailableError: broker or backend does not answer within ``connect_timeout``.
        ConfigError: the settings cannot work.
    """
    global _process  # noqa: PLW0603 - replaced in a forked process, whose threads are gone
    if _process.pid != os.getpid():
        _process = _Process(os.getpid())
    with _process.lock:
        key = str(settings.to_dict())
        client = _process.clients.get(key)
        if client is None:
            client = Client(settings, _portal())
            client.open()
            _process.clients[key] = client
        return client


def _portal() -> BlockingPortal:
    if _process.portal is None:
        _process.stack = start_blocking_portal()
        _process.portal = _process.stack.__enter__()
        _process.portal.call(_name_threads)
        atexit.register(_close, _process)
    return _process.portal


async def _name_threads() -> None:
    """Let the threads that stay for as long as this process lives be known by their names."""
    threading.current_thread().name = "dagster-taskiq-client"
    threads = ThreadPoolExecutor(thread_name_prefix="dagster-taskiq-client")
    asyncio.get_running_loop().set_default_executor(threads)


def _close(process: _Process) -> None:
    if process.pid != os.getpid() or process.stack is None:
        return
    with ExitStack() as stack:
        # Whatever goes wrong with a client, a thread that still runs would keep the process.
        stack.push(process.stack)
        for client in process.clients.values():
            stack.callback(client.close)
    process.clients.clear()
    process.stack = process.portal = None
