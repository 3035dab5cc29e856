"""Fixtures for runs that die: instances with run monitoring, and a second worker to be killed.

A plugin of the test modules that need it: its fleets and workers are shared between them.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from dagster._core.workspace.load_target import GrpcServerTarget

from compat_tests.brokers import BROKERS
from compat_tests.conftest import storage_of
from compat_tests.launcher.deaths import (
    ATTEMPTS,
    SECOND_QUEUE,
    MonitoredFleet,
    SecondWorker,
    end_all_runs,
)
from compat_tests.launcher.fleet import Fleet, open_fleet
from compat_tests.workers import WorkerProcess, running_worker


@pytest.fixture(scope="session")
def monitored_of_kind(
    tmp_path_factory: pytest.TempPathFactory,
    fleet_of_kind: Callable[[str], Fleet],
    code_server: GrpcServerTarget,
    request: pytest.FixtureRequest,
) -> Iterator[MonitoredFleet]:
    """Make a second instance, with run monitoring, whose runs the shared worker executes."""
    fleets: dict[tuple[str, int], Fleet] = {}
    with ExitStack() as stack:

        def find(kind: str, attempts: int) -> Fleet:
            if (kind, attempts) not in fleets:
                home = tmp_path_factory.mktemp(f"monitored-{kind}-{attempts}")
                monitoring = {"enabled": True, "max_resume_run_attempts": attempts}
                settings = fleet_of_kind(kind).settings
                more = {"run_monitoring": monitoring, **storage_of(kind, request)}
                fleet = open_fleet(home, settings, code_server, **more)
                fleets[kind, attempts] = stack.enter_context(fleet)
            return fleets[kind, attempts]

        yield find


@pytest.fixture(params=BROKERS)
def watched(request: pytest.FixtureRequest, monitored_of_kind: MonitoredFleet) -> Iterator[Fleet]:
    """A fleet with run monitoring, which never resumes a run."""
    fleet = monitored_of_kind(request.param, 0)
    yield fleet
    end_all_runs(fleet)


@pytest.fixture(params=BROKERS)
def resuming(request: pytest.FixtureRequest, monitored_of_kind: MonitoredFleet) -> Iterator[Fleet]:
    """A fleet with run monitoring, which resumes a run ``ATTEMPTS`` times."""
    fleet = monitored_of_kind(request.param, ATTEMPTS)
    yield fleet
    end_all_runs(fleet)


@pytest.fixture(scope="session")
def second_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecondWorker]:
    """Return a fleet's second worker, of one slot; another one when the last has ended."""
    workers: dict[str, WorkerProcess] = {}
    count = 0
    with ExitStack() as stack:

        def find(fleet: Fleet) -> WorkerProcess:
            nonlocal count
            settings = fleet.settings
            last = workers.get(settings.prefix)
            if last is None or last.process.poll() is not None:
                count += 1
                options = ("-q", SECOND_QUEUE, "-c", "1", "--kill-grace", "2")
                directory = tmp_path_factory.mktemp("second")
                worker = running_worker(settings, directory, *options, name=f"second-{count}")
                workers[settings.prefix] = stack.enter_context(worker)
            return workers[settings.prefix]

        yield find
