"""The parent's side of the fork server: requests for children, and reports of their ends."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

from dagster_taskiq.errors import ChildStartError
from dagster_taskiq.worker import frames, stop_requests
from dagster_taskiq.worker.fork_server.guard import SIGNALLED
from dagster_taskiq.worker.fork_server.process import ServerProcess

logger = logging.getLogger(__name__)

#: How long the fork server and its guard may take to end, in seconds.
CLOSE_SECONDS = 10.0

#: Logged, and the text of the error of those that were waiting for a new child.
SERVER_DIED = "The process that children are forked from has died. Another one will be started."


@dataclass(frozen=True)
class Exit:
    """How a child ended."""

    #: Its exit code; negative: the signal that killed it.
    code: int
    #: It was killed by the fork server because the lease had ended.
    lease_ended: bool = False
    #: It was killed by the kernel because the fork server had ended.
    with_server: bool = False


class ForkedChild:
    """A child process, as long as it has not been waited for."""

    def __init__(
        self, server: "ForkServer", pid: int, channel: socket.socket, requests: socket.socket
    ) -> None:
        self.pid = pid
        #: The parent's end of its channel, which carries frames both ways.
        self.channel = channel
        #: Called with the number of each SIGTERM or SIGINT that it got, and not from here.
        self.on_foreign_signal: Callable[[int], None] = lambda number: None
        #: Done when it has ended.
        self.exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._server = server
        self._requests = requests
        requests.setblocking(False)
        asyncio.get_running_loop().add_reader(requests.fileno(), self._read_reports)

    def request_stop(self) -> None:
        """Interrupt what it does, with SIGTERM."""
        stop_requests.announce(self._requests)
        self._server.signal(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kill it with all it has started, in whatever session or group that is (on Linux)."""
        self._server.kill(self.pid)

    def note_exit(self, how: Exit) -> None:
        """Note its end."""
        self._stop_reading()
        self.exit.set_result(how)

    def _read_reports(self) -> None:
        try:
            numbers = self._requests.recv(64)
        except OSError:
            return
        if not numbers:
            self._stop_reading()
        for number in numbers:
            self.on_foreign_signal(number)

    def _stop_reading(self) -> None:
        if self._requests.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._requests.fileno())
            self._requests.close()


@dataclass(frozen=True)
class _Spawning:
    """A child that was asked for."""

    child: "asyncio.Future[ForkedChild]"
    channel: socket.socket
    requests: socket.socket


class ForkServer:
    """A connection to one fork server, from the loop it was made in."""

    def __init__(
        self, process: ServerProcess, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._spawning: dict[int, _Spawning] = {}
        self._numbers = count()
        self._children: dict[int, ForkedChild] = {}
        #: Its process id; 0 until it has reported it.
        self.pid = 0
        self._closing = False
        self._reading = asyncio.ensure_future(self._read())

    @classmethod
    async def connect(cls, process: ServerProcess) -> "ForkServer":
        """Connect to a fork server that was started."""
        return cls(process, *await asyncio.open_connection(sock=process.control))

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended, as far as is known here."""
        return not self._reading.done() and not self._reader.at_eof()

    def renew(self, deadline: float) -> None:
        """Let its children live until ``deadline`` (of ``time.monotonic()``)."""
        self._send_if_alive({"deadline": deadline})

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to a child, if it has not ended."""
        self._send_if_alive({"signal": pid, "number": number})

    def kill(self, pid: int) -> None:
        """Kill a child, if it has not ended, and all it has started."""
        self._send_if_alive({"kill": pid})

    async def spawn(self) -> ForkedChild:
        """Fork a child.

        Raises:
            ChildStartError: the fork server has ended.
            OSError: there can be no more processes.
        """
        channel, their_channel = socket.socketpair()
        requests, their_requests = socket.socketpair()
        number = next(self._numbers)
        child: asyncio.Future[ForkedChild] = asyncio.get_running_loop().create_future()
        self._spawning[number] = _Spawning(child, channel, requests)
        try:
            with their_channel, their_requests:
                self._send({"spawn": number}, their_channel.fileno(), their_requests.fileno())
            return await child
        except (BrokenPipeError, ConnectionResetError):
            raise ChildStartError(SERVER_DIED) from None
        finally:
            self._spawning.pop(number, None)
            if not child.done() or child.cancelled() or child.exception() is not None:
                # A child that comes all the same finds its channel closed, and ends.
                channel.close()
                requests.close()

    async def close(self) -> None:
        """End it, with all children that are left."""
        self._closing = True
        if not self.pid:
            # It still imports Dagster, and there is no child.
            self._process.guard.kill()
        with contextlib.suppress(OSError):
            self._writer.write_eof()
        done, _ = await asyncio.wait({self._reading}, timeout=CLOSE_SECONDS)
        if not done:
            self._process.guard.kill()
            await self._reading

    def _wait_for_guard(self) -> str:
        """Wait for the guard, which ends what is left below the fork server; return its code."""
        guard = self._process.guard
        try:
            code = guard.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            guard.kill()
            code = guard.wait()
        return name_of_code(code if code <= SIGNALLED else SIGNALLED - code)

    async def _read(self) -> None:
        while (frame := await frames.read(self._reader)) is not None:
            self._note(frame)
        self._writer.close()
        for each in self._spawning.values():
            if not each.child.done():
                each.child.set_exception(ChildStartError(SERVER_DIED))
        for child in self._children.values():
            child.note_exit(Exit(-signal.SIGKILL, with_server=True))
        self._children.clear()
        how = await asyncio.get_running_loop().run_in_executor(None, self._wait_for_guard)
        if not self._closing:
            logger.error("%s It ended with %s.", SERVER_DIED, how)

    def _note(self, frame: dict[str, Any]) -> None:
        if "spawned" in frame:
            asked = self._spawning.pop(frame["spawned"], None)
            if asked is not None and not asked.child.done():
                child = ForkedChild(self, frame["pid"], asked.channel, asked.requests)
                self._children[child.pid] = child
                asked.child.set_result(child)
        elif "failed" in frame:
            asked = self._spawning.pop(frame["failed"], None)
            if asked is not None and not asked.child.done():
                number = frame["errno"]
                asked.child.set_exception(OSError(number, os.strerror(number)))
        elif "exited" in frame:
            ended = self._children.pop(frame["exited"], None)
            if ended is not None:
                ended.note_exit(Exit(frame["code"], lease_ended=frame["lease_ended"]))
        else:
            self.pid = frame["server"]

    def _send_if_alive(self, frame: dict[str, Any]) -> None:
        # If it does not read, it has ended, or is frozen and will be killed at its deadline.
        with contextlib.suppress(OSError):
            self._send(frame)

    def _send(self, frame: dict[str, Any], *sent_along: int) -> None:
        # Not through the writer, which can send no sockets along. It is a few bytes, which either
        # fit into the connection or do not.
        socket.send_fds(self._process.control, [frames.pack(frame)], sent_along)


def name_of_code(code: int) -> str:
    """Return an exit code in words: "exit code 1", "SIGKILL"."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
