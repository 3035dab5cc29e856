"""The queues on the server: looked up or created when they are first used."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from botocore.exceptions import ClientError

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.transport.sqs import creation
from dagster_taskiq.transport.sqs.connection import SqsConnection
from dagster_taskiq.transport.sqs.errors import NOT_ALLOWED, QueueMissingError, code_of
from dagster_taskiq.transport.sqs.names import Level, Names

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.literals import QueueAttributeNameType

T = TypeVar("T")

#: For how long a queue hides a message at most, in seconds.
LONGEST_LEASE_SECONDS = 12 * 3600
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
        urls = target.urls(default_queue)
        self._given = {names.of(Level(queue)): url for queue, url in urls.items()}

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

    async def call_existing(self, name: str, work: "Callable[[SQSClient, str], T]") -> T | None:
        """Do as :meth:`call`, but create nothing; return ``None`` if the queue does not exist."""
        url = self._connection.session.urls.get(name) or await self.find(name)
        if url is None:
            return None
        try:
            return await self._connection.call(lambda client: work(client, url))
        except QueueMissingError:
            self.forget(name)
            return None

    async def attributes(
        self, name: str, wanted: "Sequence[QueueAttributeNameType]"
    ) -> dict[str, str] | None:
        """Return attributes of a queue, by name; ``None`` if the queue does not exist."""
        answer = await self.call_existing(
            name,
            lambda client, url: client.get_queue_attributes(QueueUrl=url, AttributeNames=wanted),
        )
        if answer is None:
            return None
        return {str(name): value for name, value in answer["Attributes"].items()}

    async def all(self) -> list[Level]:
        """Return the levels that there are, by asking the server for a list.

        A queue that was created or deleted within the last minute may be missing, or be there.
        """

        def ask(client: "SQSClient") -> list[str]:
            lists = client.get_paginator("list_queues")
            urls: list[str] = []
            for beginning in self.names.beginnings:
                for page in lists.paginate(
                    QueueNamePrefix=beginning, PaginationConfig={"PageSize": PAGE}
                ):
                    urls += page.get("QueueUrls", [])
            return urls

        levels = [self.names.read(name) for name in self._given]
        for url in await self._connection.call(ask):
            name = url.rpartition("/")[2]
            level = self.names.read(name)
            if level is not None and name not in self._given:
                self._connection.session.urls.setdefault(name, url)
                levels.append(level)
        return [each for each in levels if each is not None]

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
                lambda client: creation.create(client, name, self.visibility, target)
            )
        # If it exists with other attributes, another process has made it in this moment.
        url = found or await self.find(name)
        if url is not None:
            return url
        region = self._connection.session.region
        command = creation.command(name, self.visibility, target, region)
        raise ConfigError(
            f"There is no queue {name} on {self._connection.boundary.shown}, and it is not created "
            f"here ({problem}). Run: {command}"
        )


def _ask_limit(client: "SQSClient", url: str) -> int:
    try:
        answer = client.get_queue_attributes(QueueUrl=url, AttributeNames=["MaximumMessageSize"])
    except ClientError as error:
        if code_of(error) not in NOT_ALLOWED:
            raise
        return creation.MAX_SIZES[0]  # it is SQS that refuses what is too large for the queue
    return int(answer["Attributes"].get("MaximumMessageSize", creation.MAX_SIZES[0]))
