"""The queues of one server, as each kind of broker implements them: put, claim, release, count.

A concrete broker (:class:`~dagster_taskiq.transport.redis.broker.RedisBroker`, and so on) fills in
these methods. They are called by :class:`~dagster_taskiq.transport.listener.Listener`, which takes
messages, and by :class:`~dagster_taskiq.transport.broker.QueueBroker`, which sends and cancels.
"""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar

from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.connection import Connection
from dagster_taskiq.transport.eviction import Eviction
from dagster_taskiq.transport.gate import OpenGate, SlotGate
from dagster_taskiq.transport.messages import Delivery, Outgoing
from dagster_taskiq.wire.queues import QueueDepth, run_queue
from dagster_taskiq.wire.rejected_messages import RejectedMessage

#: Called with the ids of the tasks of messages that are about to be requeued.
Prepare = Callable[[Sequence[str]], Awaitable[None]]


class MessageQueues(ABC):
    """Queues with priorities, from which messages are claimed one at a time.

    Every method that talks to the server raises ``ServerUnavailableError`` if the server cannot
    serve now, and ``ConfigError`` if it will not before the configuration changes.
    """

    #: The server; a backend that is on the same one shares it.
    connection: Connection
    #: Whether the children of a worker use its connection, because each costs the server much.
    shares_connection: ClassVar[bool] = False

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        #: The queues that a listener serves, without their run queues.
        self.queues: tuple[str, ...] = (settings.queue,)
        #: The worker's id, which is recorded with each claim.
        self.consumer = "listener"
        #: Decides when the next message may be claimed, and whether it may be a run.
        self.gate: SlotGate = OpenGate()
        #: Whether a listener may record the start of a user's own task as it claims the message.
        self.starts_with_claim = False

    @property
    def all_queues(self) -> tuple[str, ...]:
        """The queues, and their run queues."""
        return (*self.queues, *map(run_queue, self.queues))

    @property
    def open_queues(self) -> tuple[str, ...]:
        """The queues from which to claim now: run queues only if a run may start."""
        return self.all_queues if self.gate.takes_runs else self.queues

    @abstractmethod
    async def ping(self) -> None:
        """Return when the server has answered."""

    async def eviction(self) -> Eviction | None:
        """Return how the server deletes messages to make room; ``None`` if it does not."""
        return None

    @abstractmethod
    async def put_all(self, messages: Sequence[Outgoing]) -> None:
        """Store messages durably. When this returned, they will be delivered.

        Those of one queue and priority are delivered in this order. If it raises, some of them may
        have been stored.
        """

    async def put(
        self, task_id: str, queue: str, priority: int, body: bytes, delay: float = 0.0
    ) -> None:
        """Store one message; see :class:`Outgoing` and :meth:`put_all`."""
        await self.put_all([Outgoing(task_id, queue, priority, body, delay)])

    @abstractmethod
    async def claim(self) -> Delivery | None:
        """Take the first message of ``self.open_queues``: highest priority, then oldest.

        A message that another worker claimed and neither started nor released within the lease
        counts as waiting again, here and wherever messages are counted or discarded.

        Returns:
            ``None`` if no message waits.
        """

    async def claim_next(self) -> Delivery | None:
        """Claim for a listener, which calls :meth:`wait_for_work` if there is nothing.

        A listener does not cancel this.

        May overlook a message that has come since the last call, if :meth:`wait_for_work` then
        returns at once. A message without a wake-up is found within ``listener.IDLE_LOOK_SECONDS``.
        """
        return await self.claim()

    async def claim_or_release(self) -> Delivery | None:
        """Claim a message for a listener; if it is cancelled meanwhile, release the message."""
        claim = asyncio.ensure_future(self.claim_next())
        try:
            return await asyncio.shield(claim)
        except asyncio.CancelledError:
            late = await _outcome(claim)
            if late is not None and late.refused is None:
                with contextlib.suppress(ServerUnavailableError):
                    await self.release(late)
            raise

    def may_start_with_claim(self, backend_connection: Connection) -> bool:
        """Return whether :meth:`claim_next` can record the start of a task in the same step.

        Args:
            backend_connection: that of the backend with the records.
        """
        del backend_connection
        return False

    async def stop_claiming(self) -> None:  # noqa: B027 - most servers have nothing to do here
        """Do what is done with the next claim otherwise: there may be none."""

    def hurry(self) -> None:  # noqa: B027 - as above
        """Have :meth:`stop_claiming` wait for nothing: this process is to end at once."""

    @abstractmethod
    async def wait_for_work(self, timeout: float) -> None:
        """Return when a message may have come, after ``timeout`` seconds at the latest.

        It may take longer if the server is asked every ``timeout`` seconds whether there are any
        messages in ``self.open_queues``, and there are none.
        """

    @abstractmethod
    async def acknowledge(self, delivery: Delivery) -> None:
        """Delete a claimed message: the start of its task is on record, or forbidden.

        So it may be deleted as well if another worker has claimed it since.
        """

    @abstractmethod
    async def release(self, delivery: Delivery) -> None:
        """Put a claimed message back to its old place in the queue, free to be claimed at once.

        This delivery does not count. If the message is gone, or has another claim by now, nothing
        changes.
        """

    @abstractmethod
    async def reject(self, delivery: Delivery, reason: str) -> None:
        """Move a claimed message, with the reason, to those that are kept but never delivered.

        Of these the last thousand are kept, or all of the last days.
        """

    @abstractmethod
    async def discard(self, task_ids: Sequence[str]) -> int:
        """Delete waiting messages of these tasks, in all queues; return how many there were."""

    @abstractmethod
    async def depths(self) -> list[QueueDepth]:
        """Return the queues that hold messages, by name."""

    async def is_empty(self, queue: str) -> bool:
        """Return whether a queue holds no message that will be delivered."""
        return all(row.queue != queue for row in await self.depths())

    @abstractmethod
    async def rejected(self) -> int:
        """Return how many rejected messages are kept."""

    @abstractmethod
    async def list_rejected(self, limit: int) -> list[RejectedMessage]:
        """Return rejected messages, those that were rejected first before others where the server
        knows that: at most ``limit``, and fewer of large ones.
        """

    @abstractmethod
    async def requeue_rejected(self, ids: Sequence[str], prepare: Prepare) -> list[str]:
        """Put rejected messages back into their queues, as messages that were never delivered.

        None is lost if this is interrupted: some may then be in both places.

        Args:
            ids: those of :class:`RejectedMessage`.
            prepare: called before any of them can be claimed.

        Returns:
            The ids of those that were put back; others are not there, or not whole.
        """

    @abstractmethod
    async def delete_rejected(self, ids: Sequence[str]) -> list[str]:
        """Delete rejected messages; return the ids of those that were there."""


async def _outcome(claim: "asyncio.Future[Delivery | None]") -> Delivery | None:
    try:
        return await claim
    except Exception:  # the caller that wanted the message was cancelled
        return None
