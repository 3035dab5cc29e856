"""Synchronous access to the asynchronous broker and backend.

A project's own tasks are sent from synchronous code by :func:`send` and :func:`call`. The rest is
how Dagster's runs use a broker and backend.

Dagster is synchronous, taskiq is not. Everything is done on the event loop that this process has in
the background; connections are opened there once and closed when the process ends.
"""

import concurrent.futures
import os
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from anyio.from_thread import BlockingPortal
from taskiq import BrokerMessage, TaskiqMessage, TaskiqResult
from taskiq.depends.progress_tracker import TaskProgress
from taskiq.exceptions import ResultGetError

from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.sent_tasks import SentTask, call, send
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.settings.urls import scheme_of
from dagster_taskiq.transport import current
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.connection import reach
from dagster_taskiq.transport.eviction import Eviction
from dagster_taskiq.transport.home_loop import background
from dagster_taskiq.transport.hooks import observed_sending
from dagster_taskiq.wire.commands import Command, command
from dagster_taskiq.wire.labels import (
    EXPIRED,
    WORKER_LABEL,
    attempt_of,
    has_expired,
)
from dagster_taskiq.wire.notifications import Notification, worker_channel
from dagster_taskiq.wire.queues import QueueDepth
from dagster_taskiq.wire.records import Task, TaskState, Worker
from dagster_taskiq.wire.rejected_messages import LISTED, RejectedMessage
from dagster_taskiq.wire.task_request import TaskRequest

__all__ = ["Client", "InProcessQueue", "SentTask", "call", "client_for", "send"]

T = TypeVar("T")

#: How long one wait may block the calling thread before it looks for an interrupt, in seconds.
#: An interrupt is only noticed between two waits.
SLICE_SECONDS = 0.25


class Client:
    """One broker and backend, open, for callers on any thread. Make it with :func:`client_for`.

    Every method raises ``ServerUnavailableError`` if the server does not answer.
    """

    def __init__(self, settings: Settings, portal: BlockingPortal) -> None:
        """Connect to nothing yet.

        Args:
            settings: broker, backend and how they are used.
            portal: runs coroutines in the event loop of this process.

        Raises:
            ConfigError: the settings cannot work.
            TypeError: the backend keeps no state of tasks and workers.
        """
        self.settings = settings
        self._portal = portal
        self.broker: QueueBroker = current.make(settings)
        backend = self.broker.result_backend
        if not isinstance(backend, StateBackend):
            raise TypeError(f"{backend!r} keeps no state of tasks and workers.")
        self.backend: StateBackend = backend
        #: The reads that no wait has seen the end of: cursor and notifications, by channel.
        self._reads: dict[str, tuple[str, concurrent.futures.Future[list[Notification]]]] = {}
        #: The tasks that this process has to execute itself; ``None`` if workers do that.
        self.in_process: InProcessQueue | None = None
        if scheme_of(self.broker.settings.broker) == "memory":
            self.in_process = InProcessQueue(self.broker, self.backend, portal)

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

    def submit(self, *requests: TaskRequest) -> list[str]:
        """Send tasks, in this order; when this returns, the broker has them.

        If it raises, the broker may have some of them. To send all of them again is safe, since a
        task starts only once.

        Returns:
            Their ids.
        """
        tasks = [
            Task(
                id=request.id,
                name=request.name,
                queue=request.queue,
                run_id=request.run_id,
                step_key=request.step_key,
            )
            for request in requests
        ]
        messages = [request.message() for request in requests]

        async def send() -> None:
            await self.backend.submitted(tasks)
            await self.broker.kick_all([self.broker.formatter.dumps(each) for each in messages])

        with self.broker.traced(messages) as stamp:
            for each in messages:
                stamp(each.labels)
            with observed_sending(messages):
                self._call(send)
        return [request.id for request in requests]

    def revoke(self, task_ids: Sequence[str], reason: str, at_once: bool = False) -> None:
        """Cancel tasks: what waits is taken out of its queue, what runs is stopped.

        Args:
            task_ids: the tasks.
            reason: for logs, and for the records of the tasks.
            at_once: what runs is killed, with no time to write anything more.
        """
        self._call(lambda: self.broker.cancel(task_ids, reason, at_once=at_once))

    def stop_later(self, task: Task, reason: str, seconds: float) -> None:
        """Have a started task stopped by its worker after so many seconds."""
        self.send_command(
            task.worker, command(Command.REVOKE, task=task.id, reason=reason, after=seconds)
        )

    def stop_where_it_runs(self, task_id: str, reason: str, *, begun: bool) -> bool:
        """Stop a task of which the backend has lost the record, on the workers that run it.

        Args:
            task_id: the task.
            reason: for logs, and for the record of the task.
            begun: whether the task is known to have begun. Then a worker whose heartbeat does not
                report it may have started it since: its next heartbeat is waited for, or the end of
                its lease.

        Returns:
            Whether a worker runs it, by its last heartbeat.
        """
        first_seen: dict[str, float] = {}
        while True:
            alive = [worker for worker in self.workers() if not worker.is_lost]
            found = [worker.id for worker in alive if worker.runs(task_id)]
            for worker_id in found:
                self.send_command(worker_id, command(Command.REVOKE, task=task_id, reason=reason))
            if found or not begun:
                return bool(found)
            uptimes = {worker.id: worker.uptime for worker in alive}
            first_seen = {**uptimes, **first_seen}
            if all(uptimes[worker_id] != first_seen[worker_id] for worker_id in uptimes):
                return False
            time.sleep(SLICE_SECONDS)

    def send_command(self, worker_id: str, body: Mapping[str, Any]) -> None:
        """Send a worker a command.

        Args:
            worker_id: the worker.
            body: as :func:`dagster_taskiq.wire.commands.command` makes it.
        """
        self._call(lambda: self.backend.post(worker_channel(worker_id), dict(body)))

    def tasks(self, task_ids: Sequence[str]) -> dict[str, Task]:
        """Return what is known of these tasks, by id."""
        return self._call(lambda: self.backend.tasks(task_ids))

    def result(self, task_id: str) -> TaskiqResult[Any] | None:
        """Return how a task has ended, with its value or error; ``None`` if it has not.

        ``None`` as well if the backend has no record of it. A step or run has no value: what became
        of it is in Dagster's event log.
        """

        async def look() -> TaskiqResult[Any] | None:
            if not await self.backend.is_result_ready(task_id):
                return None
            try:
                return await self.backend.get_result(task_id)
            except ResultGetError:  # it has expired, or was deleted, meanwhile
                return None

        return self._call(look)

    def set_result(self, task_id: str, result: TaskiqResult[Any]) -> None:
        """Record the end of a user's own task that no worker has started; else do nothing."""
        self._call(lambda: self.backend.set_result(task_id, result))

    def progress(self, task_id: str) -> TaskProgress[Any] | None:
        """Return the progress that a task has set; ``None`` if it has not."""
        return self._call(lambda: self.backend.get_progress(task_id))

    def set_progress(self, task_id: str, progress: TaskProgress[Any]) -> None:
        """Keep the progress of a task for as long as its record.

        Raises:
            TypeError: it is not JSON.
        """
        self._call(lambda: self.backend.set_progress(task_id, progress))

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
        """Return one worker, lost or not; ``None`` if the backend has no record of it."""
        return next((each for each in self.workers() if each.id == worker_id), None)

    def confirm_lost(self, worker: Worker) -> Worker | None:
        """Wait for a heartbeat of a worker that seems lost.

        One look proves nothing: the server may just have come back with the data it had before an
        outage, or this machine may just have been resumed. Waits for two heartbeats at most.

        Returns:
            The last record of the worker if it is lost, else ``None``.
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
        """Return whether no message of a queue waits or is being taken, apart from runs."""
        return self._call(lambda: self.broker.is_empty(queue))

    def rejected(self) -> int:
        """Return how many messages were rejected as unreadable."""
        return self._call(self.broker.rejected)

    def rejected_messages(self, limit: int = LISTED) -> list[RejectedMessage]:
        """Return those messages, at most ``limit``, and fewer of large ones."""
        return self._call(lambda: self.broker.list_rejected(limit))

    def requeue(self, ids: Sequence[str]) -> list[str]:
        """Put such messages back into their queues, to be delivered again.

        Returns:
            The ids of those that were put back; others are not there, or not whole.
        """
        return self._call(lambda: self.broker.requeue(ids))

    def delete_rejected(self, ids: Sequence[str]) -> list[str]:
        """Delete such messages; return the ids of those that were there."""
        return self._call(lambda: self.broker.delete_rejected(ids))

    def wait(
        self, channel: str, after: str, timeout: float, interrupted: Callable[[], bool]
    ) -> list[Notification]:
        """Return the notifications of a channel after a cursor; if there are none, wait for some.

        Args:
            channel: the channel.
            after: a cursor, or ``FROM_START``.
            timeout: how long to wait, in seconds.
            interrupted: called every ``SLICE_SECONDS``; the wait ends when it returns true.
        """
        # One read may serve several waits, since it is a command to the server.
        read_seconds = max(timeout, self.backend.read_seconds)
        future = self._take_read(channel, after) or self._portal.start_task_soon(
            self.backend.collect, channel, after, read_seconds
        )
        goes_on = read_seconds > timeout
        deadline = time.monotonic() + timeout + (0.0 if goes_on else 1.0)
        is_kept = False
        try:
            while not future.done() and not interrupted():
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                concurrent.futures.wait([future], min(left, SLICE_SECONDS))
            if future.done():
                return future.result()
            is_kept = goes_on
            return []
        finally:
            if is_kept:
                self._reads[channel] = (after, future)
            else:
                future.cancel()

    def close_channel(self, channel: str) -> None:
        """Delete a channel that is not read any more."""
        self._take_read(channel, None)
        self._call(lambda: self.backend.close_channel(channel))

    def _take_read(
        self, channel: str, after: str | None
    ) -> concurrent.futures.Future[list[Notification]] | None:
        """Return the read of a channel that goes on, if it began at a cursor; end any other."""
        cursor, future = self._reads.pop(channel, (None, None))
        if future is not None and cursor != after:
            future.cancel()
            return None
        return future

    def _call(self, work: Callable[[], Awaitable[T]]) -> T:
        return self._portal.call(work)


class InProcessQueue:
    """Tasks that are sent to the process that sends them, which has to execute them itself."""

    def __init__(self, broker: QueueBroker, backend: StateBackend, portal: BlockingPortal) -> None:
        """Claim nothing yet.

        Args:
            broker: where the tasks are sent, and which has their functions.
            backend: where they are recorded.
            portal: runs coroutines in the event loop of this process.
        """
        self.broker = broker
        self._backend = backend
        self._portal = portal

    def claim(self) -> tuple[TaskiqMessage, Task] | None:
        """Start the next waiting task on behalf of this process, which then has to execute it.

        Returns:
            Its message, and the record to pass to :meth:`finish`; ``None`` if nothing waits. Tasks
            that were revoked meanwhile, or have expired, are dropped.
        """
        return self._portal.call(self._claim)

    def finish(self, task: Task, result: TaskiqResult[Any]) -> None:
        """Record how a task that :meth:`claim` started has ended."""
        result.labels[WORKER_LABEL] = task.worker
        self._portal.call(self._backend.set_result, task.id, result)

    def put_back(self, task: Task, message: BrokerMessage | None) -> None:
        """Have a task that :meth:`claim` started wait again.

        Args:
            task: the task.
            message: its new message, if it has one already.
        """
        sent = None if message is None else self.broker.outgoing(message)
        self._portal.call(self._backend.put_back, task, sent)

    async def _claim(self) -> tuple[TaskiqMessage, Task] | None:
        broker, backend = self.broker, self._backend
        broker.queues = tuple(each.queue for each in await broker.depths())
        while (delivery := await broker.claim()) is not None:
            message = broker.formatter.loads(delivery.body)
            known = (await backend.tasks([delivery.task_id])).get(delivery.task_id)
            task = replace(
                known or Task(delivery.task_id),
                worker=f"process-{os.getpid()}",
                attempt=attempt_of(message.labels),
            )
            refused = await backend.start(task)
            await broker.acknowledge(delivery)
            if refused is not None:
                continue
            if not has_expired(message.labels):
                return message, task
            await backend.finish(task, TaskState.REVOKED, EXPIRED, None)
        return None


#: The open clients of this process, by their settings.
_clients: dict[str, Client] = {}
_opening = threading.Lock()
#: What a forked process has inherited and does not use.
_inherited: list[object] = []


def client_for(settings: Settings) -> Client:
    """Return the open client for ``settings``; the same one for equal settings.

    Raises:
        ServerUnavailableError: broker or backend does not answer within ``connect_timeout``.
        ConfigError: the settings cannot work.
    """
    with _opening:
        key = str(settings.to_dict())
        client = _clients.get(key)
        if client is None:
            client = Client(settings, background().portal)
            client.open()
            _clients[key] = client
        return client


def _forget() -> None:
    """Begin with no client in a process that was forked."""
    global _opening, _clients
    # The other's connections must not be closed here, so they are kept.
    _inherited.append(_clients)
    _opening, _clients = threading.Lock(), {}


os.register_at_fork(after_in_child=_forget)
