"""What the errors of aiormq, and RabbitMQ's reasons to close a channel or connection, mean."""

import asyncio

from aiormq.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelLockedResource,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    ConnectionClosed,
    ProbableAuthenticationError,
    PublishError,
)
from pamqp.exceptions import PAMQPException

from dagster_taskiq.errors import ConfigError, DagsterTaskiqError
from dagster_taskiq.transport.error_boundary import ErrorBoundary

#: What aiormq and the socket raise, sooner or later, when a connection is lost.
LOST = (AMQPError, PAMQPException, RuntimeError, OSError, asyncio.TimeoutError, EOFError)
#: What a server answers about a queue or exchange. The connection is in order, and only code of
#: this folder, which knows what it has asked for, ever sees these.
ANSWERS = (
    ChannelLockedResource,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    PublishError,
)
#: The codes with which a server closes a connection that it refuses, and what to check.
REFUSED = {403: "user and password", 530: "virtual host"}


class RabbitErrors(ErrorBoundary):
    """The boundary of a RabbitMQ server."""

    def translate(self, error: Exception) -> DagsterTaskiqError | None:
        """See the base class."""
        if isinstance(error, ANSWERS):
            return None
        if isinstance(error, LOST):
            return self.unavailable(text_of(error))
        # aiormq ends a call that it gives up together with its connection with a bare Exception.
        return self.unavailable("the connection was closed") if type(error) is Exception else None

    def refusal(self, error: Exception) -> ConfigError | None:
        """Return the error for a server that refuses a connection; ``None`` if it does not."""
        what = None
        if isinstance(error, ProbableAuthenticationError | AuthenticationError):
            what = "user and password"
        elif isinstance(error, ConnectionClosed) and error.args:
            # The server answered, and closed: no such virtual host, or not for this user.
            what = REFUSED.get(error.args[0])
        if what is None:
            return None
        return ConfigError(
            f"{self.shown} does not let us in: {text_of(error)}. Check the {what} in its URL, and "
            "what that user may do (rabbitmqctl list_permissions)."
        )


def text_of(error: BaseException) -> str:
    """Return the text of an error of the client library, in a few words."""
    cause = error.__cause__
    if isinstance(cause, OSError) and not isinstance(error, ConnectionClosed):
        error = cause
    words = [str(each) for each in error.args if isinstance(each, str) and each]
    return " ".join(words) or str(error) or type(error).__name__
