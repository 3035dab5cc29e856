"""The connection to SQS: the clients of the AWS library, and what is known of the queues."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from boto3.session import Session as AwsSession
from botocore.config import Config
from botocore.exceptions import ClientError

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.transport.sqs.errors import MISSING, QueueMissingError, SqsErrors, code_of
from dagster_taskiq.transport.sqs.threads import in_thread
from dagster_taskiq.transport.sqs.url import read_target

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

T = TypeVar("T")

#: How long connecting may take, in seconds, and how long an answer, besides what a poll waits.
CONNECT_SECONDS = 5.0
READ_SECONDS = 8.0
#: How long one command may take, with all attempts of the client library.
COMMAND_SECONDS = 12.0
#: How often the client library sends a command that is throttled, or whose connection is lost.
ATTEMPTS = 3
#: How long an answer takes usually, before one has come, in seconds; and how much each changes it.
USUAL_SECONDS, NEWEST_SHARE = 0.1, 0.1
#: How many connections are kept open. More are made if there are more requests at once.
KEPT_CONNECTIONS = 50


@dataclass
class Session:
    """What there is while the connection is open."""

    #: Sends commands, some of them several times.
    commands: "SQSClient"
    #: Sends polls, each once.
    polls: "SQSClient"
    region: str
    #: The URLs of queues that exist, by name.
    urls: dict[str, str] = field(default_factory=dict)
    #: The size of the largest message of each, in bytes.
    limits: dict[str, int] = field(default_factory=dict)
    #: Held while a queue is looked up or created.
    looking_up: asyncio.Lock = field(default_factory=asyncio.Lock)


class SqsConnection:
    """One SQS."""

    def __init__(self, url: str, options: Mapping[str, Any], timeout: float) -> None:
        """Read the URL and options; nothing is opened yet.

        Args:
            url: the broker's URL.
            options: those of ``broker_options``.
            timeout: how long connecting may take, in seconds.

        Raises:
            ConfigError: the URL or an option cannot be used.
        """
        self.target = read_target(url, options)
        self.boundary = SqsErrors(url)
        #: Called when the connection is closed.
        self.on_close: list[Callable[[], None]] = []
        #: How long an answer takes usually, in seconds.
        self.usual_seconds = USUAL_SECONDS
        self._connect_seconds = min(timeout, CONNECT_SECONDS)
        self._users = 0
        self._session: Session | None = None
        #: What was made when the connection was opened for the first time, which takes long, and
        #: the process to which its sockets belong. It is used again when that opens it again.
        self._made: Session | None = None
        self._made_by = 0

    @property
    def session(self) -> Session:
        """What there is while the connection is open.

        Raises:
            RuntimeError: it is not.
        """
        if self._session is None:
            raise RuntimeError(f"The connection to {self.boundary.shown} is not open.")
        return self._session

    async def open(self) -> None:
        """Make the clients, or count one more user of them; nothing is sent yet.

        Raises:
            ConfigError: the region is not known, or AWS's own configuration cannot be read.
        """
        self._users += 1
        if self._users > 1:
            return
        try:
            if self._made is None or self._made_by != os.getpid():
                with self.boundary:
                    self._made = await in_thread(self._make_session)
                self._made_by = os.getpid()
        except BaseException:
            self._users -= 1
            raise
        # A lock belongs to one event loop.
        self._session = replace(self._made, looking_up=asyncio.Lock())

    async def close(self) -> None:
        """Disconnect, at the call of the last user."""
        if self._users == 0:
            return
        self._users -= 1
        if self._users == 0 and self._session is not None:
            for each in self.on_close:
                each()
            self._session.commands.close()
            self._session.polls.close()
            self._session = None

    async def call(self, work: "Callable[[SQSClient], T]") -> T:
        """Have the client do something in a thread, and return its result.

        Raises:
            QueueMissingError: the queue does not exist.
            ServerUnavailableError: SQS does not answer, or not now.
            ConfigError: it does not let us, or there are no credentials.
        """
        client = self.session.commands
        begun_at = time.monotonic()
        with self.boundary:
            try:
                result = await asyncio.wait_for(in_thread(lambda: work(client)), COMMAND_SECONDS)
            except ClientError as error:
                if code_of(error) in MISSING:
                    raise QueueMissingError from None
                raise
            except asyncio.TimeoutError:
                raise self.boundary.unavailable(f"no answer within {COMMAND_SECONDS:g} s") from None
        self.usual_seconds += (time.monotonic() - begun_at - self.usual_seconds) * NEWEST_SHARE
        return result

    def _make_session(self) -> Session:
        target = self.target
        _keep_headers_out_of_logs()
        # Each has a session of its own: those of the library may not be shared by threads.
        session = AwsSession(
            target.access_key, target.secret_key, target.session_token, region_name=target.region
        )
        region = session.region_name or os.environ.get("AWS_REGION")
        if not region:
            raise ConfigError(
                f"Cannot use the broker {self.boundary.shown}: it has no region. Write "
                "sqs://REGION, such as sqs://eu-central-1, or set AWS_DEFAULT_REGION."
            )

        def client(read_seconds: float, attempts: int) -> "SQSClient":
            config = Config(
                connect_timeout=self._connect_seconds,
                read_timeout=read_seconds,
                retries={"mode": "standard", "total_max_attempts": attempts},
                max_pool_connections=KEPT_CONNECTIONS,
                tcp_keepalive=True,
            )
            return session.client(
                "sqs",
                region_name=region,
                endpoint_url=target.endpoint_url,
                verify=target.verify,
                config=config,
            )

        try:
            commands = client(READ_SECONDS, ATTEMPTS)
            polls = client(target.wait_seconds + READ_SECONDS, 1)
        except ValueError as problem:  # an endpoint_url that is none
            raise ConfigError(f"Cannot use {self.boundary.shown}: {problem}.") from None
        return Session(commands, polls, region)


def _keep_headers_out_of_logs() -> None:
    """Have botocore log no requests, unless somebody has asked for that by its name.

    With them it logs their headers, in which the token of a session is.
    """
    logger = logging.getLogger("botocore")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
