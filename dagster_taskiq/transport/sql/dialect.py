"""What differs between the databases that the SQL broker and backend run on.

Broker and backend build all statements that are the same everywhere. A dialect has the others: the
clock, rows that are locked while they are changed, rows that may be there already, and the search
for the next message.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dagster_taskiq.transport.sql.tables import messages

#: The columns of a row that a claim returns, beside the number of claims.
TAKEN = (
    messages.c.id,
    messages.c.task_id,
    messages.c.queue,
    messages.c.own_task,
    messages.c.attempt,
    messages.c.body,
)


class SqlClaims(ABC):
    """How one broker finds the next message and records its claim."""

    @abstractmethod
    def may_find(self, queues: Sequence[str]) -> bool:
        """Return whether a claim may find a message, by a look that is cheaper than a claim.

        Called on the event loop, so it must not block. ``True`` if there is no such look.

        Raises:
            ServerUnavailableError: the database cannot be read.
        """

    @abstractmethod
    def take(self, connection: Connection, queues: Sequence[str], consumer: str) -> Row[Any] | None:
        """Claim the first message: highest priority, then oldest.

        Args:
            connection: one of ``SqlDatabase.run``, or of ``SqlDatabase.write``.
            queues: where to look.
            consumer: the worker to record.

        Returns:
            The columns :data:`TAKEN` of its row, and in ``attempts`` how often it has been claimed,
            this claim included; ``None`` if no message waits.
        """


class SqlDialect(ABC):
    """The statements of one kind of database."""

    #: The present time in seconds since the epoch; its parameters are those of `clock_values`.
    clock: "sa.ColumnElement[float]"

    def clock_values(self) -> dict[str, float]:
        """Return the values of the parameters that ``clock`` has, for this moment."""
        return {}

    @abstractmethod
    def insert_missing(self, table: sa.Table) -> "sa.Insert":
        """Return an insert that leaves out rows whose primary key is there already."""

    @abstractmethod
    def lock_tasks(
        self, connection: Connection, prefix: str, task_ids: Sequence[str]
    ) -> tuple[list[Row[Any]], float]:
        """Return the rows of tasks, which no other process changes before this transaction ends.

        Args:
            connection: one of ``SqlDatabase.write``.
            prefix: that of the settings.
            task_ids: in ascending order, so that two transactions cannot wait for each other.

        Returns:
            The rows that exist, and the time after they were locked, in seconds since the epoch.
        """

    @abstractmethod
    def insert_notifications(
        self, connection: Connection, channel: str, bodies: Sequence[str]
    ) -> int:
        """Add rows to the notifications of a channel, and wake its readers when they are there.

        A reader that has seen a row must have seen all rows of the channel with lower ids.

        Returns:
            The highest id of these rows.
        """

    @abstractmethod
    def announce(self, connection: Connection, queues: Sequence[str]) -> None:
        """Wake listeners, once the transaction is committed, because queues have messages.

        Args:
            connection: that of the transaction.
            queues: their topics (:func:`queue_topic`).
        """


def queue_topic(prefix: str, queue: str) -> str:
    """Return the topic of messages that come into a queue."""
    return f"queue:{prefix}:{queue}"


def channel_topic(channel: str) -> str:
    """Return the topic of notifications that are posted to a channel."""
    return f"channel:{channel}"
