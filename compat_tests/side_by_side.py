"""How tests run in several processes: what stays together, in which order, with which priority."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from compat_tests.brokers import KINDS

#: Directories with warm workers of each broker, which the tests of all their files share.
WARM = ("executor", "launcher", "faults")

#: What takes longest begins first, so that no process is left alone with it at the end. A path, or
#: the beginning of one; all others follow in the order of their names.
LONGEST_FIRST = (
    "legacy_tests",
    "compat_tests/faults",
    "compat_tests/launcher",
    "compat_tests/executor",
    "compat_tests/contract",
    "compat_tests/facade",
)

#: The directory of the original suites, whose tests have deadlines of a few seconds.
WITH_DEADLINES = "legacy_tests"
#: How much the other tests stand back behind them on a busy machine (nice(2)).
NICENESS = 10

# A shell that starts the tests in the background has them ignore this signal, and with them
# whatever they start: servers that cannot be interrupted, and steps.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Together(LoadScopeScheduling):
    """Gives the tests that share workers and servers to one process."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        # They come in the order of the collection, not by their number.
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)


def scope_of(nodeid: str) -> str:
    """Return what a test stays together with: its broker's tests in its directory, or its file."""
    path, _, name = nodeid.partition("::")
    parameters = name.partition("[")[2].rstrip("]").split("-")
    kind = next((each for each in KINDS if each in parameters), "")
    directory = Path(path).parent
    shared = directory if directory.name in WARM and kind else path
    return f"{shared} {kind}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Together:
    return Together(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest first."""
    items.sort(key=lambda item: _place(item.nodeid))


def _place(nodeid: str) -> int:
    places = (place for place, path in enumerate(LONGEST_FIRST) if nodeid.startswith(path))
    return next(places, len(LONGEST_FIRST))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Lower the priority of a process of pytest-xdist before its first test without deadlines."""
    if "PYTEST_XDIST_WORKER" in os.environ and not item.nodeid.startswith(WITH_DEADLINES):
        os.nice(max(0, NICENESS - os.nice(0)))
