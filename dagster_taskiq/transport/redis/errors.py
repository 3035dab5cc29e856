"""What the errors of redis-py, and the answers of Redis that refuse a command, mean."""

import re

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    ClusterCrossSlotError,
    ClusterDownError,
    ConnectionError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

from dagster_taskiq.errors import ConfigError, DagsterTaskiqError
from dagster_taskiq.transport.error_boundary import ErrorBoundary

#: What a lost, frozen, full or restarting server raises; worth trying again. redis-py counts a
#: refused password among connection errors: :meth:`RedisErrors.refusal` looks at that first when a
#: connection is checked. Later the password has been right once, and is being changed.
NOT_NOW = (
    ConnectionError,
    TimeoutError,
    OSError,
    OutOfMemoryError,
    ReadOnlyError,
    ClusterDownError,
    TryAgainError,
)
#: How an answer begins that means "not now": the disk or the memory is full, a failover is under
#: way (which also ends a read that blocks), a long script runs. redis-py has classes for some of
#: them; from inside a script, older servers put the code somewhere in the text.
NOT_NOW_TEXT = re.compile(
    r"\b(OOM|READONLY|MISCONF|NOREPLICAS|MASTERDOWN|CLUSTERDOWN|BUSY|UNBLOCKED)\b"
)

#: What a node of a cluster answers about keys that it does not hold, or not all of them.
NOT_HERE = (AskError, ClusterCrossSlotError)
#: The same for the keys of a script, for which redis-py has no class.
NOT_HERE_TEXT = re.compile(r"\b(CROSSSLOT|MOVED|cluster node)\b")

#: What the server answers to a client whose user or password it refuses.
REFUSALS = (AuthenticationError, AuthorizationError, NoPermissionError)
#: The same as plain text, from older servers.
REFUSAL_TEXT = re.compile("WRONGPASS|NOAUTH|invalid password")


class RedisErrors(ErrorBoundary):
    """The boundary of a Redis or Valkey server."""

    def translate(self, error: Exception) -> DagsterTaskiqError | None:
        """See the base class."""
        if isinstance(error, NOT_NOW):
            return self.unavailable(error)
        if isinstance(error, NoPermissionError):
            return self.refused(error)
        if isinstance(error, ResponseError):
            if NOT_NOW_TEXT.search(str(error)):
                return self.unavailable(error)
            if isinstance(error, NOT_HERE) or NOT_HERE_TEXT.search(str(error)):
                return self.is_cluster()
        return None

    def refusal(self, error: Exception) -> ConfigError | None:
        """Return the error for a server that refuses user or password; ``None`` if it does not."""
        is_text = isinstance(error, ResponseError) and REFUSAL_TEXT.search(str(error))
        return self.refused(error) if is_text or isinstance(error, REFUSALS) else None

    def refused(self, error: Exception) -> ConfigError:
        """Return the error for a user or password that the server refuses."""
        return ConfigError(
            f"{self.shown} does not let us in: {str(error).rstrip('.')}. Check the user and "
            "password in its URL."
        )

    def is_cluster(self) -> ConfigError:
        """Return the error for a node of a Redis Cluster."""
        return ConfigError(
            f"{self.shown} is a Redis Cluster, which cannot be used: it spreads over its nodes "
            "what has to change together. Use a Redis or Valkey without cluster mode (where it has "
            "to survive its machine, with replicas and sentinels, redis+sentinel://), or another "
            "broker."
        )
