"""Celery's queues on any server, as ``drain`` looks into them and rescues what is there."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from dagster_celery._upgrade.messages import CeleryMessage

#: The name, behind the engine's prefix, under which messages are kept whose steps are executed here
#: and whose run loops have not been answered yet.
KEPT = "from-celery"


@dataclass(frozen=True)
class QueueCount:
    """How much is in one of Celery's queues."""

    queue: str
    waiting: int
    #: Messages that a worker has taken and not acknowledged; ``None`` if that cannot be seen.
    taken: int | None
    #: Workers that consume the queue; ``None`` if that cannot be seen of one queue.
    consumers: int | None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is in it, as far as can be seen."""
        return not self.waiting and not self.taken


class LeftMessage(Protocol):
    """A message that is still in its queue."""

    @property
    def message(self) -> CeleryMessage:
        """What it says."""

    def drop(self) -> None:
        """Delete it."""

    def keep(self) -> bool:
        """Move it, in one step, to where :meth:`LeftQueues.kept` finds it.

        Returns:
            ``False`` if it is not there any more.
        """


class LeftQueues(Protocol):
    """Celery's queues on one server. Every method raises ``ServerUnavailableError`` if that is
    away, and ``ConfigError`` if it does not permit what is asked.
    """

    def count(self, queues: Sequence[str]) -> list[QueueCount]:
        """Return how much is in each of these queues."""

    def consumers(self, queues: Sequence[str]) -> str:
        """Return in words which of Celery's workers consume; empty if none does."""

    def traces(self, queues: Sequence[str]) -> bool:
        """Return whether Celery has ever used one of these queues here, as far as can be seen."""

    def scan(self, queue: str) -> AbstractContextManager[Iterator[LeftMessage]]:
        """Return each message of a queue once; one that is neither dropped nor kept stays."""

    def kept(self) -> list[CeleryMessage]:
        """Return the messages that were kept, by this process or one before."""

    def forget(self, messages: Collection[CeleryMessage]) -> None:
        """Delete messages that were kept."""
