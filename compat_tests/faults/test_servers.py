"""Servers that freeze, hang up, stay away and come back while a run needs them: each step once.

The cases of RabbitMQ stand in ``executor/test_rabbitmq_faults.py``, a restart of Redis in
``executor/test_faults.py``. Here are the other cases of Redis, broker and backend on two servers of
which one goes away, and answers that get lost after the server has done what it was asked.
"""

import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from dagster import DagsterRunStatus
from taskiq import TaskiqMessage

from compat_tests.contract.test_broker import ids, opened, put
from compat_tests.executor.conftest import make_instance
from compat_tests.executor.outages import QUICK, freeze, run_through, run_while_cut, shut
from compat_tests.executor.runs import House, Outcome
from compat_tests.executor.scratch import Scratch
from compat_tests.executor.test_rabbitmq_faults import tasks_out_of_reach
from compat_tests.faults import server_jobs
from compat_tests.faults.conftest import Figure
from compat_tests.proxy import Proxy, proxy_to
from compat_tests.sending import USER_TASKS, Sender, open_sender
from compat_tests.servers import RabbitServer, RedisServer, own_rabbit, own_redis
from compat_tests.waiting import eventually
from compat_tests.workers import WorkerProcess, running_worker
from dagster_taskiq.client import client_for
from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.messages import Delivery
from dagster_taskiq.transport.redis import backend as redis_backend
from dagster_taskiq.transport.redis import broker as redis_broker

SUCCESS = DagsterRunStatus.SUCCESS

#: How long Redis is frozen. Both run and worker have said by then that it is away: a command of
#: theirs is given up after 8 s, is tried once more, and then they try again.
FREEZE_SECONDS = 20.0


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with own_redis() as server:
        yield server


@pytest.fixture(scope="module")
def rabbit() -> Iterator[RabbitServer]:
    with own_rabbit() as server:
        yield server


@pytest.fixture(scope="module")
def door(server: RedisServer) -> Iterator[Proxy]:
    with proxy_to(server.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def patient(
    door: Proxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[House, WorkerProcess]]:
    """A house behind the door, with the lease that is the default, and its worker."""
    directory = tmp_path_factory.mktemp("patient")
    url = f"redis://127.0.0.1:{door.port}/0"
    settings = Settings(broker=url, heartbeat_interval=1.0)
    arguments = ("-c", "2", "-i", USER_TASKS)
    with (
        make_instance(directory) as instance,
        running_worker(settings, directory, *arguments, name="patient") as worker,
    ):
        yield House(settings, instance), worker


# -- answers that get lost -----------------------------------------------------------------------


#: How the scripts are called, once the server has them.
START = redis_backend.SCRIPTS["start"].sha.encode()
CLAIM = redis_broker.SCRIPTS["claim"].sha.encode()


@pytest.mark.parametrize("script", [START, CLAIM])
def test_if_redis_answer_to_a_start_is_lost_the_task_runs_once(
    patient: tuple[House, WorkerProcess],
    server: RedisServer,
    door: Proxy,
    scratch: Scratch,
    script: bytes,
) -> None:
    """The client library asks again, and hears that the task has been started: by itself.

    A message that a client has put into the queue in its own way is started after its claim.
    """
    house, _ = patient
    with open_sender(house.changed(broker=server.url).settings) as sender:
        sender.value(sender.send("add", 1, 2))
        first = TaskiqMessage(
            task_id=uuid.uuid4().hex,
            task_name=f"{USER_TASKS}:note",
            labels={},
            args=[str(scratch.directory / "notes")],
            kwargs={},
        )
        more = [first.model_copy(update={"task_id": uuid.uuid4().hex}) for _ in range(4)]
        put_as_it_is(sender, first)
        sender.value(first.task_id)  # the worker's scripts are on the server
        door.lose_answers(script, 5)
        for each in more:
            put_as_it_is(sender, each)
        sent = [sender.send("note", str(scratch.directory / "notes")) for _ in range(4)]
        for task_id in (*sent, *(each.task_id for each in more)):
            sender.value(task_id)
    eventually(lambda: door.has_lost)
    assert scratch.count("notes") == 9


def put_as_it_is(sender: Sender, message: TaskiqMessage) -> None:
    body = sender.broker.formatter.dumps(message).message
    sender.call(sender.broker.put, message.task_id, sender.broker.settings.queue, 0, body)


@pytest.mark.anyio
@pytest.mark.parametrize("times", [1, 3])
async def test_if_redis_answer_to_a_claim_is_lost_the_next_claim_has_the_same_message(
    server: RedisServer, door: Proxy, tmp_path: Path, times: int
) -> None:
    """Else nobody could have it before the lease has passed."""
    settings = Settings(broker=server.url, prefix=tmp_path.name)
    url = f"redis://127.0.0.1:{door.port}/0"
    async with opened(settings) as sender, opened(settings.replace(broker=url)) as broker:
        assert await broker.claim() is None  # the script is on the server
        await put(sender, "first", "second")
        door.lose_answers(CLAIM, times)
        # More often than the client library tries by itself, it is for the caller to ask again.
        while (delivery := await claim_if_it_answers(broker)) is None:
            pass
        assert (delivery.task_id, delivery.attempt) == ("first", 1)
        assert door.has_lost
        await broker.acknowledge(delivery)
        assert await ids(broker) == ["second"]


async def claim_if_it_answers(broker: QueueBroker) -> Delivery | None:
    with suppress(ServerUnavailableError):
        return await broker.claim()
    return None


def test_a_message_that_comes_again_while_its_start_is_in_doubt_is_run_once(
    rabbit: RabbitServer, tmp_path: Path, scratch: Scratch
) -> None:
    """Its connection is lost: so the server has it back, and the worker cannot know if it began."""
    with proxy_to(rabbit.port) as door, ExitStack() as stack:
        prefix = tmp_path.name
        direct = Settings(broker=rabbit.url, prefix=prefix, heartbeat_interval=1.0, lease=60.0)
        behind = direct.replace(broker=f"amqp://guest:guest@127.0.0.1:{door.port}/")
        arguments = ("-c", "2", "-i", USER_TASKS)
        worker = stack.enter_context(running_worker(behind, tmp_path, *arguments))
        sender = stack.enter_context(open_sender(direct))
        sender.value(sender.send("add", 1, 2))
        notes = str(scratch.directory / "notes")

        def in_doubt(before: int) -> bool:
            return worker.output().count("Cannot record the start") > before

        for number in range(2):
            with tasks_out_of_reach(direct):
                sent = sender.send("note", notes)
                eventually(lambda: client_for(direct).depths() == [], "it is claimed")
                door.cut()
                eventually(lambda number=number: in_doubt(number), "its start is in doubt")
            sender.value(sent)
        # Both slots have taken something else since: nothing is still on its way.
        for _ in range(4):
            sender.value(sender.send("add", 1, 1))
    assert scratch.count("notes") == 2


# -- Redis freezes, hangs up, and is out of reach ------------------------------------------------


@pytest.mark.test_all("executor/test_rabbitmq_faults.py freezes a RabbitMQ")
def test_a_redis_that_is_frozen_for_twenty_seconds_costs_no_step(
    patient: tuple[House, WorkerProcess], server: RedisServer, scratch: Scratch, figure: Figure
) -> None:
    """Longer than any command may take, and shorter than the lease that is the default."""
    house, worker = patient

    def freeze_long(outcome: Outcome) -> None:
        figure("frozen for", f"{freeze(server, worker, outcome, FREEZE_SECONDS):.1f} s")

    assert run_through(house, scratch, freeze_long).says("answer again")


def test_connections_to_redis_that_are_cut_again_and_again_lose_nothing(
    patient: tuple[House, WorkerProcess], door: Proxy, scratch: Scratch, figure: Figure
) -> None:
    house, _ = patient
    since = time.monotonic()
    cuts = run_while_cut(house, door, scratch)
    figure(f"51 steps, with {cuts} cuts", f"{time.monotonic() - since:.1f} s")


def test_a_redis_that_cannot_be_reached_delays_a_run_by_as_long_and_no_more(
    patient: tuple[House, WorkerProcess], door: Proxy, scratch: Scratch
) -> None:
    house, _ = patient
    outcome = run_through(house, scratch, lambda run: shut(door, run))
    assert outcome.says("answer again")


@pytest.mark.test_all("unit/test_heartbeat.py, which has no server")
def test_a_worker_logs_an_outage_once_and_its_end_once(tmp_path: Path) -> None:
    with own_redis() as server:
        settings = Settings(broker=server.url, lease=3.0, heartbeat_interval=0.5)
        with running_worker(settings, tmp_path, "-c", "1", "-l", "debug") as worker:
            server.kill()
            eventually(lambda: "No heartbeat was sent" in worker.output(), "the lease is over")
            tries = worker.output().count("Cannot read commands")
            eventually(lambda: worker.output().count("Cannot read commands") > tries + 3)
            server.start()
            eventually(lambda: worker.output().count("answers again") == 2, "it is back")
        for sentence in (
            *("No heartbeat was sent", "Cannot send a heartbeat", "The broker does not answer"),
            *("The broker answers again", "The backend answers again"),
        ):
            assert worker.output().count(sentence) == 1, sentence


# -- broker and backend on two servers, of which one goes away -----------------------------------


@dataclass
class TwoServers:
    """A house whose broker and backend are on two servers, each behind a door."""

    house: House
    doors: dict[str, Proxy]


#: With the marker of what runs on no push.
ON_TWO = (
    "redis-redis",
    pytest.param("rabbitmq-redis", marks=pytest.mark.test_all("the same on two Redis servers")),
)


@pytest.fixture(scope="module", params=ON_TWO)
def two_servers(
    request: pytest.FixtureRequest,
    server: RedisServer,
    rabbit: RabbitServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[TwoServers]:
    directory = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        if request.param == "redis-redis":
            other = stack.enter_context(own_redis())
            broker_door = stack.enter_context(proxy_to(other.port))
            broker = f"redis://127.0.0.1:{broker_door.port}/0"
        else:
            broker_door = stack.enter_context(proxy_to(rabbit.port))
            broker = f"amqp://guest:guest@127.0.0.1:{broker_door.port}/"
        backend_door = stack.enter_context(proxy_to(server.port))
        backend = f"redis://127.0.0.1:{backend_door.port}/0"
        settings = Settings(
            broker=broker,
            backend=backend,
            prefix=directory.name,
            heartbeat_interval=1.0,
            lease=60.0,
        )
        instance = stack.enter_context(make_instance(directory))
        stack.enter_context(running_worker(settings, directory, "-c", "2", name="between"))
        doors = {"broker": broker_door, "backend": backend_door}
        yield TwoServers(House(settings, instance), doors)


@pytest.mark.parametrize("gone", ["broker", "backend"])
def test_where_one_of_two_servers_is_away_for_a_while_the_run_goes_on_after_it(
    two_servers: TwoServers, scratch: Scratch, gone: str
) -> None:
    """Both slots are free while it is away, and steps wait that nobody can take, or start."""
    house, door = two_servers.house, two_servers.doors[gone]
    outcome = house.create(server_jobs.two_generations, scratch)
    deeds: list[str] = []

    def close() -> None:
        if not deeds and scratch.count("held-began") == 2:
            deeds.append(gone)
            door.refuse()
            scratch.note("go")
            scratch.wait_for("held-ended", 2)
            eventually(lambda: outcome.says("does not answer"), "the outage is said")
            door.accept()

    house.execute(outcome, server_jobs.two_generations, meanwhile=close)
    assert deeds == [gone]
    assert outcome.status is SUCCESS
    assert outcome.says("answer again")
    assert (scratch.count("held-began"), scratch.count("held-ended")) == (2, 2)
    assert sorted(scratch.lines("quick")) == QUICK
    assert sorted(scratch.lines("after")) == server_jobs.AFTER
