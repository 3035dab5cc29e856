"""The lease of a worker: until when its children may run, unless its heartbeat renews it.

A heartbeat that the backend has accepted renews the lease. When it ends, the fork server kills the
children (:mod:`dagster_taskiq.worker.fork_server.loop`), because another worker may then run their
tasks. This module is what the worker's parent process knows of it.
"""

import asyncio
import time

from dagster_taskiq.worker.frames import EARLY_SECONDS


class Lease:
    """Until when children may run. Moments are those of ``time.monotonic()``."""

    def __init__(self, seconds: float) -> None:
        """Hold no lease yet.

        Args:
            seconds: for how long a heartbeat renews it.
        """
        self._seconds = seconds
        #: When it ends.
        self.deadline = 0.0
        self._renewed = asyncio.Event()
        #: When it was last renewed after it had ended.
        self._resumed_at = 0.0

    @property
    def is_valid(self) -> bool:
        """Whether children may run now; the fork server kills them a moment before the deadline."""
        return time.monotonic() < self.deadline - EARLY_SECONDS

    def renew(self, deadline: float) -> None:
        """Let children run until ``deadline``."""
        if not self.is_valid:
            self._resumed_at = time.monotonic()
        self.deadline = deadline
        self._renewed.set()

    async def until_valid(self) -> None:
        """Return when children may run: without a lease a new one would be killed at once."""
        while not self.is_valid:
            self._renewed.clear()
            await self._renewed.wait()

    def has_ended_since(self, moment: float) -> bool:
        """Return whether the lease has ended since ``moment``, even if it was renewed later."""
        return not self.is_valid or moment < self._resumed_at

    def describe_end(self) -> str:
        """Return what happened to a child of which the lease has ended, to follow "the process"."""
        return (
            f"ended with the lease of its worker, which sent no heartbeat for {self._seconds:g} s: "
            "it was frozen, got no CPU time, or did not reach the backend. Another worker may run "
            "the task from then on"
        )
