"""Whether a connection that executes nothing is still there, without asking the server.

Imports no driver: Dagster's own connections are checked by it too, which may be of another one.
"""

import selectors
from typing import Protocol


class HasFileno(Protocol):
    """A connection of psycopg2 or psycopg."""

    def fileno(self) -> int:
        """Return the descriptor of its socket."""


def has_received(connection: HasFileno) -> bool:
    """Return whether there is something to read, which is so if the server closes a connection.

    It sends nothing else to a connection that executes nothing and listens to no channel, except
    for rare notes, such as that its configuration was loaded again. Another connection is as good.
    """
    with selectors.DefaultSelector() as selector:
        selector.register(connection.fileno(), selectors.EVENT_READ)
        return bool(selector.select(0))
