"""The broker in this process's memory, for tests, debugging and a job that needs no worker."""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

from taskiq import BrokerMessage
from taskiq.events import TaskiqEvents
from taskiq.utils import maybe_awaitable

from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.current_task import own_task
from dagster_taskiq.transport.memory.server import MemoryServer, Message, server_at
from dagster_taskiq.transport.message_queues import Prepare
from dagster_taskiq.transport.messages import Delivery, Outgoing
from dagster_taskiq.wire.queues import QueueDepth
from dagster_taskiq.wire.rejected_messages import RejectedMessage, preview_of


class MemoryBroker(QueueBroker):
    """Messages are objects, which end with the process."""

    def __init__(self, settings: Settings, connection: MemoryServer | None = None) -> None:
        super().__init__(settings)
        self.connection: MemoryServer = connection or server_at(settings.broker)
        self._mark = 0
        #: Executes what a project sends, where it is sent; ``None``: it waits in its queue.
        self.execute: Callable[[BrokerMessage], Awaitable[None]] | None = None

    async def startup(self) -> None:
        """Run the handlers of taskiq's events, of clients and of workers: it is both."""
        await super().startup()
        if self.execute is not None:
            for handler in self.event_handlers[TaskiqEvents.WORKER_STARTUP]:
                await maybe_awaitable(handler(self.state))

    async def shutdown(self) -> None:
        """Undo :meth:`startup`."""
        if self.execute is not None:
            for handler in self.event_handlers[TaskiqEvents.WORKER_SHUTDOWN]:
                await maybe_awaitable(handler(self.state))
        await super().shutdown()

    async def kick(self, message: BrokerMessage) -> None:
        """Send one message, or execute its task, on the event loop of the caller."""
        if own_task(message.task_id) is None:
            self.outgoing(message)  # refuses labels that cannot be used
            if self.connection.sent is not None:
                self.connection.sent.append(message)
            if self.execute is not None and not self.connection.is_held:
                await self.execute(message)
                return
        await super().kick(message)

    async def ping(self) -> None:
        """Return."""

    async def put_all(self, messages: Sequence[Outgoing]) -> None:
        """Keep them."""
        for each in messages:
            self.connection.put(each)
        self.connection.changed()

    async def claim(self) -> Delivery | None:
        """Claim the first free message."""
        self._mark = self.connection.mark()
        now = time.time()
        mine = [each for each in self._free() if each.queue in self.open_queues]
        due = [each for each in mine if each.due_at <= now]
        if not due:
            return None
        first = min(due, key=lambda each: (-each.priority, each.number))
        first.claimed_by, first.claimed_at = self.consumer, now
        first.attempts += 1
        return Delivery(str(first.number), first.task_id, first.queue, first.body, first.attempts)

    async def wait_for_work(self, timeout: float) -> None:
        """Return when anything has changed since the last claim."""
        await self.connection.wait_beyond(self._mark, timeout)

    async def acknowledge(self, delivery: Delivery) -> None:
        """Delete the message."""
        self.connection.messages.pop(int(delivery.handle), None)

    async def release(self, delivery: Delivery) -> None:
        """Clear the claim."""
        message = self.connection.messages.get(int(delivery.handle))
        if message is not None and message.claimed_by == self.consumer:
            message.claimed_by, message.attempts = "", message.attempts - 1
            self.connection.changed()

    async def reject(self, delivery: Delivery, reason: str) -> None:
        """Record the reason in the message."""
        message = self.connection.messages[int(delivery.handle)]
        message.rejected, message.rejected_at = reason, time.time()

    async def discard(self, task_ids: Sequence[str]) -> int:
        """Delete the free messages of these tasks."""
        gone = [each.number for each in self._free() if each.task_id in set(task_ids)]
        for number in gone:
            del self.connection.messages[number]
        return len(gone)

    async def depths(self) -> list[QueueDepth]:
        """Count."""
        now = time.time()
        kept = [each for each in self.connection.messages.values() if not each.rejected]
        free = {each.number for each in self._free()}
        rows = []
        for queue in sorted({each.queue for each in kept}):
            mine = [each for each in kept if each.queue == queue]
            waiting = sum(each.number in free for each in mine)
            oldest = min(each.due_at for each in mine)
            age = max(0.0, now - oldest)
            due = (each for each in mine if each.number in free and each.due_at <= now)
            priorities = dict(Counter(each.priority for each in due))
            rows.append(QueueDepth(queue, waiting, len(mine) - waiting, age, priorities))
        return rows

    async def rejected(self) -> int:
        """Count the messages with a reason."""
        return len(self._set_aside())

    async def list_rejected(self, limit: int) -> list[RejectedMessage]:
        """Return the messages with a reason."""
        return [
            RejectedMessage(
                id=number,
                task_id=each.task_id,
                queue=each.queue,
                reason=each.rejected,
                rejected_at=each.rejected_at,
                size=len(each.body),
                preview=preview_of(each.body),
            )
            for number, each in list(self._set_aside().items())[:limit]
        ]

    async def requeue_rejected(self, ids: Sequence[str], prepare: Prepare) -> list[str]:
        """Put them again, as new messages."""
        chosen = self._set_aside(ids)
        await prepare([each.task_id for each in chosen.values()])
        for each in chosen.values():
            self.connection.put(Outgoing(each.task_id, each.queue, each.priority, each.body))
        self._delete(chosen.values())
        self.connection.changed()
        return list(chosen)

    async def delete_rejected(self, ids: Sequence[str]) -> list[str]:
        """Delete them."""
        chosen = self._set_aside(ids)
        self._delete(chosen.values())
        return list(chosen)

    def _set_aside(self, ids: Collection[str] | None = None) -> dict[str, Message]:
        """Return the rejected messages, or those of these ids, by id."""
        found = {
            str(each.number): each
            for each in sorted(
                self.connection.messages.values(), key=lambda message: message.rejected_at
            )
            if each.rejected
        }
        return found if ids is None else {each: found[each] for each in ids if each in found}

    def _delete(self, messages: Iterable[Message]) -> None:
        for each in messages:
            del self.connection.messages[each.number]

    def _free(self) -> list[Message]:
        stale = time.time() - self.settings.lease
        return [
            each
            for each in self.connection.messages.values()
            if not each.rejected and (not each.claimed_by or each.claimed_at < stale)
        ]
