"""Messages as SQS has them: text with attributes."""

import base64
import binascii
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from dagster_taskiq.transport.sqs.names import Level

if TYPE_CHECKING:
    from mypy_boto3_sqs.literals import MessageSystemAttributeNameType
    from mypy_boto3_sqs.type_defs import (
        MessageAttributeValueOutputTypeDef,
        MessageAttributeValueTypeDef,
        MessageTypeDef,
        ReceiveMessageResultTypeDef,
    )

#: The attributes of a message: the id of its task; ``base64`` if its body is not text as SQS
#: allows it; and how long after it was sent it is due, in seconds, if SQS cannot delay it so long.
TASK_ID, ENCODING, DELAY = "task_id", "encoding", "delay"
#: Those of a message that was set aside: its queue, why, its priority unless that is 0,
#: and whether its body was too large to be kept whole.
QUEUE, REASON, PRIORITY, IS_CUT = "queue", "reason", "priority", "is_cut"
#: What SQS itself tells of a message.
SYSTEM_ATTRIBUTES: "Sequence[MessageSystemAttributeNameType]" = (
    "ApproximateFirstReceiveTimestamp",
    "ApproximateReceiveCount",
    "SentTimestamp",
)

#: The server tells its time in whole seconds.
CLOCK_SECONDS = 1.0

#: What SQS does not allow in a text.
_NOT_ALLOWED = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_BASE64 = "base64"

Attributes = dict[str, str]


@dataclass(frozen=True)
class Received:
    """A message that was received, and belongs to this process until its lease has passed."""

    level: Level
    #: By which it is deleted, renewed or released.
    receipt: str
    #: What SQS calls it.
    id: str
    task_id: str
    body: bytes
    #: The body as it is on the server, and the attributes.
    text: str
    attributes: Attributes
    #: How often it was received, this time included.
    count: int
    #: Seconds since it was received for the first time, by the server's clock, rounded up.
    age: float
    #: When it was sent, in seconds since the epoch, by the server's clock.
    sent_at: float
    #: Seconds until it is due.
    due_in: float


def encoded(body: bytes, attributes: Attributes) -> tuple[str, Attributes]:
    """Return a body as text, and the attributes it is sent with."""
    kept = {name: _NOT_ALLOWED.sub("\ufffd", value) for name, value in attributes.items() if value}
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = ""
    # An empty body is not allowed either.
    if not text or _NOT_ALLOWED.search(text):
        return base64.b64encode(body).decode() or "=", {**kept, ENCODING: _BASE64}
    return text, kept


def decoded(text: str, attributes: Attributes) -> bytes:
    """Return the body of a text; the text itself if it is not what its attributes promise."""
    if attributes.get(ENCODING) == _BASE64:
        try:
            return base64.b64decode(text, validate=True) if text != "=" else b""
        except binascii.Error:
            pass
    return text.encode()


def size_of(text: str, attributes: Attributes) -> int:
    """Return the size of a message as SQS counts it, in bytes."""
    named = sum(len(f"{name}String{value}".encode()) for name, value in attributes.items())
    return len(text.encode()) + named


def as_sent(attributes: Attributes) -> "dict[str, MessageAttributeValueTypeDef]":
    """Return attributes as the client library takes them."""
    return {
        name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()
    }


def read(answer: "ReceiveMessageResultTypeDef", level: Level) -> list[Received]:
    """Return the messages of an answer."""
    now = _server_time(answer["ResponseMetadata"].get("HTTPHeaders", {}))
    return [_read_one(message, level, now) for message in answer.get("Messages", [])]


def _read_one(message: "MessageTypeDef", level: Level, now: float) -> Received:
    system = message.get("Attributes", {})
    attributes = _texts(message.get("MessageAttributes", {}))
    text, message_id = message.get("Body", ""), message.get("MessageId", "")
    first = number_of(system.get("ApproximateFirstReceiveTimestamp")) / 1000
    sent = number_of(system.get("SentTimestamp")) / 1000
    delay = number_of(attributes.get(DELAY))
    return Received(
        level=level,
        receipt=message.get("ReceiptHandle", ""),
        id=message_id,
        task_id=attributes.get(TASK_ID, message_id),
        body=decoded(text, attributes),
        text=text,
        attributes=attributes,
        count=int(number_of(system.get("ApproximateReceiveCount"))) or 1,
        age=max(0.0, now + CLOCK_SECONDS - first),
        sent_at=sent,
        due_in=max(0.0, sent + delay - now) if delay else 0.0,
    )


def _texts(attributes: "Mapping[str, MessageAttributeValueOutputTypeDef]") -> Attributes:
    return {name: value.get("StringValue", "") for name, value in attributes.items()}


def number_of(text: str | None) -> float:
    """Return a number that a message has; 0 if it has none, or not a number."""
    try:
        return float(text or 0)
    except ValueError:
        return 0.0


def _server_time(headers: Mapping[str, str]) -> float:
    """Return the time of the server, in seconds since the epoch; ours if it tells none."""
    try:
        return parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError):
        return time.time()
