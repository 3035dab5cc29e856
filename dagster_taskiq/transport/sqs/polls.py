"""The polls of a broker: which levels have one, and what becomes of the messages that they bring.

A listener has one poll on each level that it serves. A poll is not ended before its answer has
come: a message that SQS sends to somebody who is gone stays hidden until its lease has passed. So
polls go on between the calls of a listener. What comes for nobody is released.

``claims`` asks and takes messages, the broker waits for them. Each request is a
:class:`~dagster_taskiq.transport.sqs.poll.Poll`.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from botocore.exceptions import ClientError

from dagster_taskiq.errors import DagsterTaskiqError
from dagster_taskiq.transport.background import look_at
from dagster_taskiq.transport.sqs import receipts
from dagster_taskiq.transport.sqs.connection import SqsConnection
from dagster_taskiq.transport.sqs.errors import MISSING, code_of
from dagster_taskiq.transport.sqs.messages import Received
from dagster_taskiq.transport.sqs.names import Level
from dagster_taskiq.transport.sqs.poll import Poll
from dagster_taskiq.transport.sqs.queues import Queues
from dagster_taskiq.transport.sqs.threads import in_thread

logger = logging.getLogger("dagster_taskiq.broker")

#: For how long the answer of a new poll is waited for before another level is asked: so many times
#: as long as an answer takes usually. If there is a message, SQS answers at once.
ANSWER_FACTOR = 3.0
#: The same at least, and at most, in seconds.
ANSWER_SECONDS = (0.05, 0.5)
#: The same two if the level has just had a message, and comes before others: it is likely to have
#: more, and an answer that takes unusually long is no reason to go on with a lower priority.
NEXT_FACTOR = 10.0
NEXT_SECONDS = (0.25, 2.0)
#: For how long SQS waits for the message of a poll that comes before others, in seconds. Should the
#: worker have no free slot then, what comes later is for others.
BRIEF_SECONDS = 1
#: How long a message that has come waits here for somebody to take it, in seconds; longer where
#: answers take longer, since then this process is slow as well.
HELD_SECONDS = 0.1
#: How long a level counts as empty after a poll has found nothing, in seconds.
EMPTY_SECONDS = 1.0
#: How much later than a poll is to be answered SQS still counts as one that answers, in seconds.
ANSWERED_SECONDS = 2.0
#: How long the end of a broker waits until what has come for nobody is released, in seconds.
RELEASE_SECONDS = 1.0
#: How long it waits for the answers of polls before it says so, in seconds.
QUIET_SECONDS = 1.0


class Polls:
    """The polls of one broker."""

    def __init__(
        self, connection: SqsConnection, queues: Queues, on_missing: Callable[[Level], None]
    ) -> None:
        """Poll nothing yet.

        Args:
            connection: the server.
            queues: its queues.
            on_missing: called with a level whose queue has been deleted.
        """
        self._connection = connection
        self._queues = queues
        self._on_missing = on_missing
        #: The poll on each level, until its answer has been taken.
        self._polls: dict[Level, Poll] = {}
        #: Until when each level counts as empty, by the monotonic clock.
        self._empty_until: dict[Level, float] = {}
        #: The levels whose last poll that was answered has received a message.
        self._had_message: set[Level] = set()
        #: The levels into which messages were released while there was a poll.
        self._released: set[Level] = set()
        #: What is being released, with its level.
        self._releasing: dict[asyncio.Future[None], Level] = {}
        #: No more polls are started.
        self._is_ending = False
        self._is_hurried = False
        #: Ends the wait for answers; ``None`` if there is none.
        self._hurried: asyncio.Future[None] | None = None
        #: When SQS answered a poll last, by the monotonic clock.
        self._answered_at = -math.inf
        connection.on_close.append(self.abandon)

    def were_answered(self) -> bool:
        """Return whether SQS answers: the last answer of a poll is no older than one may take."""
        return time.monotonic() - self._answered_at < self._longest + ANSWERED_SECONDS

    async def ask(self, level: Level) -> Received | None:
        """Ask a level for a message, without waiting for one; it may have a poll meanwhile."""
        url = await self._queues.url(self._queues.names.of(level))
        poll = self._started(level, url, 0)
        try:
            found = await self._messages(poll)
        except asyncio.CancelledError:
            self._release_later(poll)
            raise
        return found[0] if found else None

    async def take(self, level: Level, *, comes_before: bool) -> Received | None:
        """Return the message that the poll of a level has received.

        If the level has no poll, it gets one, whose answer is waited for a moment; unless the level
        has just been found empty.

        Args:
            level: the level.
            comes_before: there are levels of a lower priority.

        Raises:
            ServerUnavailableError: SQS does not answer.
            ConfigError: it does not let us.
        """
        poll = self._current(level)
        if poll is None:
            if time.monotonic() < self._empty_until.get(level, 0.0):
                return None
            await self._until_released(level)
            poll = await self._poll_on(level, BRIEF_SECONDS if comes_before else self._longest)
            if poll is None:
                return None
        is_likely = comes_before and level in self._had_message
        patience = self._next_seconds if is_likely else self._answer_seconds
        left = poll.started_at + patience - time.monotonic()
        if not poll.answer.done() and left > 0:
            await asyncio.wait([poll.answer], timeout=left)
        if not poll.answer.done() or self._polls.get(level) is not poll:
            return None
        del self._polls[level]
        found = await self._messages(poll)
        return found[0] if found else None

    async def wait(
        self, levels: Collection[Level], changed: "asyncio.Future[None]", timeout: float
    ) -> None:
        """Return when the poll of a level has an answer, or something has changed.

        Args:
            levels: each gets a poll if it has none.
            changed: ends the wait as well.
            timeout: seconds, after which this returns in any case.
        """
        for level in levels:
            if self._current(level) is None:
                await self._poll_on(level, self._longest)
        events: list[asyncio.Future[Any]] = [changed]
        events += [self._polls[level].answer for level in levels if level in self._polls]
        await asyncio.wait(events, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)

    def abandon(self) -> None:
        """Wait for no poll any more. A message that still comes is released, if that can be."""
        for poll in self._polls.values():
            poll.is_abandoned = True
        self._polls.clear()
        self._empty_until.clear()
        self._had_message.clear()
        self._released.clear()

    async def end(self) -> None:
        """Start no more polls, and return when those that wait have their answers.

        SQS would send a message to a poll whose process has gone, and hide it until its lease is
        over. What comes is released.
        """
        self._is_ending = True
        try:
            for level, poll in list(self._polls.items()):
                if poll.answer.done():
                    del self._polls[level]
                    self._release_later(poll)
                else:
                    poll.is_abandoned = True
            await self._until_answered()
        finally:
            self.abandon()
            self._is_ending = False
        if self._releasing:
            await asyncio.wait(list(self._releasing), timeout=RELEASE_SECONDS)

    def hurry(self) -> None:
        """Have :meth:`end` wait for no polls, now or when it is called."""
        self._is_hurried = True
        if self._hurried is not None and not self._hurried.done():
            self._hurried.set_result(None)

    async def _until_answered(self) -> None:
        """Wait until all polls have their answers, unless there is a hurry."""
        answers = [poll.answer for poll in self._polls.values()]
        if answers and not self._is_hurried:
            self._hurried = asyncio.get_running_loop().create_future()
            answered = asyncio.ensure_future(asyncio.wait(answers))
            ends = (answered, self._hurried)
            first = asyncio.FIRST_COMPLETED
            try:
                done, _ = await asyncio.wait(ends, timeout=QUIET_SECONDS, return_when=first)
                if not done:
                    logger.info(
                        "Waiting for SQS to answer %d polls, %d s at most, before this process "
                        "ends. A second signal ends it at once; then a message may come late, by "
                        "the lease (%d s).",
                        len(self._polls),
                        self._longest,
                        self._queues.visibility,
                    )
                    longest = self._longest + ANSWERED_SECONDS
                    await asyncio.wait(ends, timeout=longest, return_when=first)
            finally:
                answered.cancel()
                self._hurried = None
        # What this process has just released may come to its own polls.
        returned = [poll.answer for level, poll in self._polls.items() if level in self._released]
        if returned:
            await asyncio.wait(returned, timeout=self._answer_seconds)

    async def release(self, message: Received) -> None:
        """Make a message visible at once; nothing happens if it is not ours any more."""
        url = await self._queues.url(self._queues.names.of(message.level))
        await self._connection.call(lambda client: receipts.hide(client, url, message.receipt, 0))
        if message.level in self._polls:
            self._released.add(message.level)

    def _current(self, level: Level) -> Poll | None:
        """Return the poll of a level; ``None`` if there is none, or an old one that has failed."""
        poll = self._polls.get(level)
        if poll is None or not poll.answer.done():
            return poll
        has_failed = poll.answer.cancelled() or poll.answer.exception() is not None
        if has_failed and poll.ended_at and time.monotonic() - poll.ended_at > HELD_SECONDS:
            del self._polls[level]
            return None
        return poll

    @property
    def _longest(self) -> int:
        """For how many seconds a poll waits that is not brief."""
        return self._connection.target.wait_seconds

    @property
    def _answer_seconds(self) -> float:
        """Within how many seconds SQS answers a poll for which it has a message."""
        return self._patience(ANSWER_FACTOR, ANSWER_SECONDS)

    @property
    def _next_seconds(self) -> float:
        """The same where a message is likely, and comes before others."""
        return self._patience(NEXT_FACTOR, NEXT_SECONDS)

    def _patience(self, factor: float, bounds: tuple[float, float]) -> float:
        """Return so many times what an answer takes usually, within bounds, in seconds."""
        least, most = bounds
        return min(max(least, factor * self._connection.usual_seconds), most)

    async def _poll_on(self, level: Level, seconds: int) -> Poll | None:
        """Return the poll of a level; if it has none, start one that may take so many seconds.

        Returns:
            ``None`` if there is no poll, and none is started any more.
        """
        url = await self._queues.url(self._queues.names.of(level))
        poll = self._polls.get(level)
        if poll is None and not self._is_ending:  # else another caller has been faster
            poll = self._polls[level] = self._started(level, url, seconds)
            self._released.discard(level)
            poll.answer.add_done_callback(partial(self._on_answer, poll))
        return poll

    def _started(self, level: Level, url: str, seconds: int) -> Poll:
        poll = Poll(self._connection.session, level, url)
        poll.start(seconds, self._queues.visibility)
        return poll

    def _on_answer(self, poll: Poll, answer: "asyncio.Future[list[Received]]") -> None:
        """Keep a message for a moment; forget a poll that has found nothing."""
        if answer.cancelled() or answer.exception() is not None:
            return
        self._answered_at = time.monotonic()
        if poll.is_abandoned:
            if self._polls.get(poll.level) is poll:
                del self._polls[poll.level]
            if answer.result():  # it was abandoned in the moment in which its answer came
                released = in_thread(partial(poll.release, answer.result()))
                self._note_releasing(released, poll.level)
        elif answer.result():
            self._had_message.add(poll.level)
            loop = asyncio.get_running_loop()
            held = max(HELD_SECONDS, self._answer_seconds)
            loop.call_later(held, self._release_if_held, poll)
        elif self._polls.get(poll.level) is poll:
            del self._polls[poll.level]
            self._had_message.discard(poll.level)
            self._empty_until[poll.level] = time.monotonic() + EMPTY_SECONDS

    def _release_if_held(self, poll: Poll) -> None:
        if self._polls.get(poll.level) is poll:
            del self._polls[poll.level]
            self._release_later(poll)

    def _release_later(self, poll: Poll) -> None:
        """Release the message of a poll in the background, once its answer has come."""
        self._note_releasing(asyncio.ensure_future(self._release_all(poll)), poll.level)

    def _note_releasing(self, releasing: "asyncio.Future[None]", level: Level) -> None:
        self._releasing[releasing] = level
        releasing.add_done_callback(self._releasing.pop)
        releasing.add_done_callback(look_at)

    async def _until_released(self, level: Level) -> None:
        """Wait until SQS shows again what is being released into a level; not for long."""
        releases = [task for task, into in self._releasing.items() if into == level]
        if releases:
            await asyncio.wait(releases, timeout=self._answer_seconds)

    async def _release_all(self, poll: Poll) -> None:
        try:
            for each in await self._messages(poll):
                await self.release(each)
        except DagsterTaskiqError as error:
            logger.debug("Could not release a message of %s: %s", poll.url, error)

    async def _messages(self, poll: Poll) -> list[Received]:
        """Return what a poll has received, at most one message."""
        with self._connection.boundary:
            try:
                return await asyncio.shield(poll.answer)
            except ClientError as error:
                if code_of(error) not in MISSING:
                    raise
        self._queues.forget(self._queues.names.of(poll.level))
        self._on_missing(poll.level)
        return []
