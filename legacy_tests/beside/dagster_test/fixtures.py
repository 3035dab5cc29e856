"""What starts servers with Docker Compose, in Dagster's own tests: here, they are there already."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

#: Has the address of a PostgreSQL with the port, user, password and database of Dagster's tests.
POSTGRES_ADDRESS_ENV = "POSTGRES_ADDRESS"


@contextmanager
def docker_compose_cm(docker_compose_yml: Path) -> Iterator[Mapping[str, str]]:
    """Yield the address of each server that a file may name."""
    del docker_compose_yml
    # Of S3 only the address is asked for: what stands in for its client connects to nothing.
    yield {"postgres": os.environ[POSTGRES_ADDRESS_ENV], "s3": "127.0.0.1"}


def network_name_from_yml(docker_compose_yml: Path) -> str:
    """Return the name of the network of these servers."""
    raise NotImplementedError(f"No test needs the network of {docker_compose_yml}.")
