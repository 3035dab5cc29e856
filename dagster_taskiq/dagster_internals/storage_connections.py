"""Keeping this process's connections to Dagster's storage while it executes steps or a run."""

from collections.abc import Iterator
from contextlib import contextmanager

from dagster_taskiq.dagster_internals import postgres_engines, sqlite_engines, storage_retries
from dagster_taskiq.dagster_internals.kept_engines import KEPT


@contextmanager
def open_connections_kept() -> Iterator[None]:
    """Keep the connections to Dagster's storage, until the end of the block.

    On a server, they survive its restart: connections are opened, and calls made, again.

    Blocks may overlap, on several threads; the last one that ends closes the connections. Nothing
    is kept if Dagster is not as expected, or in a process that is forked inside of a block.
    """
    sqlite_engines.install()
    postgres_engines.install()
    storage_retries.install()
    with KEPT.keeping():
        yield
