"""A RabbitMQ that restarts, freezes or closes connections during a run, and workers that die.

The server is these tests' own, and all connections to it go through a proxy that can cut and refuse
them. Most runs share a worker whose lease is longer than a restart of the server takes: with a
shorter one it stops what it runs, as it has to.
"""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import aiormq
import psutil
import pytest
from anyio.from_thread import start_blocking_portal
from dagster import DagsterInstance, DagsterRunStatus
from pamqp.commands import Basic

from compat_tests.executor import fault_jobs
from compat_tests.executor.conftest import make_instance
from compat_tests.executor.outages import (
    QUICK,
    assert_each_once,
    end_steps,
    freeze,
    restart,
    run_through,
    run_while_cut,
    shut,
)
from compat_tests.executor.runs import House, Outcome
from compat_tests.executor.scratch import Scratch
from compat_tests.proxy import Proxy, proxy_to
from compat_tests.servers import RabbitServer, own_rabbit
from compat_tests.waiting import eventually
from compat_tests.workers import WorkerProcess, running_worker
from dagster_taskiq.client import client_for
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.rabbitmq.records import TASK_SHARDS

FAILURE = DagsterRunStatus.FAILURE

#: A server that ends in good order; one that is killed is the harder case.
STOPPED = pytest.param("stopped", marks=pytest.mark.test_all("the same test with a killed server"))


@pytest.fixture(scope="module")
def server() -> Iterator[RabbitServer]:
    with own_rabbit() as server:
        yield server


@pytest.fixture(scope="module")
def proxy(server: RabbitServer) -> Iterator[Proxy]:
    with proxy_to(server.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def patient(
    proxy: Proxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[House, WorkerProcess]]:
    """A house behind the proxy, and its worker, for all tests that disturb the server alone."""
    directory = tmp_path_factory.mktemp("patient")
    # Commands time out after two seconds, so that tests wait less for a frozen server.
    url = f"amqp://guest:guest@127.0.0.1:{proxy.port}//?timeout=2"
    settings = Settings(broker=url, backend="rpc://", heartbeat_interval=0.5, lease=60.0)
    with (
        make_instance(directory) as instance,
        running_worker(settings, directory, "-c", "2", name="patient") as worker,
    ):
        yield House(settings, instance), worker


@pytest.mark.parametrize("how", [STOPPED, "killed"])
def test_a_restarted_rabbitmq_delays_a_run_and_loses_nothing_of_it(
    patient: tuple[House, WorkerProcess], server: RabbitServer, scratch: Scratch, how: str
) -> None:
    house, _ = patient
    outcome = run_through(house, scratch, lambda run: restart(server, run, kill=how == "killed"))
    assert outcome.says("answer again")


def test_a_rabbitmq_frozen_for_longer_than_a_command_may_take_delays_a_run(
    patient: tuple[House, WorkerProcess], server: RabbitServer, scratch: Scratch
) -> None:
    house, worker = patient
    outcome = run_through(house, scratch, lambda run: freeze(server, worker, run))
    assert outcome.says("answer again")


@pytest.mark.test_all("faults/test_servers.py cuts the connections to a Redis")
def test_connections_that_are_cut_again_and_again_repeat_and_lose_nothing(
    patient: tuple[House, WorkerProcess], proxy: Proxy, scratch: Scratch
) -> None:
    house, _ = patient
    run_while_cut(house, proxy, scratch)


@pytest.mark.test_all("faults/test_servers.py keeps a Redis out of reach")
def test_a_rabbitmq_that_refuses_connections_for_a_while_delays_a_run(
    patient: tuple[House, WorkerProcess], proxy: Proxy, scratch: Scratch
) -> None:
    house, _ = patient
    outcome = run_through(house, scratch, lambda run: shut(proxy, run))
    assert outcome.says("answer again")


def test_a_rabbitmq_that_is_out_of_memory_delays_a_run(
    patient: tuple[House, WorkerProcess], server: RabbitServer, scratch: Scratch
) -> None:
    house, worker = patient

    def fill(_: Outcome) -> None:
        before = worker.output().count("Cannot send a heartbeat")
        limit = server.evaluate("vm_memory_monitor:get_vm_memory_high_watermark()")
        server.ctl("set_vm_memory_high_watermark", "0")
        try:
            end_steps(scratch)  # which cannot be recorded
            eventually(lambda: worker.output().count("Cannot send a heartbeat") > before)
        finally:
            server.ctl("set_vm_memory_high_watermark", limit)

    run_through(house, scratch, fill)


# -- workers -----------------------------------------------------------------------------------


@pytest.fixture
def lively(server: RabbitServer, tmp_path: Path, dagster_home: Path) -> Iterator[House]:
    """A house with a short lease, and without any worker."""
    settings = Settings(
        broker=server.url,
        backend="rpc://",
        prefix=f"lively-{tmp_path.name}",
        heartbeat_interval=0.5,
        lease=4.0,
    )
    with DagsterInstance.get() as instance:
        yield House(settings, instance)


@contextmanager
def tasks_out_of_reach(settings: Settings) -> Iterator[None]:
    """Hold the records of all tasks, as a process that is frozen at the worst moment would."""

    async def hold() -> aiormq.abc.AbstractConnection:
        connection = await aiormq.connect(settings.broker)
        channel = await connection.channel()
        for number in range(TASK_SHARDS):
            queue = f"{settings.prefix}:record:tasks-{number:02}"
            while isinstance((await channel.basic_get(queue)).delivery, Basic.GetEmpty):  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # another process has taken it
        return connection

    with start_blocking_portal() as portal:
        connection = portal.call(hold)
        try:
            yield
        finally:
            portal.call(connection.close)


def test_what_a_killed_worker_had_claimed_and_not_started_goes_to_another(
    lively: House, tmp_path: Path, scratch: Scratch
) -> None:
    with lively.started(fault_jobs.two_held_and_more, scratch) as process:
        lively.wait_until_queued(8)
        with tasks_out_of_reach(lively.settings):
            with running_worker(lively.settings, tmp_path, "-c", "2", name="doomed") as doomed:
                eventually(lambda: lively.waiting() < 8, "it has taken some")
                eventually(lambda: "Cannot record the start" in doomed.output())
                doomed.process.kill()
                doomed.wait()
            # The server has requeued them, and none has begun.
            lively.wait_until_queued(8)
            assert (scratch.count("held-began"), scratch.count("quick")) == (0, 0)
        scratch.note("go")
        with running_worker(lively.settings, tmp_path, "-c", "2", name="successor"):
            outcome = process.wait()
    assert_each_once(outcome)
    outcome.assert_sound()


def signal_all(worker: WorkerProcess, number: int) -> None:
    """Send a signal to a worker and to all that it has started."""
    parent = psutil.Process(worker.pid)
    for process in (parent, *parent.children(recursive=True)):
        # A child that was to end at a deadline may do so as soon as it wakes.
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def test_a_worker_frozen_beyond_its_lease_ends_what_was_begun_elsewhere(
    lively: House, tmp_path: Path, scratch: Scratch
) -> None:
    outcome = lively.create(fault_jobs.two_held_and_more, scratch)
    deeds: list[str] = []
    client = client_for(lively.settings)

    def is_free(name: str) -> bool:
        return any(
            each.name == name and not each.is_lost and not each.running for each in client.workers()
        )

    with ExitStack() as stack:

        def start(name: str) -> WorkerProcess:
            worker = running_worker(lively.settings, tmp_path, "-c", "2", name=name)
            return stack.enter_context(worker)

        sleeper = start("sleeper")

        def freeze_then_wake() -> None:
            if deeds or not (scratch.count("held-began") and scratch.count("policy-began")):
                return
            deeds.append("frozen")
            signal_all(sleeper, signal.SIGSTOP)
            start("other")
            # The other worker has begun again what the first one still holds.
            scratch.wait_for("policy-began", 2)
            signal_all(sleeper, signal.SIGCONT)
            eventually(lambda: is_free("sleeper"), "it beats again, and holds nothing")
            assert "longer than the lease" in sleeper.output()
            scratch.note("go")

        lively.execute(outcome, fault_jobs.two_held_and_more, meanwhile=freeze_then_wake)
        eventually(lambda: is_free("sleeper") and is_free("other"))
    assert (outcome.status, outcome.failed) == (FAILURE, {"held"})
    assert "sleeper" in outcome.failure("held")
    # What the frozen worker held was stopped there.
    assert (scratch.count("held-began"), scratch.count("held-ended")) == (1, 0)
    assert (scratch.count("policy-began"), scratch.count("policy-ended")) == (2, 1)
    assert sorted(scratch.lines("quick")) == QUICK
