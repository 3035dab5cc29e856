"""Starting the children of a worker, from one fork server; another is started if that has died."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from dagster_taskiq.worker.child_process import ChildProcess
from dagster_taskiq.worker.fork_server import process
from dagster_taskiq.worker.fork_server.client import ForkServer
from dagster_taskiq.worker.lease import Lease
from dagster_taskiq.worker.output_mirror import Mirror


class ChildStarter:
    """The connection to a fork server, and all that a new child needs."""

    def __init__(
        self,
        setup: dict[str, Any],
        lease: Lease,
        on_foreign_signal: Callable[[ChildProcess, int], None],
    ) -> None:
        """Start nothing yet.

        Args:
            setup: what each child needs to know, see :mod:`dagster_taskiq.worker.child.setup`.
            lease: until when children may run.
            on_foreign_signal: see :meth:`ChildProcess.start`.
        """
        self._setup = setup
        self._lease = lease
        self._on_foreign_signal = on_foreign_signal
        #: Forks the children; ``None`` until the first is started.
        self.server: ForkServer | None = None
        #: What is not as expected in the private parts of Dagster that children lean on, by the
        #: part's name; empty if all is. Known once a child is ready.
        self.dagster_parts: Mapping[str, str] = {}
        #: Whether children have middlewares that want to know of the ends of tasks. Known then too.
        self.has_hooks = False
        #: The names of the users' own tasks that are coroutines. Known then too.
        self.async_tasks: frozenset[str] = frozenset()
        self._mirror = Mirror()
        self._connecting = asyncio.Lock()

    def open(self, relay: str) -> None:
        """Begin to copy the output that children capture.

        Args:
            relay: the socket of the worker's relay, for the set-up of each child; or nothing.
        """
        self._setup = {**self._setup, "relay": relay}
        self._mirror.start()

    async def start_child(self) -> ChildProcess:
        """Start a child, and return it when it can run a task; wait while there is no lease.

        Raises:
            ConfigError: it cannot import one of the modules that it should.
            ChildStartError: it ended before it was ready.
            OSError: there can be no more processes.
        """
        await self._lease.until_valid()
        server = await self._connect()
        child = await ChildProcess.start(server, self._setup, self._mirror, self._on_foreign_signal)
        self.dagster_parts = child.dagster_parts
        self.has_hooks = child.has_hooks
        self.async_tasks = child.async_tasks
        return child

    def renew_lease(self, deadline: float) -> None:
        """Let children run until ``deadline`` (of ``time.monotonic()``)."""
        self._lease.renew(deadline)
        if self.server is not None:
            self.server.renew(deadline)

    async def close(self) -> None:
        """End the fork server with all children that are left, and copy their last output."""
        if self.server is not None:
            await self.server.close()
        self._mirror.close()

    async def _connect(self) -> ForkServer:
        """Return the fork server; a new one if there is none, or if it has died."""
        async with self._connecting:
            if self.server is None or not self.server.is_alive:
                self.server = await ForkServer.connect(process.take())
                self.server.renew(self._lease.deadline)
            return self.server
