"""How a worker's parent starts the process from which its children are forked.

Dagster takes seconds to import, so this process is started first of all and imports it while
the parent does. This module therefore imports very little. What runs in the new process begins in
:mod:`dagster_taskiq.worker.fork_server.guard`; the parent talks to it by
:mod:`dagster_taskiq.worker.fork_server.client`.
"""

import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from dagster_taskiq.tracing import auto

#: Run by the new interpreter. The import path is that of the parent before anything is imported,
#: so that both run the same code, whatever lies in the working directory.
_CODE = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from dagster_taskiq.worker.fork_server.guard import main; "
    "main(int(sys.argv[1]), sys.argv[2].split())"
)


@dataclass(frozen=True)
class ServerProcess:
    """A process that was started, and that no client is connected to yet."""

    #: The process the parent has started: the guard. The fork server is its child.
    guard: "subprocess.Popen[bytes]"
    #: The parent's end of the connection to the fork server, which ends when that is closed.
    control: socket.socket


#: Those that were started and that no pool has taken yet.
_started: list[ServerProcess] = []
#: What each of them imports besides what all children need.
_preloaded: list[str] = []


def start(preload: Sequence[str] = ()) -> None:
    """Start a fork server for :func:`take`, unless one was; this does not wait for it.

    Args:
        preload: modules that every child will import, for all fork servers of this process. They
            must not be users' code, nor start a thread.

    Raises:
        ConfigError: there can be no more processes.
    """
    _preloaded.extend(preload)
    if not _started:
        try:
            _started.append(_start())
        except OSError as error:
            from dagster_taskiq.errors import ConfigError  # noqa: PLC0415

            text = f"Cannot start the process that a worker's children are forked from: {error}."
            raise ConfigError(text) from None


def take() -> ServerProcess:
    """Return a fork server that no other pool has: the one that was started, or a new one.

    Raises:
        OSError: there can be no more processes.
    """
    return _started.pop() if _started else _start()


def _start() -> ServerProcess:
    ours, theirs = socket.socketpair()
    with theirs:
        # As multiprocessing has it: -O, -W, -X and their like hold for the children as well.
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        guard = subprocess.Popen(
            [
                *(sys.executable, *flags, "-c", _CODE),
                *(str(theirs.fileno()), " ".join(_preloaded), *sys.path),
            ],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env=auto.environment_of_others(),
            # Signals to the group of the parent (Ctrl-C, a shell's kill of a job) are for the
            # parent, which decides what becomes of its children.
            start_new_session=True,
        )
    return ServerProcess(guard, ours)
