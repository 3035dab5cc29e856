"""The broker of a worker's child."""

from collections.abc import Sequence
from typing import Any, NoReturn

from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.eviction import Eviction
from dagster_taskiq.transport.message_queues import Prepare
from dagster_taskiq.transport.messages import Delivery, Outgoing
from dagster_taskiq.transport.relay.connection import RelayConnection
from dagster_taskiq.wire.queues import QueueDepth
from dagster_taskiq.wire.rejected_messages import RejectedMessage


class RelayedBroker(QueueBroker):
    """Has the worker call its own broker. It sends messages and takes none."""

    def __init__(self, settings: Settings, connection: RelayConnection) -> None:
        super().__init__(settings)
        self.connection: RelayConnection = connection

    async def ping(self) -> None:
        """See the base class."""
        await self._call("ping")

    async def eviction(self) -> Eviction | None:
        """See the base class."""
        found: Eviction | None = await self._call("eviction")
        return found

    async def put_all(self, messages: Sequence[Outgoing]) -> None:
        """See the base class."""
        await self._call("put_all", list(messages))

    async def discard(self, task_ids: Sequence[str]) -> int:
        """See the base class."""
        return int(await self._call("discard", list(task_ids)))

    async def depths(self) -> list[QueueDepth]:
        """See the base class."""
        return list(await self._call("depths"))

    async def is_empty(self, queue: str) -> bool:
        """See the base class."""
        return bool(await self._call("is_empty", queue))

    async def rejected(self) -> int:
        """See the base class."""
        return int(await self._call("rejected"))

    async def claim(self) -> Delivery | None:
        """Raise ``RuntimeError``: the worker takes messages."""
        self._takes_none()

    async def wait_for_work(self, timeout: float) -> None:
        """Raise ``RuntimeError``: the worker takes messages."""
        self._takes_none()

    async def acknowledge(self, delivery: Delivery) -> None:
        """Raise ``RuntimeError``: the worker takes messages."""
        self._takes_none()

    async def release(self, delivery: Delivery) -> None:
        """Raise ``RuntimeError``: the worker takes messages."""
        self._takes_none()

    async def reject(self, delivery: Delivery, reason: str) -> None:
        """Raise ``RuntimeError``: the worker takes messages."""
        self._takes_none()

    async def requeue_rejected(self, ids: Sequence[str], prepare: Prepare) -> list[str]:
        """Raise ``RuntimeError``: a worker's child puts no messages back."""
        self._takes_none()

    async def delete_rejected(self, ids: Sequence[str]) -> list[str]:
        """Raise ``RuntimeError``: a worker's child deletes no messages."""
        self._takes_none()

    async def list_rejected(self, limit: int) -> list[RejectedMessage]:
        """Raise ``RuntimeError``: a worker's child reads no messages."""
        self._takes_none()

    def _takes_none(self) -> NoReturn:
        raise RuntimeError("A child of a worker takes no messages: its worker does.")

    async def _call(self, method: str, *args: Any) -> Any:
        return await self.connection.call("broker", method, args, {})
