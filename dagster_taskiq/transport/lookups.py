"""Looking up the records of tasks, many at a time.

Who waits for a hundred results asks for each of them five times a second. What is asked for while
the server answers is asked for together afterwards, in one query.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context

from dagster_taskiq.transport.background import look_at
from dagster_taskiq.wire.records import Task

Find = Callable[[Sequence[str]], Awaitable[dict[str, Task]]]


class Lookups:
    """The lookups of one backend. To be used on one event loop."""

    def __init__(self, find: Find) -> None:
        """Look up nothing yet.

        Args:
            find: returns the records of tasks, by id.
        """
        self._find = find
        #: The tasks that are to be looked up next, with the futures of those who wait for that.
        self._wanted: dict[str, list[asyncio.Future[Task | None]]] = {}
        self._finding: asyncio.Task[None] | None = None

    async def find(self, task_id: str) -> Task | None:
        """Return the record of a task, as it is at some moment after this call; if there is one.

        Raises:
            Exception: what ``find`` raises.
        """
        loop = asyncio.get_running_loop()
        if self._finding is not None and self._finding.get_loop() is not loop:
            # That of the process which has forked this one, in the middle of a lookup.
            self._finding, self._wanted = None, {}
        future: asyncio.Future[Task | None] = loop.create_future()
        self._wanted.setdefault(task_id, []).append(future)
        if self._finding is None:
            # Not in the context of this caller, who may not be the last that it looks up for.
            self._finding = Context().run(asyncio.ensure_future, self._find_wanted())
            self._finding.add_done_callback(look_at)
        return await future

    async def _find_wanted(self) -> None:
        """Look up what is wanted, until nothing more is."""
        try:
            while self._wanted:
                wanted, self._wanted = self._wanted, {}
                await self._find_all(wanted)
        finally:
            self._finding = None

    async def _find_all(self, wanted: dict[str, list[asyncio.Future[Task | None]]]) -> None:
        waiting = [(task_id, future) for task_id, all_of in wanted.items() for future in all_of]
        try:
            found = await self._find(list(wanted))
        except BaseException as error:
            for _, future in waiting:
                if not future.done():
                    future.set_exception(error)
                    future.add_done_callback(look_at)
            if not isinstance(error, Exception):
                raise
        else:
            for task_id, future in waiting:
                if not future.done():
                    future.set_result(found.get(task_id))
