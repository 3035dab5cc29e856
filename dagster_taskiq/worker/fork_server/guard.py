"""The process above the fork server: it ends what is left when the fork server has died.

What a child of a worker has started becomes the fork server's own child when its parent dies
(``PR_SET_CHILD_SUBREAPER``, see prctl(2)), and is ended there. The guard is the same for the fork
server. All that ever comes to it was started under the fork server, so it may end that without
looking at what it is; the worker's parent, which may have other children, could not. The guard
runs no code of others and imports next to nothing, so there is little that could end it.
"""

import os
import signal
import socket
from collections.abc import Sequence
from typing import NoReturn

from dagster_taskiq.worker import process_trees

#: Signals that a service manager, a terminal or a shell sends to all processes of a worker. Only
#: the worker's parent acts on them.
GROUP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

#: The exit code of the guard is that of the fork server; if a signal ended that, this plus the
#: number of the signal, as in a shell.
SIGNALLED = 128


def main(control_number: int, preload: Sequence[str] = ()) -> NoReturn:
    """Fork the fork server, and stay above it until it has ended.

    None of the processes returns from here.

    Args:
        control_number: the file descriptor of the connection to the worker's parent.
        preload: modules that the fork server imports besides what all children need.
    """
    for number in GROUP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    process_trees.adopt_orphans()
    control = socket.socket(fileno=control_number)
    control.set_inheritable(False)
    guard = os.getpid()
    server = os.fork()
    if server:
        # The parent sees from the end of this connection that the fork server has ended.
        control.close()
        _outlive(server)
    process_trees.die_with(guard)
    process_trees.adopt_orphans()  # not inherited
    # Imported here: the guard has no use for any of it.
    from dagster_taskiq.worker.fork_server import loop  # noqa: PLC0415

    loop.main(control, preload)


def _outlive(server: int) -> NoReturn:
    pid = status = 0
    while pid != server:
        pid, status = os.waitpid(-1, 0)
    process_trees.end_children()
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else SIGNALLED - code)
