"""Fixtures of the fault tests: those for whole runs, and a way to report what was measured."""

from collections.abc import Callable
from pathlib import Path

import pytest

from compat_tests.executor.conftest import fleet, house_of_kind, own, own_house, scratch

__all__ = ["fleet", "house_of_kind", "own", "own_house", "scratch"]

Figure = Callable[[str, object], None]

#: How long a test of a fault may take, in seconds, however busy the machine is: most start workers,
#: wait for leases to run out, and start others.
LIMIT = 420.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of this directory their time, where they have not been given more."""
    for item in items:
        if item.path.parent == Path(__file__).parent and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LIMIT))


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Figure:
    """Report a figure, with its unit, at the end of the tests; nothing depends on it.

    ``figure("from SIGKILL to the step's failure", "0.2 s")``
    """
    return record_property
