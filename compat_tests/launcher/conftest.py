"""Fixtures for launched runs: a code server for all tests, and a fleet for each broker."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from dagster._core.workspace.load_target import GrpcServerTarget

from compat_tests.brokers import BROKERS
from compat_tests.conftest import make_settings, storage_of
from compat_tests.executor.scratch import Scratch
from compat_tests.launcher.fleet import Fleet, open_fleet, running_code_server
from compat_tests.launcher.pool_jobs import SIDE_QUEUE
from compat_tests.workers import running_worker
from dagster_taskiq.settings.settings import Settings

OwnFleet = Callable[..., Fleet]

#: How many slots the shared worker of a broker has.
SLOTS = 2


@pytest.fixture(scope="session")
def code_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcServerTarget]:
    with running_code_server(tmp_path_factory.mktemp("code-server")) as target:
        yield target


@pytest.fixture(scope="session")
def fleet_of_kind(
    tmp_path_factory: pytest.TempPathFactory,
    code_server: GrpcServerTarget,
    request: pytest.FixtureRequest,
) -> Iterator[Callable[[str], Fleet]]:
    """Make the fleet of a kind of broker, with a warm worker, when it is first wanted."""
    fleets: dict[str, Fleet] = {}
    with ExitStack() as stack:

        def find(kind: str) -> Fleet:
            if kind not in fleets:
                directory = tmp_path_factory.mktemp(f"fleet-{kind}")
                settings = make_settings(kind, directory, request)
                more = storage_of(kind, request)
                fleet = open_fleet(directory, settings, code_server, **more)
                fleets[kind] = stack.enter_context(fleet)
                queues = ("-q", f"{settings.queue},{SIDE_QUEUE}")
                slots = ("-c", str(SLOTS), "--kill-grace", "2")
                name = f"shared-{kind}"
                worker = running_worker(settings, directory, *queues, *slots, name=name)
                stack.enter_context(worker)
            return fleets[kind]

        yield find


@pytest.fixture(params=BROKERS)
def fleet(request: pytest.FixtureRequest, fleet_of_kind: Callable[[str], Fleet]) -> Fleet:
    """A fleet whose one worker is warm, shared by tests that leave it as it was."""
    return fleet_of_kind(request.param)


@pytest.fixture
def own_fleet(
    settings: Settings, code_server: GrpcServerTarget, dagster_home: Path
) -> Iterator[OwnFleet]:
    """Make a fleet for one test, which starts, stops and kills the workers it needs.

    Called with what is to stand in ``dagster.yaml`` beside the launcher.
    """
    with ExitStack() as stack:

        def build(**more: Any) -> Fleet:
            return stack.enter_context(open_fleet(dagster_home, settings, code_server, **more))

        yield build


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    directory = tmp_path / "notes"
    directory.mkdir()
    return Scratch(directory)
