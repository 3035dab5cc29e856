"""The server from which a worker's children are forked, with Dagster imported once for all."""

import multiprocessing
import socket
from multiprocessing import forkserver

#: Where children come from.
context = multiprocessing.get_context("forkserver")


def child(channel: socket.socket, lifeline: socket.socket) -> None:
    """Be a child; see ``dagster_taskiq.worker.child.main``."""
    # Imported here, in the child, where it is there already: the parent needs nothing of it.
    from dagster_taskiq.worker.child import main  # noqa: PLC0415

    main(channel, lifeline)


def start() -> None:
    """Start the server, unless it runs; it imports what children need, and this does not wait.

    Raises:
        ConfigError: it cannot be started; the text says what it needs.
    """
    context.set_forkserver_preload(["dagster_taskiq.worker.preload"])
    try:
        forkserver.ensure_running()
    except OSError as error:
        from dagster_taskiq.errors import ConfigError  # noqa: PLC0415

        raise ConfigError(
            f"Cannot start the process that a worker's children are forked from: {error}. Its "
            "socket is in the temporary directory ($TMPDIR, else /tmp), which must take files and "
            "have a short path."
        ) from None
