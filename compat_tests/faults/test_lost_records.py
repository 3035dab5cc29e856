"""Records of tasks that get lost, by eviction or one alone: no step runs twice for it."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
from dagster import DagsterEventType, DagsterRunStatus

from compat_tests.executor import fault_jobs
from compat_tests.executor.conftest import make_instance
from compat_tests.executor.outages import QUICK, assert_each_once, run_through
from compat_tests.executor.runs import House
from compat_tests.executor.scratch import Scratch
from compat_tests.faults import lost_record_jobs
from compat_tests.faults.test_messages import on_the_way
from compat_tests.servers import RedisServer, own_redis
from compat_tests.waiting import eventually
from compat_tests.workers import WorkerProcess, running_worker
from dagster_taskiq.client import client_for
from dagster_taskiq.runs import run_loop
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.messages import Outgoing

#: What the tests' own server has room for, in bytes: more than it ever needs.
ROOM = 100 * 1024 * 1024


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A server that may delete any key when it is full."""
    with own_redis("--maxmemory", str(ROOM), "--maxmemory-policy", "allkeys-random") as server:
        yield server


@pytest.fixture(scope="module")
def house(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    settings = Settings(broker=server.url, heartbeat_interval=0.5, lease=4.0)
    with make_instance(tmp_path_factory.mktemp("evicted")) as instance:
        yield House(settings, instance)


@pytest.fixture
def worker(house: House, tmp_path: Path) -> Iterator[WorkerProcess]:
    with running_worker(house.settings, tmp_path, "-c", "2", name="evicted") as worker:
        yield worker


@pytest.fixture
def evict_all(server: RedisServer) -> Iterator[Callable[[], None]]:
    """Let the server be full for a moment, and delete all that it has."""
    with closing(redis.Redis(port=server.port)) as client:

        def evict() -> None:
            before = client.info("stats")["evicted_keys"]
            client.config_set("maxmemory", 1)
            eventually(lambda: client.info("stats")["evicted_keys"] > before)
            eventually(lambda: client.dbsize() == 0, "nothing is left")
            client.config_set("maxmemory", ROOM)

        yield evict


def test_a_server_that_evicts_everything_during_a_run_has_no_step_run_twice(
    house: House, worker: WorkerProcess, evict_all: Callable[[], None], scratch: Scratch
) -> None:
    """What runs goes on, what waits is sent again; the run says why, and has said so before."""
    outcome = run_through(house, scratch, lambda _: evict_all())
    (warning,) = [each for each in outcome.engine_says if "deletes any key" in each]
    assert "maxmemory-policy allkeys-random" in warning
    again = [each for each in outcome.engine_says if "the broker has lost it" in each]
    assert len(again) == len(QUICK)
    assert all("evicted" in each and "since the run began" in each for each in again)
    assert warning in worker.output()


def test_a_step_that_dies_with_its_record_fails_and_its_run_ends(
    house: House,
    worker: WorkerProcess,
    evict_all: Callable[[], None],
    scratch: Scratch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_loop, "FINALIZING_SECONDS", 1e6)
    outcome = house.create(lost_record_jobs.held_and_hooked, scratch)
    deeds: list[str] = []

    def kill_and_evict() -> None:
        if not deeds and scratch.count("held-began") and scratch.count("hook-began"):
            deeds.append("done")
            worker.process.kill()
            worker.wait()
            evict_all()

    house.execute(outcome, lost_record_jobs.held_and_hooked, meanwhile=kill_and_evict)
    assert outcome.status is DagsterRunStatus.FAILURE
    assert (outcome.failed, outcome.succeeded) == ({"held"}, {"hooked"})
    why = outcome.failure("held")
    assert "has begun" in why
    assert "Its record has been lost" in why
    assert "has evicted" in why
    assert scratch.count("held-began") == 1


def test_a_step_without_record_whose_message_comes_again_is_not_run_again(
    fleet: House, scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event log says that it has begun; a message of which it does not is executed."""
    sent: list[Outgoing] = []
    done: list[bool] = []
    client = client_for(fleet.settings)

    def note(message: Outgoing) -> list[Outgoing]:
        sent.append(message)
        return [message]

    with on_the_way(fleet, monkeypatch, note) as send:

        def forget_and_send() -> None:
            if done or scratch.count("quick") < len(QUICK) or not scratch.count("policy-began"):
                return
            done.append(True)
            quick = [each for each in sent if "quick" in each.task_id]
            ids = [each.task_id for each in quick]
            eventually(lambda: all(each.state.is_final for each in client.tasks(ids).values()))
            client.forget(ids)
            assert client.tasks(ids) == {}
            for message in quick:
                send(message)
            eventually(lambda: client.depths() == [], "all have been taken, and dropped")
            assert client.tasks(ids) == {}
            scratch.note("go")

        outcome = fleet.create(fault_jobs.two_held_and_more, scratch)
        fleet.execute(outcome, fault_jobs.two_held_and_more, meanwhile=forget_and_send)
    assert_each_once(outcome)
    starts = outcome.steps(DagsterEventType.STEP_START)
    assert len(starts) == len(set(starts))


def test_a_step_that_was_never_recorded_is_executed(
    fleet: House, scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forget_to_record(*_: object) -> None:
        """The record was lost before anybody had the message."""

    with monkeypatch.context() as patched:
        backend = type(client_for(fleet.settings).backend)
        patched.setattr(backend, "submitted", forget_to_record)
        scratch.note("go")
        outcome = fleet.run(fault_jobs.held_once, scratch)
    assert outcome.status is DagsterRunStatus.SUCCESS
    assert scratch.count("held-ended") == 1
