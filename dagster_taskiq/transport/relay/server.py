"""The worker's side: it executes the calls of its children on its own broker and backend."""

import asyncio
import logging
import pickle
import shutil
import tempfile
from pathlib import Path
from typing import Any

from dagster_taskiq.errors import DagsterTaskiqError
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.relay import frames
from dagster_taskiq.transport.schedule_store import keeps_none

logger = logging.getLogger(__name__)

#: The methods that children may call. Only the worker itself takes messages.
BROKER_CALLS = {"ping", "eviction", "put_all", "discard", "depths", "is_empty", "rejected"}
BACKEND_CALLS = {
    *("ping", "eviction", "submitted", "start", "put_back", "conclude", "finish", "revoke"),
    *("tasks", "beat", "deregister", "workers", "post", "collect", "close_channel", "load_result"),
    *("store_progress", "load_progress", "forget", "sweep"),
}
SCHEDULE_CALLS = {"put", "delete", "bodies"}


class RelayServer:
    """Serves the children of one worker."""

    def __init__(self, broker: QueueBroker, backend: StateBackend) -> None:
        self._backend_url = backend.settings.backend_url
        self._targets: dict[str, tuple[object, set[str]]] = {
            "broker": (broker, BROKER_CALLS),
            "backend": (backend, BACKEND_CALLS),
            "schedules": (backend.schedule_store(), SCHEDULE_CALLS),
        }
        self._directory: Path | None = None
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        """Begin to serve; return the path of the socket, which only this user may reach.

        Raises:
            OSError: there can be no such socket.
        """
        self._directory = Path(tempfile.mkdtemp(prefix="dagster-taskiq-"))
        path = str(self._directory / "relay")
        try:
            self._server = await asyncio.start_unix_server(self._accept, path)
        except OSError:
            await self.close()
            raise
        return path

    async def close(self) -> None:
        """Serve no longer."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._serving):
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Execute the calls of one child, side by side, until it closes the connection."""
        calls: set[asyncio.Task[None]] = set()
        try:
            while (frame := await frames.read(reader)) is not None:
                call = asyncio.ensure_future(self._execute(frame, writer))
                calls.add(call)
                call.add_done_callback(calls.discard)
        except (pickle.UnpicklingError, ValueError, TypeError, EOFError) as error:
            logger.warning("A child has sent what is no call: %s", error)
        finally:
            for call in calls:
                call.cancel()
            writer.close()

    async def _execute(self, frame: Any, writer: asyncio.StreamWriter) -> None:
        number, target, method, args, options = frame
        answer: Any
        try:
            called, allowed = self._targets[target]
            if called is None:
                raise keeps_none(self._backend_url)
            if method not in allowed:
                raise ValueError(f"Children may not call {method}.")
            answer = (number, None, await getattr(called, method)(*args, **options))
        except DagsterTaskiqError as error:
            answer = (number, error, None)
        except Exception as error:
            logger.exception("The call of %s for a child failed.", method)
            answer = (number, f"{type(error).__name__}: {error}", None)
        try:
            writer.write(frames.pack(answer))
            await writer.drain()
        except ConnectionError:
            pass  # the child has ended
