"""The fork server: it forks a worker's children, and kills them when their lease ends.

It imports Dagster once, runs no code of users, and has one thread, so its forks are as clean as a
new interpreter: for the code of a step, multiprocessing has no start method yet, there is one
thread, and the process is no daemon of multiprocessing.

The parent renews one lease for all children. Shortly before it ends the fork server kills them with
all they have started; this needs no code in the children, which may
keep the interpreter's lock for any time. If the fork server is frozen at that moment,
the kernel kills it (:mod:`~dagster_taskiq.worker.fork_server.kernel_timer`), and its children die
with it (:func:`dagster_taskiq.worker.process_trees.die_with`).

A child of the fork server that was not forked by it was started by a child that has died, and is
killed.
"""

import array
import contextlib
import gc
import math
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

from dagster_taskiq.bulk_imports import bulk_imports
from dagster_taskiq.worker import frames, process_trees
from dagster_taskiq.worker.fork_server import kernel_timer, process_exit

#: How much is read from the parent at once, in bytes.
_READ_BYTES = 1 << 16
#: What ``spawn`` sends along: the child's ends of its channel and of its stop requests.
_SOCKETS_OF_CHILD = 2


class Forked(NamedTuple):
    """What a new child finds itself with."""

    channel: socket.socket
    stop_requests: socket.socket


def main(control: socket.socket, preload: Sequence[str] = ()) -> NoReturn:
    """Serve the parent at the other end of ``control``, in each child until that is done.

    Neither the fork server nor a child returns from here.

    Args:
        control: the connection to the parent.
        preload: modules to import besides :mod:`dagster_taskiq.worker.child.preload`.
    """
    import_module("dagster_taskiq.worker.child.preload")
    with bulk_imports():
        for name in preload:
            import_module(name)
        gc.freeze()  # as there
    forked = ForkServer(control).serve()
    if forked is None:
        # Nothing was run here that has exit hooks.
        os._exit(0)
    # Imported before, with Dagster: this costs nothing here.
    from dagster_taskiq.worker.child import main as child_main  # noqa: PLC0415

    code = 1
    try:
        child_main.main(forked.channel, forked.stop_requests)
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        process_exit.exit_process(code)


@dataclass
class _Child:
    """One child that has not been reaped."""

    #: It was killed because the lease has ended.
    lease_ended: bool = False


class ForkServer:
    """The loop. Frames from the parent, by their keys:

    ``spawn`` (any number): fork a child with the two sockets that come along; answered by
        ``spawned`` (the number) with ``pid``, or by ``failed`` (the number) with ``errno``.
    ``deadline``: when the lease ends, in seconds of ``time.monotonic()``.
    ``signal`` (a pid), ``number``: send a signal to a child.
    ``kill`` (a pid): kill a child, and all it has started.

    Frames to the parent, besides those answers: ``server`` (this process's id) at the beginning,
    and for each child that has ended ``exited`` (its pid), ``code`` (negative: the signal), and
    ``lease_ended``.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._received = bytearray()
        self._sockets: list[int] = []
        self._children: dict[int, _Child] = {}
        self._deadline = math.inf
        self._kill_at = kernel_timer.killer()
        self._woken, self._wake = os.pipe()
        # Only the fork server has the other end: from its end children see that it has gone.
        self._alive, self._alive_held = os.pipe()

    def serve(self) -> Forked | None:
        """Serve until the parent has gone; ``None`` then, and in each child what it needs."""
        os.set_blocking(self._wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        sources: list[socket.socket | int] = [self._control, self._woken]
        try:
            self._send({"server": os.getpid()})
            while True:
                ready, _, _ = select.select(sources, [], [], self._time_left())
                if self._woken in ready:
                    os.read(self._woken, _READ_BYTES)
                    self._note_exits()
                if self._control in ready:
                    if not self._receive():
                        break
                    # The newest deadline before all else: if this process was slow, or has just
                    # imported Dagster, older ones have passed meanwhile.
                    for frame in sorted(
                        frames.take(self._received), key=lambda each: "deadline" not in each
                    ):
                        forked = self._carry_out(frame)
                        if forked is not None:
                            return forked
                self._hold_to_deadline()
        except (BrokenPipeError, ConnectionResetError):
            pass  # the parent has gone
        for pid in self._children:
            process_trees.kill_tree(pid)
        process_trees.end_children()
        return None

    def _time_left(self) -> float | None:
        """Return how long children that run now may do so, in seconds; ``None``: there are none."""
        if not self._has_leased():
            return None
        return max(0.0, self._deadline - frames.EARLY_SECONDS - time.monotonic())

    def _has_leased(self) -> bool:
        """Whether there is a child that was not killed for the end of the lease."""
        return not all(child.lease_ended for child in self._children.values())

    def _receive(self) -> bool:
        """Read all that the parent has sent; return whether it is still there."""
        # socket.recv_fds ignores flags, contrary to its documentation.
        space = socket.CMSG_SPACE(_SOCKETS_OF_CHILD * array.array("i").itemsize)
        while True:
            try:
                data, ancillary, _, _ = self._control.recvmsg(
                    _READ_BYTES, space, socket.MSG_DONTWAIT
                )
            except BlockingIOError:
                return True
            if not data:
                return False
            self._received += data
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    for number in array.array("i", content):
                        os.set_inheritable(number, False)
                        self._sockets.append(number)

    def _carry_out(self, frame: dict[str, Any]) -> Forked | None:
        if "spawn" in frame:
            return self._spawn(frame["spawn"])
        if "deadline" in frame:
            self._deadline = frame["deadline"]
        elif "signal" in frame:
            if frame["signal"] in self._children:
                os.kill(frame["signal"], frame["number"])
        elif frame["kill"] in self._children:
            process_trees.kill_tree(frame["kill"])
        return None

    def _spawn(self, number: int) -> Forked | None:
        # Sockets arrive in the order of the frames they belong to.
        theirs = self._sockets[:_SOCKETS_OF_CHILD]
        del self._sockets[:_SOCKETS_OF_CHILD]
        channel, stop_requests = (socket.socket(fileno=each) for each in theirs)
        server = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._send({"failed": number, "errno": error.errno})
            channel.close()
            stop_requests.close()
            return None
        if pid == 0:
            self._become_child(server)
            return Forked(channel, stop_requests)
        channel.close()
        stop_requests.close()
        self._children[pid] = _Child()
        self._hold_to_deadline()
        self._send({"spawned": number, "pid": pid})
        return None

    def _become_child(self, server: int) -> None:
        """Close, in a new child, all that is the fork server's."""
        process_trees.die_with(server)
        process_trees.adopt_orphans()
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._control.close()
        for number in (self._woken, self._wake, self._alive_held, *self._sockets):
            os.close(number)
        if process_trees.KERNEL_ENDS_CHILDREN:
            os.close(self._alive)
        else:
            threading.Thread(target=_end_with_server, args=(self._alive,), daemon=True).start()

    def _hold_to_deadline(self) -> None:
        """Kill the children if their lease has ended; else have the kernel do so at its end."""
        if time.monotonic() > self._deadline - frames.EARLY_SECONDS:
            for pid, child in self._children.items():
                if not child.lease_ended:
                    child.lease_ended = True
                    process_trees.kill_tree(pid)
        self._kill_at(self._deadline if self._has_leased() else math.inf)

    def _note_exits(self) -> None:
        exited = []
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                child = self._children.pop(pid, None)
                if child is not None:
                    process_trees.kill_group(pid)
                    code = os.waitstatus_to_exitcode(status)
                    exited.append({"exited": pid, "code": code, "lease_ended": child.lease_ended})
        for pid in process_trees.children_of(os.getpid()):
            if pid not in self._children:
                process_trees.kill_tree(pid)
        for each in exited:
            self._send(each)

    def _send(self, frame: dict[str, Any]) -> None:
        self._control.sendall(frames.pack(frame))


def _end_with_server(alive: int) -> None:
    """Wait until the fork server has gone, and end this child with the group it leads."""
    os.read(alive, 1)
    process_trees.kill_group(os.getpgrp())
