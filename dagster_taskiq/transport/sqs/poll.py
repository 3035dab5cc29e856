"""One poll: a request for a message, which SQS answers when there is one, or after some seconds.

:class:`~dagster_taskiq.transport.sqs.polls.Polls` starts polls, and takes their answers.
"""

import asyncio
import time
from collections.abc import Sequence

from dagster_taskiq.transport.background import look_at
from dagster_taskiq.transport.sqs import messages, receipts
from dagster_taskiq.transport.sqs.connection import Session
from dagster_taskiq.transport.sqs.messages import Received
from dagster_taskiq.transport.sqs.names import Level
from dagster_taskiq.transport.sqs.threads import in_thread


class Poll:
    """One poll on one level. It is made on an event loop, and waits in a thread."""

    def __init__(self, session: Session, level: Level, url: str) -> None:
        """Prepare; nothing is sent yet.

        Args:
            session: has the clients of the connection.
            level: where it is to receive a message.
            url: that of the level's queue.
        """
        self.level = level
        self.url = url
        self.started_at = time.monotonic()
        self.ended_at: float | None = None
        #: Nobody waits for it any more; its thread releases what comes.
        self.is_abandoned = False
        self._session = session
        self.answer: asyncio.Future[list[Received]]

    def start(self, seconds: int, visibility: int) -> None:
        """Send the request.

        Args:
            seconds: how long SQS waits for a message.
            visibility: for how long it hides the message, in seconds.
        """
        self.answer = in_thread(lambda: self._receive(seconds, visibility))
        self.answer.add_done_callback(self._note_end)

    def release(self, received: Sequence[Received]) -> None:
        """Make messages visible at once, which are not ours any more perhaps; not on a loop."""
        for each in received:
            receipts.hide(self._session.commands, self.url, each.receipt, 0)

    def _note_end(self, answer: "asyncio.Future[list[Received]]") -> None:
        self.ended_at = time.monotonic()
        look_at(answer)

    def _receive(self, seconds: int, visibility: int) -> list[Received]:
        received = messages.read(
            self._session.polls.receive_message(
                QueueUrl=self.url,
                MaxNumberOfMessages=1,
                WaitTimeSeconds=seconds,
                VisibilityTimeout=visibility,
                MessageSystemAttributeNames=messages.SYSTEM_ATTRIBUTES,
                MessageAttributeNames=["All"],
            ),
            self.level,
        )
        if self.is_abandoned:
            self.release(received)
            return []
        return received
