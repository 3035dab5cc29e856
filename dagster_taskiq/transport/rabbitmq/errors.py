"""What the errors of aiormq mean, and the answers with which a RabbitMQ refuses something."""

import asyncio
import re

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

#: What aiormq, pamqp and the socket raise, sooner or later, when a connection is lost.
LOST = (AMQPError, PAMQPException, RuntimeError, OSError, asyncio.TimeoutError, EOFError)
#: What a server answers about one queue, exchange or message. The connection is in order; only
#: code of this folder, which knows what it has asked for, sees these.
ANSWERS = (
    ChannelLockedResource,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    PublishError,
)
#: The codes with which a server closes a connection that it refuses, and what to check.
REFUSALS = {403: "user and password", 530: "virtual host"}


class UnroutableError(Exception):
    """No queue took a message: the one it was meant for has been deleted."""


class RabbitErrors(ErrorBoundary):
    """The boundary of a RabbitMQ server."""

    def translate(self, error: Exception) -> DagsterTaskiqError | None:
        """See the base class; an answer about one queue, exchange or message stays as it is."""
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
            # The virtual host does not exist, or the user has no access to it.
            what = REFUSALS.get(error.args[0])
        if what is None:
            return None
        return ConfigError(
            f"{self.shown} does not let us in: {text_of(error)}. Check the {what} in its URL, and "
            "what that user may do (rabbitmqctl list_permissions)."
        )


def text_of(error: BaseException) -> str:
    """Return the text of an error of the client library, in a few words; without a full stop."""
    cause = error.__cause__
    if isinstance(cause, OSError) and not isinstance(error, ConnectionClosed):
        error = cause
    words = [str(each) for each in error.args if isinstance(each, str) and each]
    return (" ".join(words) or str(error)).rstrip(".") or type(error).__name__


def no_permission(action: str, error: BaseException) -> ConfigError:
    """Return the error for a call that the server does not permit.

    Args:
        action: what the call was to do, such as ``publish to <queue>``.
        error: the server's answer.
    """
    return ConfigError(
        f"The server does not let us {action}: {text_of(error)}. Grant the user configure, write "
        "and read permission for the names that begin with the `prefix`, and write permission "
        "for amq.default (rabbitmqctl set_permissions)."
    )


def declared_differently(kind: str, name: str, error: BaseException) -> ConfigError:
    """Return the error for a queue or exchange that exists with other properties.

    Args:
        kind: ``queue`` or ``exchange``.
        name: its name.
        error: the server's answer, which names the first property that differs.
    """
    text = text_of(error)
    found = re.search(r"inequivalent arg '([^']+)'.*: received (.*?) but current is (.*)$", text)
    if found is None:
        difference = text
    else:
        argument, wanted, current = found.groups()
        difference = f"its {argument} is {_plain(current)}, and should be {_plain(wanted)}"
    delete = "Delete it"
    if kind == "queue":
        delete += f' once it is empty (rabbitmqctl delete_queue "{name}")'
    return ConfigError(
        f'The {kind} "{name}" is on the server already, declared differently: {difference}. '
        f"Something else made it, or another version of this package. {delete}, or set another "
        "`prefix`."
    )


def _plain(value: str) -> str:
    """Return a value as the server quotes it, without what surrounds it: ``the value '5' of type
    'long'``.
    """
    found = re.match(r"(?:the value )?'(.*)'(?: of type .*)?$", value)
    return found.group(1) if found else value
