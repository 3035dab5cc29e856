"""Opening the connection to Celery's broker."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from anyio.from_thread import BlockingPortal, start_blocking_portal

from dagster_celery._upgrade.servers import CeleryServers

if TYPE_CHECKING:
    from dagster_celery._upgrade.amqp_queues import AmqpQueues
    from dagster_celery._upgrade.redis_queues import RedisQueues


@contextmanager
def open_queues(
    servers: CeleryServers,
) -> Iterator[tuple["AmqpQueues | RedisQueues", BlockingPortal]]:
    """Connect to Celery's broker as long as the context lasts.

    Args:
        servers: where it is.

    Returns:
        Its queues, and what runs coroutines meanwhile.

    Raises:
        ServerUnavailableError: it does not answer.
        ConfigError: it does not let us in, or an option is wrong.
    """
    with start_blocking_portal() as portal:
        queues = _make(servers, portal)
        try:
            queues.open()
            yield queues, portal
        finally:
            queues.close()


def _make(servers: CeleryServers, portal: BlockingPortal) -> "AmqpQueues | RedisQueues":
    # Imported here, since each imports the client library of its server: a worker needs one.
    if servers.is_redis:
        from dagster_celery._upgrade.redis_queues import RedisQueues  # noqa: PLC0415

        return RedisQueues(servers, portal)
    from dagster_celery._upgrade.amqp_queues import AmqpQueues  # noqa: PLC0415

    return AmqpQueues(servers, portal)
