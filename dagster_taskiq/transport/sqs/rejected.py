"""The messages that were set aside: nobody claims them, and they can be put back."""

import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from dagster_taskiq.transport.message_queues import Prepare
from dagster_taskiq.transport.messages import Delivery, Outgoing
from dagster_taskiq.transport.sqs import messages, receipts
from dagster_taskiq.transport.sqs.depths import WAITING
from dagster_taskiq.transport.sqs.messages import Received
from dagster_taskiq.transport.sqs.names import Level
from dagster_taskiq.transport.sqs.queues import Queues
from dagster_taskiq.transport.sqs.sending import Sender
from dagster_taskiq.wire.rejected_messages import RejectedMessage, preview_of

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

#: How many characters of a reason are kept.
REASON_LENGTH = 300
#: For how long messages that are looked at are hidden from others, and for how long one look goes
#: on at most, in seconds.
HIDDEN_SECONDS, LOOK_SECONDS = 60, 20.0
#: How long SQS looks for messages before it answers that there is none, in seconds: with no time,
#: it asks only some of its machines.
WAIT_SECONDS = 1


class Rejected:
    """The queue of the messages that were set aside. SQS keeps them for fourteen days, in no order.

    To look at them is to receive them and to show them again: who looks at the same time finds
    none, or some.
    """

    def __init__(
        self,
        queues: Queues,
        sender: Sender,
        send: Callable[[Sequence[Outgoing]], Awaitable[None]],
    ) -> None:
        """Receive nothing yet.

        Args:
            queues: those on the server.
            sender: sends to the queue of the messages that were set aside.
            send: sends messages to their own queues.
        """
        self._queues = queues
        self._sender = sender
        self._send = send
        self._name = queues.names.rejected

    async def add(self, delivery: Delivery, reason: str, priority: int) -> None:
        """Store a copy of a message, with its queue and the reason in its attributes.

        Args:
            delivery: the message.
            reason: why it is set aside.
            priority: that of its level.
        """
        attributes = {
            messages.TASK_ID: delivery.task_id,
            messages.QUEUE: delivery.queue,
            messages.REASON: reason[:REASON_LENGTH],
            messages.PRIORITY: str(priority or ""),
        }
        await self._sender.set_aside(self._name, delivery.body, attributes)

    async def count(self) -> int:
        """Return how many there are, about."""
        found = await self._queues.attributes(self._name, [WAITING])
        return int(found[WAITING]) if found else 0

    async def first(self, limit: int) -> list[RejectedMessage]:
        """Receive some of them, and show them to others again."""
        found = await self._receive(lambda received: len(received) >= limit)
        await self._show(found)
        return [_listed(each) for each in found[:limit]]

    async def requeue(self, ids: Sequence[str], prepare: Prepare) -> list[str]:
        """Send copies to their queues, and delete the messages here then."""
        taken = await self._take(ids)
        chosen = [each for each in taken if _is_whole(each)]
        await self._show(each for each in taken if not _is_whole(each))
        if chosen:
            await prepare([each.task_id for each in chosen])
            await self._send([_outgoing(each) for each in chosen])
        return await self._delete(chosen)

    async def delete(self, ids: Sequence[str]) -> list[str]:
        """Receive them, and delete them."""
        return await self._delete(await self._take(ids))

    async def _take(self, ids: Sequence[str]) -> list[Received]:
        """Receive messages until those of these ids are found; show the others again."""
        wanted = set(ids)
        received = await self._receive(
            lambda received: wanted <= {each.id for each in received} if wanted else True
        )
        await self._show(each for each in received if each.id not in wanted)
        return [each for each in received if each.id in wanted]

    async def _receive(self, is_enough: Callable[[Collection[Received]], bool]) -> list[Received]:
        """Receive messages, which are hidden from others then; each once."""
        found: dict[str, Received] = {}
        end = time.monotonic() + LOOK_SECONDS
        while not is_enough(found.values()) and time.monotonic() < end:
            received = await self._queues.call_existing(self._name, _receive_some)
            if not received:
                break
            found.update((each.id, each) for each in received)
        return list(found.values())

    async def _show(self, received: Iterable[Received]) -> None:
        shown = [each.receipt for each in received]
        if shown:
            await self._queues.call_existing(
                self._name, lambda client, url: receipts.show_all(client, url, shown)
            )

    async def _delete(self, received: Sequence[Received]) -> list[str]:
        for each in received:
            await self._queues.call_existing(self._name, _deletion(each.receipt))
        return [each.id for each in received]


def _receive_some(client: "SQSClient", url: str) -> list[Received]:
    answer = client.receive_message(
        QueueUrl=url,
        MaxNumberOfMessages=receipts.BATCH,
        WaitTimeSeconds=WAIT_SECONDS,
        VisibilityTimeout=HIDDEN_SECONDS,
        MessageSystemAttributeNames=messages.SYSTEM_ATTRIBUTES,
        MessageAttributeNames=["All"],
    )
    return messages.read(answer, _NO_LEVEL)


def _deletion(receipt: str) -> "Callable[[SQSClient, str], None]":
    return lambda client, url: receipts.delete(client, url, receipt)


#: Nobody claims these messages.
_NO_LEVEL = Level("")


def _listed(message: Received) -> RejectedMessage:
    return RejectedMessage(
        id=message.id,
        task_id=message.task_id,
        queue=message.attributes.get(messages.QUEUE, ""),
        reason=message.attributes.get(messages.REASON, ""),
        rejected_at=message.sent_at,
        size=len(message.body),
        preview=preview_of(message.body),
        is_whole=_is_whole(message),
    )


def _is_whole(message: Received) -> bool:
    return messages.QUEUE in message.attributes and messages.IS_CUT not in message.attributes


def _outgoing(message: Received) -> Outgoing:
    """Return a message for its queue. One that an older release has set aside has no priority."""
    priority = int(messages.number_of(message.attributes.get(messages.PRIORITY)))
    return Outgoing(message.task_id, message.attributes[messages.QUEUE], priority, message.body)
