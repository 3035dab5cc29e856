"""The queues on the server: looked up or created when they are first used."""

import json
import math
import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from botocore.exceptions import ClientError

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.transport.sqs.connection import SqsConnection
from dagster_taskiq.transport.sqs.errors import (
    EXISTS,
    NOT_ALLOWED,
    WRONG_SIZE,
    QueueMissingError,
    code_of,
    text_of,
)
from dagster_taskiq.transport.sqs.names import Lane, Names
from dagster_taskiq.transport.sqs.url import Target

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.literals import QueueAttributeNameType

T = TypeVar("T")

#: How long a queue keeps a message, in seconds: as long as SQS can.
RETENTION_SECONDS = 14 * 86400
#: For how long it hides a message at most, in seconds.
LONGEST_LEASE_SECONDS = 12 * 3600
#: The largest message that a queue may take: the limit of SQS, and what it was before 2025, which
#: is that of other servers.
MAX_SIZES = (1024 * 1024, 256 * 1024)
#: How many queues one answer lists at most.
PAGE = 1000


class Queues:
    """Finds the URLs of queues by their names, and creates those that do not exist."""

    def __init__(
        self, connection: SqsConnection, names: Names, default_queue: str, lease: float
    ) -> None:
        """Look up nothing yet.

        Args:
            connection: the server.
            names: those of all queues.
            default_queue: the queue that the option ``queue_url`` is for.
            lease: the workers' lease, in seconds.
        """
        self.names = names
        #: For how long a message that was received is hidden from others, in whole seconds.
        self.visibility = min(max(1, math.ceil(lease)), LONGEST_LEASE_SECONDS)
        self._connection = connection
        target = connection.target
        self._given = {names.of(Lane(queue)): url for queue, url in target.queue_urls.items()}
        if target.queue_url:
            self._given[names.of(Lane(default_queue))] = target.queue_url

    async def call(self, name: str, work: "Callable[[SQSClient, str], T]") -> T:
        """Have the client do something with the URL of a queue.

        The queue is created if it does not exist; so it is if it turns out to have been deleted.

        Args:
            name: that of the queue.
            work: what to do, with the client and the URL.

        Raises:
            ServerUnavailableError: SQS does not answer, or not now.
            ConfigError: it does not let us, or the queue cannot be created.
        """
        try:
            return await self._call(name, work)
        except QueueMissingError:
            self.forget(name)
        try:
            return await self._call(name, work)
        except QueueMissingError:
            raise self._connection.boundary.unavailable(
                f"the queue {name} is being deleted"
            ) from None

    async def url(self, name: str) -> str:
        """Return the URL of a queue, which is created if it does not exist.

        Raises:
            ServerUnavailableError: SQS does not answer, or the queue was deleted a moment ago.
            ConfigError: there is none, and it cannot be created.
        """
        session = self._connection.session
        found = session.urls.get(name)
        if found is not None:
            return found
        async with session.looking_up:
            if name not in session.urls:
                session.urls[name] = await self.find(name) or await self._create(name)
            return session.urls[name]

    async def find(self, name: str) -> str | None:
        """Return the URL of a queue; ``None`` if it does not exist."""
        given = self._given.get(name)
        if given is not None:
            return given
        try:
            answer = await self._connection.call(
                lambda client: client.get_queue_url(QueueName=name)
            )
        except QueueMissingError:
            return None
        return answer["QueueUrl"]

    def forget(self, name: str) -> None:
        """Note that a queue has been deleted; it is looked up at its next use.

        Raises:
            ConfigError: it is one whose URL was given, so that nothing else can be found.
        """
        session = self._connection.session
        session.urls.pop(name, None)
        session.limits.pop(name, None)
        if name in self._given:
            raise ConfigError(
                f"There is no queue {self._given[name]}, which `queue_url` or `queue_urls` of the "
                "broker's options names. Create it, or correct the option."
            )

    async def limit(self, name: str) -> int:
        """Return the size of the largest message that a queue takes, in bytes."""
        limits = self._connection.session.limits
        if name not in limits:
            limits[name] = await self.call(name, _ask_limit)
        return limits[name]

    async def check(self, name: str) -> None:
        """Look up a queue, and its limit, as a sender needs them; nothing happens if it is missing.

        Raises:
            ServerUnavailableError: SQS does not answer.
            ConfigError: it does not let us.
        """
        url = await self.find(name)
        if url is None:
            return
        session = self._connection.session
        try:
            limit = await self._connection.call(lambda client: _ask_limit(client, url))
        except QueueMissingError:
            self.forget(name)
        else:
            session.urls[name], session.limits[name] = url, limit

    async def attributes(
        self, name: str, wanted: "Sequence[QueueAttributeNameType]"
    ) -> dict[str, str] | None:
        """Return attributes of a queue, by name; ``None`` if the queue does not exist."""
        session = self._connection.session
        url = session.urls.get(name) or await self.find(name)
        if url is None:
            return None
        try:
            answer = await self._connection.call(
                lambda client: client.get_queue_attributes(QueueUrl=url, AttributeNames=wanted)
            )
        except QueueMissingError:
            self.forget(name)
            return None
        return {str(name): value for name, value in answer["Attributes"].items()}

    async def all(self) -> list[Lane]:
        """Return the lanes that there are under the prefix, by asking the server for a list.

        A queue that was created or deleted within the last minute may be missing, or be there.
        """
        prefix = f"{self.names.prefix}-"

        def ask(client: "SQSClient") -> list[str]:
            pages = client.get_paginator("list_queues").paginate(
                QueueNamePrefix=prefix, PaginationConfig={"PageSize": PAGE}
            )
            return [url for page in pages for url in page.get("QueueUrls", [])]

        lanes = [self.names.read(name) for name in self._given]
        for url in await self._connection.call(ask):
            name = url.rpartition("/")[2]
            lane = self.names.read(name)
            if lane is not None and name not in self._given:
                self._connection.session.urls.setdefault(name, url)
                lanes.append(lane)
        return [each for each in lanes if each is not None]

    async def _call(self, name: str, work: "Callable[[SQSClient, str], T]") -> T:
        url = await self.url(name)
        return await self._connection.call(lambda client: work(client, url))

    async def _create(self, name: str) -> str:
        """Create a queue; return its URL.

        Raises:
            ConfigError: that is not permitted, or the option forbids it.
        """
        found, problem = None, "the option create_queues is false"
        target = self._connection.target
        if target.creates_queues:
            found, problem = await self._connection.call(
                lambda client: _create(client, name, self.visibility, target)
            )
        # If it exists with other attributes, another process has made it in this moment.
        url = found or await self.find(name)
        if url is not None:
            return url
        attributes = _attributes(self.visibility, MAX_SIZES[0], target)
        words = ["aws", "sqs", "create-queue", "--region", self._connection.session.region]
        words += ["--queue-name", name, "--attributes", json.dumps(attributes)]
        words += ["--tags", json.dumps(dict(target.tags))] if target.tags else []
        raise ConfigError(
            f"There is no queue {name} on {self._connection.boundary.shown}, and it is not created "
            f"here ({problem}). Run: {shlex.join(words)}"
        )


def _ask_limit(client: "SQSClient", url: str) -> int:
    try:
        answer = client.get_queue_attributes(QueueUrl=url, AttributeNames=["MaximumMessageSize"])
    except ClientError as error:
        if code_of(error) not in NOT_ALLOWED:
            raise
        return MAX_SIZES[0]  # it is SQS that refuses what is too large for the queue
    return int(answer["Attributes"].get("MaximumMessageSize", MAX_SIZES[0]))


def _create(
    client: "SQSClient", name: str, visibility: int, target: Target
) -> tuple[str | None, str]:
    """Create a queue, with the largest messages that the server allows.

    Returns:
        Its URL; or ``None`` and why not, if it exists with other attributes, or may not be created.
    """
    problem = ""
    for size in MAX_SIZES:
        try:
            answer = client.create_queue(
                QueueName=name,
                Attributes=_attributes(visibility, size, target),
                tags=dict(target.tags),
            )
        except ClientError as error:
            problem = text_of(error)
            if code_of(error) in (*EXISTS, *NOT_ALLOWED):
                break
            if code_of(error) not in WRONG_SIZE:
                raise
        else:
            return answer["QueueUrl"], ""
    return None, problem


def _attributes(visibility: int, size: int, target: Target) -> "dict[QueueAttributeNameType, str]":
    own: dict[QueueAttributeNameType, str] = {
        "MessageRetentionPeriod": str(RETENTION_SECONDS),
        "MaximumMessageSize": str(size),
        "VisibilityTimeout": str(visibility),
    }
    return {**own, **target.attributes}
