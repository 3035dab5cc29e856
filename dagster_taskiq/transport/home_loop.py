"""The event loop on which a process talks to its servers, whichever loop or thread asks for it.

A connection belongs to one event loop. Users' code has many: each ``asyncio.run`` makes one, a web
server and a test runner have their own, and a thread has none. So every process has one loop of its
own, in a thread in the background, which opens the connections and uses them; what is called
elsewhere is carried over to it. Only the parent of a worker uses the loop that it runs on.
"""

import asyncio
import atexit
import os
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import Context, ContextVar
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from dagster_taskiq.errors import ForkedProcessError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.background import look_at
from dagster_taskiq.transport.connection import Server, reach

T = TypeVar("T")
P = ParamSpec("P")

#: How long closing all connections may take when the process ends, in seconds.
EXIT_SECONDS = 5.0
#: How long a connection that is to be used on another loop waits for those who use it, in seconds,
#: and the time between two looks.
MOVE_SECONDS = 5.0
MOVE_LOOK_SECONDS = 0.01


class Resident(Server, Protocol):
    """A broker or backend, which uses its connection on one event loop."""

    settings: Settings
    #: That loop.
    home: "Home"


R = TypeVar("R", bound=Resident)


#: Whether the caller is a part of something that uses a connection.
_is_using: ContextVar[bool] = ContextVar("dagster_taskiq_is_using", default=False)


class Home:
    """The event loop on which one broker or backend uses its connection.

    The connection is opened by :meth:`open`, or at its first use. It is closed by :meth:`close`,
    after which the next use opens it again, or when the process ends.
    """

    def __init__(self, resident: Resident) -> None:
        """Open nothing yet.

        Args:
            resident: the broker or backend.
        """
        self._resident = resident
        #: The loop; ``None`` for that in the background.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        self._users = 0
        self._is_open = False
        #: Whether the server has answered since the connection was opened.
        self._is_reached = False
        #: Held while the connection is being opened or closed.
        self._changing = asyncio.Lock()
        #: How many use it now, and whether those who come have to wait; each with the lock, as
        #: they may be in any thread.
        self._in_use = 0
        self._is_moving = False
        self._counting = threading.Lock()

    def use_running_loop(self) -> None:
        """Have the running loop do everything from now on, instead of that in the background.

        It has to run for as long as the broker or backend is used.
        """
        self._loop = asyncio.get_running_loop()

    async def open(self) -> None:
        """Open the connection, or count one more user of it.

        Raises:
            ConfigError: the settings cannot work.
            ForkedProcessError: the connection belongs to the process that forked this one.
        """
        while self._is_moving:  # noqa: ASYNC110 - it is another thread that ends this
            await asyncio.sleep(MOVE_LOOK_SECONDS)
        await self._carry(partial(_in_own_task, self._open))
        self._users += 1

    async def close(self) -> None:
        """Close the connection at the call of the last user, whoever has opened it."""
        self._users = max(0, self._users - 1)
        if self._users == 0:
            await self.leave()

    async def leave(self) -> None:
        """Close the connection if it is open, whoever uses it; the next use opens it again."""
        if self._is_open:
            await self._carry(partial(_in_own_task, self.disconnect))

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do something that uses the connection, in the caller's context, and return its result.

        Raises:
            ServerUnavailableError: the server does not answer within ``connect_timeout``.
            ConfigError: it refuses us, or the settings cannot work.
            ForkedProcessError: the connection belongs to the process that forked this one.
        """
        if self._is_open and self._pid == os.getpid() and self._loop is asyncio.get_running_loop():
            return await work()  # as almost always in a worker
        if _is_using.get():  # it is a part of what is counted
            return await self._carry(partial(self._with_connection, work))
        if self._pid != os.getpid():
            self._begin_anew()
        while not self._may_begin():  # noqa: ASYNC110 - as above
            await asyncio.sleep(MOVE_LOOK_SECONDS)
        token = _is_using.set(True)
        try:
            return await self._carry(partial(self._with_connection, work))
        finally:
            _is_using.reset(token)
            with self._counting:
                self._in_use -= 1

    def _may_begin(self) -> bool:
        """Count one more who uses the connection, unless it moves."""
        with self._counting:
            if not self._is_moving:
                self._in_use += 1
            return not self._is_moving

    async def run_if_open(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do something that uses the connection, if that is open.

        Raises:
            ForkedProcessError: it belongs to the process that forked this one.
        """
        if self._is_open:
            await self._carry(work)

    async def disconnect(self) -> None:
        """Close the connection if it is open, on the loop on which it is used."""
        async with self._changing:
            if self._is_open:
                self._is_open = self._is_reached = False
                _open_homes.discard(self)
                await self._resident.connection.close()

    async def _carry(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if self._pid != os.getpid():
            self._begin_anew()
        loop = self._loop or background().loop
        if asyncio.get_running_loop() is loop:
            return await work()
        # Both the context of the caller and a cancellation go with it.
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work(), loop))

    def _begin_anew(self) -> None:
        """Let this process, which was forked, open a connection of its own.

        Raises:
            ForkedProcessError: it has inherited one, of which it must not use the socket.
        """
        if self._is_open:
            shown = self._resident.connection.boundary.shown
            raise ForkedProcessError(
                f"The connection to {shown} was opened before this process was forked. Call "
                "`await broker.shutdown()` before the fork, or send nothing before it, or start "
                'the process with the method "spawn".'
            )
        self._pid, self._loop, self._users = os.getpid(), None, 0
        self._in_use, self._is_moving = 0, False
        self._changing, self._counting = asyncio.Lock(), threading.Lock()

    async def _with_connection(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        # The parent of a worker has waited for its servers, however long that took.
        if not self._is_open or not (self._is_reached or self._loop):
            await _in_own_task(self._reach)
        return await work()

    async def _open(self) -> None:
        async with self._changing:
            if not self._is_open:
                await self._connect()

    async def _reach(self) -> None:
        await self._open()
        if not self._is_reached:
            try:
                await reach(self._resident, self._resident.settings.connect_timeout)
            except BaseException:
                if self._users == 0:
                    await self.disconnect()
                raise
            self._is_reached = True

    async def _connect(self) -> None:
        await self._resident.connection.open()
        self._is_open = True
        if self._loop is None:
            _open_homes.add(self)


async def move_here(homes: Sequence[Home]) -> None:
    """Let the running loop be the home of a broker and its backend, whose connection may be in use.

    What goes on there is waited for, for a limited time; what begins meanwhile waits.

    Args:
        homes: theirs.
    """
    for home in homes:
        with home._counting:
            home._is_moving = True
    try:
        deadline = time.monotonic() + MOVE_SECONDS
        while any(home._in_use for home in homes):
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(MOVE_LOOK_SECONDS)
        for home in homes:
            await home.leave()
        for home in homes:
            home.use_running_loop()
    finally:
        for home in homes:
            home._is_moving = False


def at_home(
    method: Callable[Concatenate[R, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[R, P], Coroutine[Any, Any, T]]:
    """Let a method of a broker or backend be called on any event loop; see :meth:`Home.run`."""

    @wraps(method)
    async def carried(self: R, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.home.run(partial(method, self, *args, **kwargs))

    return carried


@dataclass(frozen=True)
class Background:
    """The event loop that a process has in the background."""

    #: The way to it from other threads.
    portal: BlockingPortal
    loop: asyncio.AbstractEventLoop
    #: Ends it when it is closed.
    _stack: ExitStack = field(repr=False)

    def end(self) -> None:
        """Close all connections, and end the loop with all that goes on there."""
        with self._stack:  # in any case: a thread that goes on would keep the process from ending
            self.portal.call(_disconnect_all)
            self.portal.call(self.portal.stop, True)


_background: Background | None = None
_starting = threading.Lock()
#: Those whose connections are open on the loop in the background.
_open_homes: set[Home] = set()
#: What a forked process has inherited and does not use.
_inherited: list[object] = []


def background() -> Background:
    """Return the event loop that this process has in the background, which is started once."""
    global _background  # noqa: PLW0603 - there is one for each process
    if _background is None:
        with _starting:
            if _background is None:
                _background = _start()
    return _background


def _start() -> Background:
    stack = ExitStack()
    portal = stack.enter_context(start_blocking_portal())
    atexit.register(_end)
    return Background(portal, portal.call(_prepare), stack)


async def _prepare() -> asyncio.AbstractEventLoop:
    """Name the threads that stay until this process ends; return the loop."""
    threading.current_thread().name = "dagster-taskiq-client"
    threads = ThreadPoolExecutor(thread_name_prefix="dagster-taskiq-client")
    loop = asyncio.get_running_loop()
    loop.set_default_executor(threads)
    return loop


def _end() -> None:
    global _background  # noqa: PLW0603 - there is one for each process
    if _background is not None:
        _background.end()
        _background = None


def _forget() -> None:
    """Begin with nothing in a process that was forked: the threads of the other are not there."""
    global _background, _starting
    # The other's connections must not be closed here, so they are kept.
    _inherited.append((_background, *_open_homes))
    _background, _starting = None, threading.Lock()
    _open_homes.clear()


os.register_at_fork(after_in_child=_forget)


async def _disconnect_all() -> None:
    closing = [asyncio.ensure_future(home.disconnect()) for home in list(_open_homes)]
    if closing:
        _, late = await asyncio.wait(closing, timeout=EXIT_SECONDS)
        for each in closing:
            each.add_done_callback(look_at)
        for each in late:
            each.cancel()


async def _in_own_task(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do something to its end even if the caller is cancelled, and in no context of a caller's.

    What a connection starts for itself lives longer than the caller.
    """
    task = Context().run(asyncio.ensure_future, work())
    task.add_done_callback(look_at)
    await asyncio.shield(task)
