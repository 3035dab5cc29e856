"""A child's connection to its worker."""

import asyncio
import itertools
from typing import Any

from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.transport.error_boundary import ErrorBoundary
from dagster_taskiq.transport.relay import frames

#: What is wrong if the worker does not answer.
_GONE = "it has ended, or closed the connection"


class RelayConnection:
    """The socket of the worker, connected at the first call; broker and backend share it."""

    def __init__(self, path: str, url: str) -> None:
        """Connect to nothing yet.

        Args:
            path: of the worker's socket.
            url: of the server behind the worker, for errors.
        """
        self.boundary = ErrorBoundary(url)
        self._path = path
        self._users = 0
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._connecting = asyncio.Lock()
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Count one more user."""
        self._users += 1

    async def close(self) -> None:
        """Disconnect, at the call of the last of those that share the connection."""
        self._users = max(0, self._users - 1)
        if self._users == 0 and self._writer is not None:
            self._writer.close()
            if self._reading is not None:
                await asyncio.wait([self._reading])

    async def call(
        self, target: str, method: str, args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """Have the worker call a method of its broker or backend; return what that returns.

        Args:
            target: ``broker`` or ``backend``.
            method: its name.
            args: its arguments.
            options: its arguments by keyword.

        Raises:
            ServerUnavailableError: the server does not answer, or the worker has ended.
            ConfigError: the server refuses it.
            NoRecordError: as the method.
            RuntimeError: the call failed otherwise; the worker's log has the traceback.
        """
        number = next(self._numbers)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            async with self._connecting:
                writer = await self._connected()
            self._answers[number] = answer
            writer.write(frames.pack((number, target, method, args, options)))
            await writer.drain()
        except OSError as error:
            self._answers.pop(number, None)
            raise self._gone(error) from None
        try:
            problem, value = await answer
        finally:
            self._answers.pop(number, None)
        if isinstance(problem, Exception):
            raise problem
        if problem is not None:
            raise RuntimeError(f"{method} failed in the worker of this process: {problem}")
        return value

    def _gone(self, problem: str | OSError) -> ServerUnavailableError:
        """Return the error for a worker that does not answer: its servers may well do."""
        text = "the worker of this process is gone"
        return ServerUnavailableError(
            f"{text[:1].upper()}{text[1:]}, through which it reaches {self.boundary.shown}: "
            f"{problem}. See the log of the worker, or of its machine, for why it has ended.",
            text,
        )

    async def _connected(self) -> asyncio.StreamWriter:
        if self._writer is None or self._writer.is_closing():
            reader, self._writer = await asyncio.open_unix_connection(self._path)
            self._reading = asyncio.ensure_future(self._read(reader, self._writer))
        return self._writer

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (frame := await frames.read(reader)) is not None:
            number, problem, value = frame
            answer = self._answers.get(number)
            if answer is not None and not answer.done():
                answer.set_result((problem, value))
        writer.close()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(self._gone(_GONE))
