"""The admission of messages to a worker, as its broker sees it."""

from typing import Protocol


class SlotGate(Protocol):
    """Decides when a worker may claim another message."""

    @property
    def takes_runs(self) -> bool:
        """Whether the next message may be a run."""

    async def until_takes_runs(self) -> None:
        """Return when the next message may be a run."""

    async def reserve(self) -> None:
        """Wait for a free slot, and reserve it for the next message."""

    def unreserve(self) -> None:
        """Free a reserved slot for which no message came."""

    def expect(self, task_id: str, is_run: bool) -> None:
        """Keep the reserved slot for this task, whose message is about to be yielded."""

    def end_listening(self) -> None:
        """Note that no more messages are claimed: the worker drains."""


class OpenGate:
    """The gate of a broker that listens without our worker: it admits every message."""

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
    """What a worker runs together with its listening broker."""

    async def start(self) -> None:
        """Begin."""

    async def stop(self) -> None:
        """End."""
