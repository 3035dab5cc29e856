"""Sending: in batches, each to the queue of its priority."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.transport.messages import Outgoing
from dagster_taskiq.transport.sqs import delays, messages
from dagster_taskiq.transport.sqs.connection import SqsConnection
from dagster_taskiq.transport.sqs.messages import Attributes, Received
from dagster_taskiq.transport.sqs.names import Level, nearest
from dagster_taskiq.transport.sqs.queues import Queues
from dagster_taskiq.transport.sqs.receipts import BATCH

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import (
        BatchResultErrorEntryTypeDef,
        SendMessageBatchRequestEntryTypeDef,
    )

T = TypeVar("T")

#: How often those messages of a batch are sent again that SQS could not take, and seconds before.
RETRIES, RETRY_SECONDS = 3, 0.2


@dataclass(frozen=True)
class Entry:
    """One message as it is sent."""

    task_id: str
    text: str
    attributes: Attributes
    #: Whole seconds.
    delay: int

    @cached_property
    def size(self) -> int:
        """Its size as SQS counts it, in bytes."""
        return messages.size_of(self.text, self.attributes)


class Sender:
    """Sends messages."""

    def __init__(self, connection: SqsConnection, queues: Queues) -> None:
        self._connection = connection
        self._queues = queues
        #: When something was sent to each level last, by the monotonic clock.
        self._sent_at: dict[Level, float] = {}

    async def send(
        self,
        outgoing: Sequence[Outgoing],
        announce: Callable[[Collection[Level]], Awaitable[None]],
    ) -> None:
        """Send messages, those of high priority first; those of one level in this order.

        Args:
            outgoing: the messages.
            announce: called with the levels of each priority before anything is sent to them.

        Raises:
            ConfigError: one of them is too large, or there can be no queue for it; nothing was
                sent. Or SQS refuses one.
            ServerUnavailableError: SQS does not answer, or not now; some may have been sent.
        """
        by_level: dict[Level, list[Entry]] = {}
        for each in outgoing:
            has_priorities = self._connection.target.has_priorities
            level = Level(each.queue, nearest(each.priority) if has_priorities else 0)
            by_level.setdefault(level, []).append(_entry(each))
        names = [self._queues.names.of(level) for level in by_level]
        limits = await _gathered([self._queues.limit(name) for name in names])
        for entries, name, limit in zip(by_level.values(), names, limits, strict=True):
            _check_sizes(entries, name, limit)
        known = dict(zip(by_level, zip(names, limits, strict=True), strict=True))
        # Workers wait at the queue of a new priority before its first message is there.
        await announce(list(by_level))
        # A worker that waits would take the first that comes.
        for priority in sorted({level.priority for level in by_level}, reverse=True):
            levels = [level for level in by_level if level.priority == priority]
            await _gathered(
                [
                    self._send_all(known[level][0], by_level[level], known[level][1])
                    for level in levels
                ]
            )
            self._sent_at.update(dict.fromkeys(levels, time.monotonic()))

    def seconds_since(self, level: Level) -> float:
        """Return how long ago this process has sent to a level; for ever, if it never has."""
        return time.monotonic() - self._sent_at.get(level, -math.inf)

    async def send_on(self, message: Received) -> None:
        """Send a message again that was received before it was due; it is still to be deleted."""
        again = delays.sent_on(message)
        delay = delays.server_delay(message.due_in)
        entry = Entry(message.task_id, message.text, again.attributes, delay)
        await self._send_batch(self._queues.names.of(message.level), [entry])

    async def set_aside(self, name: str, body: bytes, attributes: Attributes) -> None:
        """Send a body to a queue that is no level, as it was or as much of it as that takes."""
        text, kept = messages.encoded(body, attributes)
        limit = await self._queues.limit(name)
        if messages.size_of(text, kept) > limit:
            kept = {**kept, messages.IS_CUT: "1"}
            most = limit - messages.size_of("", kept)
            # All characters of a text in base64 are of one byte.
            text = text.encode()[:most].decode(errors="ignore")
        await self._send_batch(name, [Entry("", text, kept, 0)])

    async def _send_all(self, name: str, entries: Sequence[Entry], limit: int) -> None:
        for batch in _batches(entries, limit):
            await self._send_batch(name, batch)

    async def _send_batch(self, name: str, entries: Sequence[Entry]) -> None:
        """Send one request; and what SQS could not take of it once more."""
        left = list(entries)
        for attempt in range(RETRIES + 1):
            if attempt:
                await asyncio.sleep(RETRY_SECONDS * 2**attempt)
            failed = await self._queues.call(name, _sending(left))
            if not failed:
                return
            for each in failed:
                if each["SenderFault"]:
                    raise ConfigError(
                        f"The queue {name} on {self._connection.boundary.shown} refuses the "
                        f"message of task {left[int(each['Id'])].task_id}: {_text_of(each)}."
                    )
            left = [left[int(each["Id"])] for each in failed]
        raise self._connection.boundary.unavailable(_text_of(failed[0]))


def _entry(outgoing: Outgoing) -> Entry:
    named = {messages.TASK_ID: outgoing.task_id, **delays.delay_attribute(outgoing.delay)}
    text, attributes = messages.encoded(outgoing.body, named)
    return Entry(outgoing.task_id, text, attributes, delays.server_delay(outgoing.delay))


def _check_sizes(entries: Sequence[Entry], name: str, limit: int) -> None:
    for each in entries:
        if each.size > limit:
            raise ConfigError(
                f"The message of task {each.task_id} has {each.size} bytes, more than the queue "
                f"{name} takes ({limit}). Pass less to the task: where its data is, and not the "
                "data. (SQS allows MaximumMessageSize up to 1048576.)"
            )


def _batches(entries: Sequence[Entry], limit: int) -> list[list[Entry]]:
    """Return entries in batches, each of at most ten, and together no larger than one may be."""
    batches: list[list[Entry]] = []
    size = 0
    for each in entries:
        if not batches or len(batches[-1]) == BATCH or size + each.size > limit:
            batches.append([])
            size = 0
        batches[-1].append(each)
        size += each.size
    return batches


async def _gathered(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Do several things side by side to their ends; then raise the first error, if there is one."""
    outcomes = await asyncio.gather(*works, return_exceptions=True)
    for each in outcomes:
        if isinstance(each, BaseException):
            raise each
    return [each for each in outcomes if not isinstance(each, BaseException)]


def _sending(
    entries: Sequence[Entry],
) -> "Callable[[SQSClient, str], list[BatchResultErrorEntryTypeDef]]":
    """Return what sends a batch, and returns which of it SQS could not take."""
    batch: list[SendMessageBatchRequestEntryTypeDef] = [
        {
            "Id": str(number),
            "MessageBody": each.text,
            "DelaySeconds": each.delay,
            "MessageAttributes": messages.as_sent(each.attributes),
        }
        for number, each in enumerate(entries)
    ]
    return lambda client, url: client.send_message_batch(QueueUrl=url, Entries=batch).get(
        "Failed", []
    )


def _text_of(failed: "BatchResultErrorEntryTypeDef") -> str:
    return f"{failed['Code']}: {failed.get('Message', '')}".strip(": ").rstrip(".")
