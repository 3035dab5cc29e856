"""How a broker ends tasks: by the records of its backend.

A broker asks its backend whether it is a :class:`Stopper`, and calls it; the backends of this
package are (:class:`~dagster_taskiq.transport.backend.StateBackend`).
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class Stopper(Protocol):
    """The part of a backend by which a broker ends tasks."""

    async def stop(self, task_ids: Sequence[str], reason: str, at_once: bool) -> list[str]:
        """Cancel tasks that are on record; return the ids of those that had started."""

    async def end_lost(self, task_ids: Sequence[str]) -> None:
        """End those of these tasks whose workers are lost."""

    async def end_set_aside(self, task_id: str, reason: str, attempt: int | None) -> None:
        """End a user's own task whose message was set aside."""

    async def forget_set_aside(self, task_ids: Sequence[str]) -> None:
        """Forget those of these tasks that have failed because their messages were set aside."""

    async def end_started(self, task_id: str, worker: str, reason: str) -> None:
        """End a user's own task that a worker has started, and whose message was set aside."""
