"""Messages of other programs, as they are read from a queue of theirs."""

from collections.abc import Mapping
from dataclasses import dataclass

from aiormq.abc import DeliveredMessage

from dagster_taskiq.transport.rabbitmq.messages import was_delivered_before


@dataclass(frozen=True)
class ForeignMessage:
    """A message that was taken and is not acknowledged, with what is written on it."""

    #: What a channel acknowledges or requeues.
    delivered: DeliveredMessage
    body: bytes
    headers: Mapping[str, object]
    content_type: str
    content_encoding: str
    reply_to: str
    correlation_id: str
    priority: int
    #: It was taken before, and came back.
    redelivered: bool


def read_foreign(message: DeliveredMessage) -> ForeignMessage:
    """Return a message with what is written on it; texts that are not set are empty."""
    properties = message.header.properties
    return ForeignMessage(
        delivered=message,
        body=message.body,
        headers=dict(properties.headers or {}),
        content_type=properties.content_type or "",
        content_encoding=properties.content_encoding or "",
        reply_to=properties.reply_to or "",
        correlation_id=properties.correlation_id or "",
        priority=int(properties.priority or 0),
        redelivered=was_delivered_before(message),
    )
