"""When a worker may take another message."""

from typing import Protocol


class SlotGate(Protocol):
    """Says when a worker may take another message."""

    @property
    def takes_runs(self) -> bool:
        """Whether the next message may be a run."""

    async def until_takes_runs(self) -> None:
        """Return when the next message may be a run."""

    async def reserve(self) -> None:
        """Wait for a free slot, and hold it for the message that comes next."""

    def unreserve(self) -> None:
        """Give back a held slot for which no message came."""

    def expect(self, task_id: str, is_run: bool) -> None:
        """Keep the held slot for this task, whose message has just been handed on."""

    def end_listening(self) -> None:
        """Note that no more messages are taken: the worker drains."""


class OpenGate:
    """The gate of a listener that takes whatever comes: a broker used without our worker."""

    takes_runs = True

    async def until_takes_runs(self) -> None:
        """Return at once."""

    async def reserve(self) -> None:
        """Return at once."""

    def unreserve(self) -> None:
        """Do nothing."""

    def expect(self, task_id: str, is_run: bool) -> None:
        """Do nothing."""

    def end_listening(self) -> None:
        """Do nothing."""


class Service(Protocol):
    """What a worker needs besides a broker that listens."""

    async def start(self) -> None:
        """Begin."""

    async def stop(self) -> None:
        """End."""
