"""Fixtures of the unit tests."""

from collections.abc import Iterator

import pytest
from dagster import DagsterInstance


@pytest.fixture(scope="module")
def instance() -> Iterator[DagsterInstance]:
    """An instance in memory; each test uses runs of its own."""
    with DagsterInstance.ephemeral() as instance:
        yield instance
