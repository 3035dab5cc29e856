"""Servers that freeze, hang up, stay away and come back while a run needs them: each step once.

The cases of RabbitMQ stand in ``executor/test_rabbitmq_faults.py``, a restart of Redis in
``executor/test_faults.py``. Here are the other cases of Redis, broker and backend on two servers of
which one goes away, and answers that get lost after the server has done what it was asked.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRunStatus

from compat_tests.executor import fault_jobs
from compat_tests.executor.conftest import make_instance
from compat_tests.executor.runs import House, Outcome
from compat_tests.executor.scratch import Scratch, eventually
from compat_tests.executor.test_rabbitmq_faults import (
    FIFTY,
    QUICK,
    assert_each_once,
    tasks_out_of_reach,
)
from compat_tests.faults.conftest import Figure
from compat_tests.proxy import Proxy, proxy_to
from compat_tests.sending import USER_TASKS, Sender, open_sender
from compat_tests.servers import RedisServer, own_redis
from compat_tests.workers import WorkerProcess, running_worker
from dagster_taskiq.backends import redis as redis_backend
from dagster_taskiq.brokers import redis as redis_broker
from dagster_taskiq.settings import Settings

SUCCESS = DagsterRunStatus.SUCCESS


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with own_redis() as server:
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


def digest(*scripts: Path) -> bytes:
    """Return how a script is called, once the server has it."""
    text = "\n".join(each.read_text() for each in scripts)
    return hashlib.sha1(text.encode()).hexdigest().encode()  # noqa: S324 - it is Redis's way


START = digest(redis_backend._LUA / "start.lua")
CLAIM = digest(redis_broker._ARRIVE, redis_broker._LUA / "claim.lua")


@pytest.mark.parametrize("script", [START, CLAIM], ids=["start", "claim"])
def test_a_redis_whose_answer_to_a_worker_is_lost_has_the_task_run_once_all_the_same(
    patient: tuple[House, WorkerProcess],
    server: RedisServer,
    door: Proxy,
    scratch: Scratch,
    script: bytes,
    figure: Figure,
) -> None:
    """What was claimed comes at once, and not after the lease; what was started is run."""
    house, _ = patient
    with open_sender(house.changed(broker=server.url).settings) as sender:
        sender.value(sender.send("add", 1, 2))  # the worker's scripts are on the server
        door.lose_answers(script)
        since = time.monotonic()
        sent = [sender.send("note", str(scratch.directory / "notes")) for _ in range(4)]
        for each in sent:
            sender.value(each)
        figure("4 tasks, with one answer lost", f"{time.monotonic() - since:.1f} s")
    eventually(lambda: door.has_lost)
    assert scratch.count("notes") == 4
