"""How a child knows that it was its parent who wants its task to be stopped.

A task is stopped with SIGTERM, for that is what Dagster and users' code listen to. But a service
manager that stops a worker sends SIGTERM to all its processes, and so may a shell or a container's
init process; then the parent lets its tasks finish, and the children must as well. So the parent
writes to a socket before it sends a signal. A child that gets a signal of which it finds nothing
there goes on, and tells the parent, which knows whether it is just about to end, or whether it was
this child that somebody wanted to stop.
"""

import os
import socket
from contextlib import suppress

#: What the parent writes for each signal that it sends.
_REQUEST = b"!"


def announce(stop_requests: socket.socket) -> None:
    """Tell a child that the next signal is its parent's (called in the parent)."""
    with suppress(OSError):  # it has just ended
        stop_requests.send(_REQUEST)


class StopRequests:
    """The child's end of the socket."""

    def __init__(self, stop_requests: socket.socket) -> None:
        stop_requests.setblocking(False)
        self._socket = stop_requests
        self._pid = os.getpid()

    def only_requested(self, number: int) -> bool:
        """Return whether a signal is to be obeyed; report it to the parent where it is not.

        Called in a signal handler. A process that the user's code has forked inherits the handler;
        there every signal is obeyed.
        """
        if os.getpid() != self._pid:
            return True
        with suppress(OSError):
            return self._socket.recv(1) == _REQUEST
        with suppress(OSError):
            self._socket.send(bytes([number]))
        return False
