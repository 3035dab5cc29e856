"""How a child distinguishes signals of its parent from those of other processes.

A task is stopped with SIGTERM, which Dagster and users' code handle. But a service manager that
stops a worker sends SIGTERM to all its processes, and so may a shell or a container's init process.
Then the parent lets its tasks finish, and the children must do so as well. So the parent writes to
a socket before it sends a signal. A child that gets a signal without a request in the socket goes
on, and reports the signal to the parent. The parent knows whether the worker is about to end; if
not, the signal was meant for this child alone.
"""

import os
import socket
from contextlib import suppress

#: What the parent writes for each signal that it sends.
_REQUEST = b"!"


def announce(stop_requests: socket.socket) -> None:
    """Announce to a child that the next signal is its parent's (called in the parent)."""
    with suppress(OSError):  # it has just ended
        stop_requests.send(_REQUEST)


class StopRequests:
    """The child's end of the socket."""

    def __init__(self, stop_requests: socket.socket) -> None:
        stop_requests.setblocking(False)
        self._socket = stop_requests
        self._pid = os.getpid()

    def only_requested(self, number: int) -> bool:
        """Return whether the parent has sent a signal; report it to the parent if it has not.

        Called in a signal handler. A process that the user's code has forked inherits the handler;
        there this is true of every signal.
        """
        if os.getpid() != self._pid:
            return True
        with suppress(OSError):
            return self._socket.recv(1) == _REQUEST
        with suppress(OSError):
            self._socket.send(bytes([number]))
        return False
