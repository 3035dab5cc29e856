"""The worker's side: its socket, which its event loop answers.

A process that is stopped, or whose loop is blocked, does not answer, which is what a liveness probe
is for. The broker has no part in it: while it is away, the worker lives.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dagster_taskiq.worker.local_status.sockets import (
    SUFFIX,
    LocalStatus,
    StartedWith,
    address_of,
    directory,
    identity,
    is_private,
    remove_stale,
)

logger = logging.getLogger(__name__)

#: How often a socket is made anew whose directory was removed meanwhile.
ATTEMPTS = 5


class LocalStatusServer:
    """Tells commands on this host that one worker lives, and what it does."""

    def __init__(self, started_with: StartedWith, describe: Callable[[], LocalStatus]) -> None:
        """Listen nowhere yet.

        Args:
            started_with: the options of the worker, by which commands find it.
            describe: returns what to answer.
        """
        self._key = started_with.key
        self._describe = describe
        self._path: Path | None = None
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to answer; where that cannot be, the log says so, and commands ask the broker."""
        if self._server is not None:
            return
        try:
            self._path, listening = _listen(f"{self._key}-{os.getpid()}")
            self._server = await asyncio.start_unix_server(self._answer, sock=listening)
        except OSError as error:
            logger.warning(
                "Commands on this host cannot ask this worker itself whether it lives, and ask "
                "the broker: there is no directory for its socket (%s). Set TMPDIR to one that "
                "this user can write to.",
                error,
            )

    async def close(self) -> None:
        """Answer no longer."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
                self._path.parent.rmdir()  # unless there are other workers
            self._path = None

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._describe().dumps())
        with suppress(OSError):  # the other side may wait no longer
            await writer.drain()
        writer.close()


def _listen(name: str) -> tuple[Path, socket.socket]:
    """Return the path of a new socket, and the socket, which listens.

    Raises:
        OSError: there can be none.
    """
    listening = socket.socket(socket.AF_UNIX)
    for attempt in range(ATTEMPTS):
        path = _place() / f"{name}{SUFFIX}"
        # Listening before it is where it is looked for: a socket there that refuses is stale.
        new = path.with_suffix(".new")
        try:
            new.unlink(missing_ok=True)
            with address_of(new) as address:
                listening.bind(address)
            listening.listen()
            listening.setblocking(False)
            new.replace(path)
        except FileNotFoundError:
            # The worker that was the last one there has removed the directory.
            if attempt == ATTEMPTS - 1:
                raise
            listening.close()
            listening = socket.socket(socket.AF_UNIX)
        else:
            break
    return path, listening


def _place() -> Path:
    """Return the directory for the socket, and remove those of workers that were killed.

    Raises:
        OSError: there can be none, or the one that is there is not this user's alone.
    """
    found = directory()
    found.mkdir(mode=0o700, exist_ok=True)
    if not is_private(found):
        raise PermissionError(f"{found} is not a directory of this user's alone")
    for each in found.glob(f"*{SUFFIX}"):
        _remove_if_stale(each)
    return found


def _remove_if_stale(path: Path) -> None:
    seen = identity(path)
    with socket.socket(socket.AF_UNIX) as asked, suppress(OSError):
        # One that is busy need not answer now.
        asked.setblocking(False)
        try:
            with address_of(path) as address:
                asked.connect(address)
        except ConnectionRefusedError:
            remove_stale(path, seen)
