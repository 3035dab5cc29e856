"""Fixtures of the fault tests: those for whole runs, and a way to report what was measured."""

from collections.abc import Callable

import pytest

from compat_tests.executor.conftest import fleet, house_of_kind, own, own_house, scratch

__all__ = ["fleet", "house_of_kind", "own", "own_house", "scratch"]

Figure = Callable[[str, object], None]


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Figure:
    """Report a figure, with its unit, at the end of the tests; nothing depends on it.

    ``figure("from SIGKILL to the step's failure", "0.2 s")``
    """
    return record_property
