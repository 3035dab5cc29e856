"""One child process, as its parent sees it: how it starts, what is sent to it, how it ends."""

import asyncio
import logging
import signal
from collections.abc import Callable
from typing import Any

from dagster_taskiq.errors import ChildStartError, ConfigError
from dagster_taskiq.wire.stop_causes import StopCause
from dagster_taskiq.worker import frames
from dagster_taskiq.worker.fork_server.client import Exit, ForkedChild, ForkServer, name_of_code
from dagster_taskiq.worker.output_mirror import Mirror

logger = logging.getLogger(__name__)

#: How long a new child may take to import what it needs, in seconds.
START_SECONDS = 120.0
#: How long a child that gets no more tasks may take to end, with its exit hooks and threads, before
#: it is killed, in seconds.
EXIT_SECONDS = 5.0
#: How long the exit of a child that has closed its channel, or was killed, is waited for, in
#: seconds.
REAP_SECONDS = 10.0


class ChildProcess:
    """A child that has started, until it has ended."""

    def __init__(
        self,
        process: ForkedChild,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        mirror: Mirror,
    ) -> None:
        #: The code it has loaded, by its working directory; ``None`` while it has loaded none. It
        #: runs no other code: modules of two directories may have the same names.
        self.code: str | None = None
        #: How many tasks it has run.
        self.tasks_done = 0
        #: Whether its task was stopped. Then it gets no other.
        self.is_stopped = False
        #: What it has found not to be as expected in Dagster, by the name of the part.
        self.dagster_parts: dict[str, str] = {}
        #: Whether it has middlewares that want to know of the ends of tasks.
        self.has_hooks = False
        #: The names of the users' own tasks that are coroutines.
        self.async_tasks: frozenset[str] = frozenset()
        self._process = process
        self._reader = reader
        self._writer = writer
        self._mirror = mirror
        self._kill_timer: asyncio.TimerHandle | None = None
        #: The files into which its output is being captured.
        self._captures: set[str] = set()

    @classmethod
    async def start(
        cls,
        server: ForkServer,
        setup: dict[str, Any],
        mirror: Mirror,
        on_foreign_signal: Callable[["ChildProcess", int], None],
    ) -> "ChildProcess":
        """Fork a child, and return it when it can run a task.

        Args:
            server: forks it.
            setup: what it needs to know, see :mod:`dagster_taskiq.worker.child.setup`.
            mirror: copies the output that the child captures.
            on_foreign_signal: called with the child and the number of each SIGTERM or SIGINT that
                it got from another process than its parent.

        Raises:
            ConfigError: it cannot import one of the modules that it should.
            ChildStartError: it ended, or was not ready within ``START_SECONDS``.
            OSError: there can be no more processes.
        """
        process = await server.spawn()
        reader, writer = await asyncio.open_connection(sock=process.channel)
        child = cls(process, reader, writer, mirror)
        process.on_foreign_signal = lambda number: on_foreign_signal(child, number)
        child.send(setup)
        try:
            ready = await asyncio.wait_for(frames.read(reader), START_SECONDS)
            if ready is None:
                how = describe_exit(await child.wait_for_exit())
                raise ChildStartError(f"A new child process (pid {child.pid}) {how}.")
            if ready["problem"]:
                raise ConfigError(ready["problem"])
            child.dagster_parts = ready["dagster_parts"]
            child.has_hooks = ready["has_hooks"]
            child.async_tasks = frozenset(ready["async_tasks"])
        except asyncio.TimeoutError:
            await child.kill_and_wait()
            raise ChildStartError(
                f"A new child process (pid {child.pid}) was not ready within {START_SECONDS:g} s."
            ) from None
        except BaseException:
            await child.kill_and_wait()
            raise
        return child

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_usable(self) -> bool:
        """Whether it can be given a task."""
        has_ended = self._process.exit.done() or self._reader.at_eof()
        return not has_ended and not self.is_stopped

    def note_task_done(self) -> None:
        """Count one more task that it has run."""
        self.tasks_done += 1

    def on_exit(self, callback: Callable[[], None]) -> None:
        """Have a function called when it has ended."""
        self._process.exit.add_done_callback(lambda _: callback())

    def send(self, frame: dict[str, Any]) -> None:
        """Send it a frame, without waiting until it is received."""
        self._writer.write(frames.pack(frame))

    async def receive(self) -> dict[str, Any] | None:
        """Return its next frame about the task that it runs; ``None`` when it has ended.

        Frames about the output that it captures are acted on here.
        """
        while (frame := await frames.read(self._reader)) is not None:
            if "mirror" not in frame:
                return frame
            self._mirror_output(frame["mirror"], frame["stream"])
        return None

    def request_stop(self, reason: str, cause: StopCause, grace: float) -> None:
        """Stop its task with SIGTERM, and kill it if it has not ended after ``grace`` seconds."""
        self.is_stopped = True
        self.send({"stop": reason, "cause": cause})
        self._process.request_stop()
        self._kill_timer = asyncio.get_running_loop().call_later(grace, self._process.kill)

    def kill(self) -> None:
        """Kill it with all it has started, in whatever session or group that is (on Linux)."""
        self.is_stopped = True
        self._process.kill()

    async def wait_for_exit(self) -> Exit | None:
        """Return how it ended, once its channel is closed; ``None`` if it does not end."""
        done, _ = await asyncio.wait({self._process.exit}, timeout=REAP_SECONDS)
        return self._process.exit.result() if done else None

    async def end(self) -> None:
        """Let it end as any Python process does; kill it if it does not, or if it was stopped."""
        if not self.is_stopped:
            self._writer.close()
            done, _ = await asyncio.wait({self._process.exit}, timeout=EXIT_SECONDS)
            if not done:
                logger.warning(
                    "Child %d did not end within %g s and is killed.", self.pid, EXIT_SECONDS
                )
        await self.kill_and_wait()

    async def kill_and_wait(self) -> None:
        """Kill it unless it has ended, wait until it has, and free what is held for it."""
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        if not self._process.exit.done():
            self._process.kill()
            await asyncio.wait({self._process.exit}, timeout=REAP_SECONDS)
        for path in self._captures:
            self._mirror.report(path, 0)
        self._writer.close()

    def _mirror_output(self, path: str, stream: int) -> None:
        self._mirror.report(path, stream)
        if stream:
            self._captures.add(path)
        else:
            self._captures.discard(path)


def describe_exit(how: Exit | None) -> str:
    """Return how a child ended, to follow "the process"; ``None`` stands for one that has not."""
    if how is None:
        return "closed its connection and does not end"
    if how.code >= 0:
        return f"ended with {name_of_code(how.code)} in the middle of it"
    if how.with_server:
        return "was killed because the process that it was forked from has died"
    hint = ""
    if how.code == -signal.SIGKILL:
        hint = "; if no one sent that, the machine was out of memory"
    return f"was killed by {name_of_code(how.code)} (signal {-how.code}{hint})"
