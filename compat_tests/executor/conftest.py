"""Fixtures for whole runs: an instance and a warm worker for each broker, shared by most tests."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from dagster import DagsterInstance

from compat_tests.brokers import BROKERS
from compat_tests.conftest import make_settings, storage_of
from compat_tests.executor.runs import House
from compat_tests.executor.scratch import Scratch
from compat_tests.workers import running_worker
from dagster_taskiq.settings.settings import Settings

#: The queue, beside the default one, that the shared worker serves.
SIDE_QUEUE = "side"
#: How many steps the shared worker runs at once.
SLOTS = 4


@pytest.fixture(scope="session")
def house_of_kind(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], House]]:
    """Make the house of a kind of broker when it is first wanted, and keep it for all tests."""
    houses: dict[str, House] = {}
    with ExitStack() as stack:

        def find(kind: str) -> House:
            if kind not in houses:
                directory = tmp_path_factory.mktemp(f"house-{kind}")
                if kind == "memory":
                    settings = Settings(broker="memory://")
                else:
                    settings = make_settings(kind, directory, request)
                storage = storage_of(kind, request)
                extra = yaml.safe_dump(storage) if storage else ""
                instance = stack.enter_context(make_instance(directory, extra))
                houses[kind] = House(settings, instance)
                if kind != "memory":
                    queues = ("-q", f"{settings.queue},{SIDE_QUEUE}")
                    slots = ("-c", str(SLOTS), "--kill-grace", "3")
                    name = f"shared-{kind}"
                    worker = running_worker(settings, directory, *queues, *slots, name=name)
                    stack.enter_context(worker)
            return houses[kind]

        yield find


def make_instance(directory: Path, extra: str = "") -> DagsterInstance:
    home = directory / "dagster-home"
    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text(f"telemetry: {{enabled: false}}\n{extra}")
    return DagsterInstance.from_config(str(home))


@pytest.fixture(params=["embedded", "memory"])
def house(request: pytest.FixtureRequest, house_of_kind: Callable[[str], House]) -> House:
    """A house with a warm worker, and one without, for what is the same on every broker.

    That it is the same is what the contract tests hold, and the demo, which runs on all of them.
    """
    return house_of_kind(request.param)


@pytest.fixture(params=BROKERS)
def fleet(request: pytest.FixtureRequest, house_of_kind: Callable[[str], House]) -> House:
    """A house whose steps run in a worker, which is warm and has ``SLOTS`` slots."""
    return house_of_kind(request.param)


@pytest.fixture
def own(settings: Settings, instance: DagsterInstance) -> House:
    """A house for one test, which starts, stops and kills the workers it needs."""
    return House(settings.replace(), instance)


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    directory = tmp_path / "notes"
    directory.mkdir()
    return Scratch(directory)


@pytest.fixture
def own_house(tmp_path: Path, instance: DagsterInstance) -> Iterator[Callable[[str], House]]:
    """Make a house at a URL of the test's own, with a worker of two slots."""
    with ExitStack() as stack:

        def build(url: str) -> House:
            settings = Settings(broker=url, heartbeat_interval=0.5, lease=4.0)
            stack.enter_context(running_worker(settings, tmp_path, "-c", "2"))
            return House(settings, instance)

        yield build
