"""A user's own tasks are sent from any event loop, thread and process, as often as one likes."""

import asyncio
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRunStatus
from taskiq import AsyncTaskiqTask
from taskiq.api import run_receiver_task
from taskiq.exceptions import SendTaskError
from taskiq.kicker import AsyncKicker

from compat_tests import sending_jobs
from compat_tests.checkout import ROOT
from compat_tests.conftest import make_settings
from compat_tests.executor.runs import House
from compat_tests.executor.scratch import Scratch
from compat_tests.servers import free_port
from compat_tests.waiting import eventually
from compat_tests.workers import running_worker
from dagster_taskiq import app, client
from dagster_taskiq.errors import ResultTimeoutError, ServerUnavailableError, TaskRevokedError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.home_loop import background
from dagster_taskiq.wire.records import TaskState

TASKS = "compat_tests.sending_tasks"


@pytest.fixture(scope="module")
def served(
    broker_kind: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Settings]:
    """Settings whose queue a worker serves, with slots for what waits and what it waits for."""
    directory = tmp_path_factory.mktemp(f"sending-{broker_kind}")
    settings = make_settings(broker_kind, directory, request)
    with running_worker(settings, directory, "-i", TASKS, "-c", "5", "--kill-grace", "2"):
        yield settings


@pytest.fixture
def broker(served: Settings) -> Iterator[QueueBroker]:
    """A broker as a project makes one; nothing has been started."""
    broker = app.make(served)
    yield broker
    asyncio.run(broker.shutdown())


async def send(broker: QueueBroker, name: str, *args: object) -> AsyncTaskiqTask[Any]:
    kicker: AsyncKicker[Any, Any] = AsyncKicker(f"{TASKS}:{name}", broker, {})
    return await kicker.kiq(*args)


async def value_of(broker: QueueBroker, name: str, *args: object) -> Any:
    sent = await send(broker, name, *args)
    result = await sent.wait_result(check_interval=0.02, timeout=90)
    return result.raise_for_error().return_value


def test_each_event_loop_sends_with_or_without_a_startup(broker: QueueBroker) -> None:
    assert asyncio.run(value_of(broker, "add", 1, 2)) == 3

    async def started() -> int:
        await broker.startup()
        try:
            return int(await value_of(broker, "add", 3, 4))
        finally:
            await broker.shutdown()

    for _ in range(2):
        assert asyncio.run(started()) == 7
        assert asyncio.run(value_of(broker, "add", 5, 6)) == 11


def test_threads_send_at_the_same_time(broker: QueueBroker) -> None:
    def one(number: int) -> int:
        return int(asyncio.run(value_of(broker, "add", number, 1)))

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(one, range(16))) == list(range(1, 17))


def test_a_plain_task_and_an_async_one_send_others(broker: QueueBroker) -> None:
    assert asyncio.run(value_of(broker, "plain", 1, 2)) == [3, 3, 3]
    assert asyncio.run(value_of(broker, "in_a_coroutine", 1, 2)) == [3, 3]


def test_ops_of_a_dagster_job_send_own_tasks(
    served: Settings, instance: DagsterInstance, tmp_path: Path
) -> None:
    outcome = House(served, instance).run(sending_jobs.sending_job, Scratch(tmp_path))
    assert outcome.status is DagsterRunStatus.SUCCESS


def test_a_loop_that_begins_to_receive_has_what_is_sent_meanwhile(served: Settings) -> None:
    """taskiq's own way to receive in a process that does other things too, and sends."""
    broker = app.make(served.replace(queue="received"))

    @broker.task(task_name="double")
    async def double(number: int) -> int:
        return number * 2

    async def use() -> None:
        await broker.startup()
        sending = [asyncio.ensure_future(double.kiq(number)) for number in range(5)]
        receiving = asyncio.ensure_future(run_receiver_task(broker))
        for number, sent in enumerate(await asyncio.gather(*sending)):
            result = await sent.wait_result(check_interval=0.02, timeout=60)
            assert result.raise_for_error().return_value == number * 2
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)
        await broker.shutdown()

    asyncio.run(use())


def test_a_process_that_sends_becomes_a_worker(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    broker = app.make(make_settings("redis", tmp_path, request).replace(include=(TASKS,)))

    async def use() -> None:
        await task(broker, "add").kiq(0, 0)
        sending = [asyncio.ensure_future(task(broker, "add").kiq(n, 1)) for n in range(5)]
        receiving = asyncio.ensure_future(run_receiver_task(broker, run_startup=True))
        for number, sent in enumerate(await asyncio.gather(*sending)):
            result = await sent.wait_result(check_interval=0.02, timeout=60)
            assert result.raise_for_error().return_value == number + 1
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)
        await broker.shutdown()

    asyncio.run(use())


# -- synchronous code --------------------------------------------------------------------------


def task(broker: QueueBroker, name: str) -> AsyncKicker[..., Any]:
    return AsyncKicker(f"{TASKS}:{name}", broker, {})


def test_synchronous_code_calls_tasks(broker: QueueBroker) -> None:
    assert client.call(task(broker, "add"), 1, b=2) == 3
    sent = client.send(task(broker, "call_others"), 1, 2)
    assert sent.result(timeout=90) == [3, 4]
    assert (sent.state, sent.is_ready()) == (TaskState.SUCCESS, True)
    # Another process finds it by its id.
    assert client.SentTask[list[int]](sent.id, broker).result() == [3, 4]


def test_synchronous_code_gets_the_error_of_a_task(broker: QueueBroker) -> None:
    with pytest.raises(LookupError, match="not there"):
        client.call(task(broker, "fail"), "not there")


def test_a_result_is_waited_for_no_longer_than_wanted(broker: QueueBroker, tmp_path: Path) -> None:
    unserved = client.send(task(broker, "add").with_labels(queue_name="nobody"), 1, 2)
    with pytest.raises(ResultTimeoutError, match=f"{unserved.id}.*No worker has started it"):
        unserved.result(timeout=0.05)
    assert not unserved.is_ready()
    unserved.cancel()
    started = tmp_path / "started"
    running = client.send(task(broker, "say_and_sleep"), str(started))
    eventually(started.exists)
    with pytest.raises(TimeoutError, match=f"{running.id}.*It has started, and goes on"):
        running.result(timeout=0.05)
    running.cancel()


def test_a_task_is_cancelled_before_it_starts_and_while_it_runs(
    broker: QueueBroker, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    running = client.send(task(broker, "say_and_sleep"), str(started))
    waiting = client.send(task(broker, "add").with_labels(queue_name="nobody"), 1, 2)
    late = client.send(task(broker, "add").with_labels(delay=0.5), 1, 2)
    eventually(started.exists)
    asyncio.run(broker.cancel([waiting.id, late.id], "the order was withdrawn"))
    running.cancel("it takes too long")
    for each in (waiting, late):
        with pytest.raises(TaskRevokedError, match="the order was withdrawn"):
            each.result(timeout=60)
    with pytest.raises(TaskRevokedError, match="it takes too long"):
        running.result(timeout=60)
    assert {each.state for each in (running, waiting, late)} == {TaskState.REVOKED}


def test_the_door_of_synchronous_code_is_closed_to_the_loop_behind_it(
    broker: QueueBroker,
) -> None:
    async def wrong() -> None:
        client.send(task(broker, "add"), 1, 2)

    with pytest.raises(RuntimeError, match=r"await task\.kiq"):
        background().portal.call(wrong)


# -- processes ---------------------------------------------------------------------------------


def script(text: str) -> str:
    head = """
        import asyncio, json, os, sys, threading, time
        from dagster_taskiq import app
        from dagster_taskiq.settings.settings import Settings
        from taskiq.kicker import AsyncKicker

        broker = app.make(Settings.from_dict(json.loads(sys.argv[1])))

        async def value(a, b):
            sent = await AsyncKicker("compat_tests.sending_tasks:add", broker, {}).kiq(a, b)
            return (await sent.wait_result(0.02, 60)).raise_for_error().return_value
    """
    return textwrap.dedent(head) + textwrap.dedent(text)


def run(settings: Settings, text: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", script(text), json.dumps(settings.to_dict())]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_script_that_sends_ends_in_silence(served: Settings) -> None:
    ended = run(
        served,
        """
        print([asyncio.run(value(1, each)) for each in (2, 3)])
        """,
    )
    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (0, "[3, 4]", "")


def test_a_process_ends_while_something_is_sent(served: Settings) -> None:
    ended = run(
        served,
        """
        done = []

        def for_ever():
            while True:
                done.append(asyncio.run(value(1, 2)))

        print(asyncio.run(value(1, 2)))
        for _ in range(3):
            threading.Thread(target=for_ever, daemon=True).start()
        while len(done) < 3:
            time.sleep(0.01)
        """,
    )
    assert (ended.returncode, ended.stdout.strip()) == (0, "3")


def test_a_forked_process_sends_unless_it_inherited_a_connection(served: Settings) -> None:
    ended = run(
        served,
        """
        def forked(work):
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                try:
                    print(work())
                except BaseException as error:
                    print(type(error.__cause__).__name__, error.__cause__)
                sys.exit(0)
            assert os.waitpid(pid, 0)[1] == 0

        send = lambda: asyncio.run(value(1, 2))
        forked(send)
        print(send())
        forked(send)
        asyncio.run(broker.shutdown())
        forked(send)
        print(send())
        """,
    )
    lines = ended.stdout.splitlines()
    assert ended.returncode == 0, ended.stderr
    assert [each for each in lines if each.isdigit()] == ["3"] * 4
    (refused,) = (each for each in lines if not each.isdigit())
    assert refused.startswith("ForkedProcessError")
    assert "await broker.shutdown()" in refused


# -- servers that are away -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3cret@127.0.0.1:{port}/0",
        "amqp://me:s3cret@127.0.0.1:{port}//",
        "postgresql://me:s3cret@127.0.0.1:{port}/db",
    ],
    ids=lambda url: str(url).partition(":")[0],
)
def test_what_cannot_be_sent_says_where_and_why(url: str) -> None:
    broker = app.make(Settings(broker=url.format(port=free_port()), connect_timeout=2.0))
    with pytest.raises(SendTaskError) as caught:
        asyncio.run(send(broker, "add", 1, 2))
    with pytest.raises(ServerUnavailableError) as direct:
        client.send(task(broker, "add"), 1, 2)
    for error in (caught.value.__cause__, direct.value):
        assert isinstance(error, ServerUnavailableError)
        assert "127.0.0.1" in str(error)
        assert "Check that" in str(error)
        assert "s3cret" not in str(error)
