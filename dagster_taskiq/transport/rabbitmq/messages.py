"""What is written on a message besides its body, and the order in which messages are claimed."""

import time

from aiormq.abc import DeliveredMessage

from dagster_taskiq.transport.messages import Outgoing
from dagster_taskiq.transport.rabbitmq.channel import Channel
from dagster_taskiq.transport.rabbitmq.names import name_part

#: Priorities between these are distinct; one beyond counts as the nearer one. RabbitMQ keeps a
#: list for each level of a queue, and has no levels below zero: priorities are sent shifted.
LOWEST_PRIORITY, HIGHEST_PRIORITY = -10, 10
#: The highest level of a queue.
MAX_LEVEL = HIGHEST_PRIORITY - LOWEST_PRIORITY

#: The headers of a message: the id of its task, and when it was sent or is due, in nanoseconds
#: since the epoch by the sender's clock.
TASK_ID_HEADER, SENT_AT_HEADER = "task_id", "sent_at"


async def publish(channel: Channel, exchange: str, routing_key: str, message: Outgoing) -> None:
    """Publish a message of a task; see :meth:`Channel.publish`."""
    due_at = time.time_ns() + int(message.delay * 1e9)
    await channel.publish(
        routing_key,
        message.body,
        exchange=exchange,
        priority=level_of(message.priority),
        message_id=name_part(message.task_id),
        headers={TASK_ID_HEADER: message.task_id, SENT_AT_HEADER: due_at},
    )


def level_of(priority: int) -> int:
    """Return the level of a queue, from 0, for a priority."""
    return min(max(priority, LOWEST_PRIORITY), HIGHEST_PRIORITY) - LOWEST_PRIORITY


def claim_order(message: DeliveredMessage) -> tuple[int, float]:
    """Return the sort key of messages from several queues: higher priority first, then older."""
    return -int(message.header.properties.priority or 0), sent_at(message)


def sent_at(message: DeliveredMessage) -> float:
    """Return when a message was sent or is due, in seconds since the epoch; 0 if unknown."""
    at = headers_of(message).get(SENT_AT_HEADER)
    return at / 1e9 if isinstance(at, int) else 0.0


def task_id_of(message: DeliveredMessage) -> str:
    """Return the id of a message's task; the message's own id if another client has sent it."""
    task_id = headers_of(message).get(TASK_ID_HEADER)
    return str(task_id or message.header.properties.message_id or "")


def was_delivered_before(message: DeliveredMessage) -> bool:
    """Whether the server reports that the message was taken before, and came back."""
    return bool(getattr(message.delivery, "redelivered", False))


def headers_of(message: DeliveredMessage) -> dict[str, object]:
    """Return the headers of a message, by name."""
    return dict(message.header.properties.headers or {})
