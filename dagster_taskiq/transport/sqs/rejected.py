"""The messages that were set aside: they can be looked at, and are never executed."""

from dagster_taskiq.transport.messages import Delivery
from dagster_taskiq.transport.sqs import messages
from dagster_taskiq.transport.sqs.depths import WAITING
from dagster_taskiq.transport.sqs.queues import Queues
from dagster_taskiq.transport.sqs.sending import Sender

#: How many characters of a reason are kept.
REASON_LENGTH = 300


class Rejected:
    """The queue of the messages that were set aside. SQS keeps them for fourteen days."""

    def __init__(self, queues: Queues, sender: Sender) -> None:
        self._queues = queues
        self._sender = sender

    async def add(self, delivery: Delivery, reason: str) -> None:
        """Store a copy of a message, with its queue and the reason in its attributes."""
        attributes = {
            messages.TASK_ID: delivery.task_id,
            messages.QUEUE: delivery.queue,
            messages.REASON: reason[:REASON_LENGTH],
        }
        await self._sender.set_aside(self._queues.names.rejected, delivery.body, attributes)

    async def count(self) -> int:
        """Return how many there are, about."""
        found = await self._queues.attributes(self._queues.names.rejected, [WAITING])
        return int(found[WAITING]) if found else 0
