"""What is called on any event loop is done on one, as if it had been called there."""

import asyncio
import contextvars
import threading
import uuid

import pytest
from taskiq import BrokerMessage, TaskiqEvents, TaskiqMiddleware, TaskiqState

from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport import registry
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.home_loop import background, move_here

who = contextvars.ContextVar("who", default="nobody")

MESSAGE = BrokerMessage(task_id="t", task_name="t", message=b"{}", labels={})


@pytest.fixture
def broker() -> QueueBroker:
    return registry.make(Settings(broker=f"memory://{uuid.uuid4().hex}", connect_timeout=0.5))


def test_the_context_of_the_caller_goes_along(
    broker: QueueBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []

    async def put_all(_: object) -> None:
        seen.append((who.get(), asyncio.get_running_loop() is background().loop))

    monkeypatch.setattr(broker, "put_all", put_all)

    async def send() -> None:
        who.set("me")
        await broker.kick(MESSAGE)

    asyncio.run(send())
    background().portal.call(send)
    assert seen == [("me", True), ("me", True)]


def test_a_connection_is_opened_in_nobodys_context(
    broker: QueueBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    async def open_connection() -> None:
        seen.append(who.get())

    monkeypatch.setattr(broker.connection, "open", open_connection)

    async def send() -> None:
        who.set("me")
        await asyncio.gather(broker.kick(MESSAGE), broker.kick(MESSAGE))
        await broker.kick(MESSAGE)

    asyncio.run(send())
    assert seen == ["nobody"]


def test_a_call_that_is_cancelled_is_cancelled_where_it_is_done(
    broker: QueueBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, cancelled = threading.Event(), threading.Event()

    async def put_all(_: object) -> None:
        began.set()
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    monkeypatch.setattr(broker, "put_all", put_all)

    async def send() -> None:
        sending = asyncio.ensure_future(broker.kick(MESSAGE))
        await asyncio.to_thread(began.wait, 60)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending

    asyncio.run(send())
    assert cancelled.wait(60)


def test_hooks_of_the_startup_run_on_the_loop_of_the_caller(broker: QueueBroker) -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    class Noting(TaskiqMiddleware):
        async def startup(self) -> None:
            loops.append(asyncio.get_running_loop())

    async def note(_: TaskiqState) -> None:
        loops.append(asyncio.get_running_loop())

    broker.add_event_handler(TaskiqEvents.CLIENT_STARTUP, note)
    broker.add_event_handler(TaskiqEvents.CLIENT_SHUTDOWN, note)

    async def use() -> asyncio.AbstractEventLoop:
        await broker.startup()
        await broker.shutdown()
        return asyncio.get_running_loop()

    broker.add_middlewares(Noting())
    used = asyncio.run(use())
    assert loops == [used] * 3


@pytest.mark.parametrize("is_started", [False, True], ids=["at its first use", "after startup"])
def test_a_server_that_does_not_answer_is_asked_again_the_next_time(
    broker: QueueBroker, monkeypatch: pytest.MonkeyPatch, is_started: bool
) -> None:
    if is_started:
        asyncio.run(broker.startup())

    async def answer_never() -> None:
        await asyncio.sleep(600)

    with monkeypatch.context() as patch:
        patch.setattr(broker, "ping", answer_never)
        with pytest.raises(ServerUnavailableError, match="no answer within"):
            asyncio.run(broker.kick(MESSAGE))
    asyncio.run(broker.kick(MESSAGE))
    assert [each.waiting for each in background().portal.call(broker.depths)] == [1]


def test_the_loop_that_a_worker_runs_on_does_everything_itself(
    broker: QueueBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    async def put_all(_: object) -> None:
        loops.append(asyncio.get_running_loop())

    monkeypatch.setattr(broker, "put_all", put_all)

    async def work() -> None:
        broker.use_running_loop()
        await broker.startup()
        await broker.kick(MESSAGE)
        await asyncio.to_thread(asyncio.run, broker.kick(MESSAGE))
        await broker.shutdown()
        assert loops == [asyncio.get_running_loop()] * 2

    asyncio.run(work())


def test_a_connection_moves_when_nobody_uses_it_and_others_wait(
    broker: QueueBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    did: list[tuple[str, bool]] = []
    began, may_end = threading.Event(), threading.Event()
    close = broker.connection.close

    async def close_connection() -> None:
        did.append(("closed", True))
        await close()

    monkeypatch.setattr(broker.connection, "close", close_connection)

    async def use(name: str) -> None:
        async def work() -> None:
            is_first = name == "first"
            while is_first and not may_end.is_set():
                began.set()
                await asyncio.sleep(0.005)
            did.append((name, asyncio.get_running_loop() is background().loop))

        await broker.home.run(work)

    first = threading.Thread(target=asyncio.run, args=(use("first"),))
    first.start()
    began.wait()

    async def move() -> None:
        moving = asyncio.ensure_future(move_here([broker.home]))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(use("second"))
        await asyncio.sleep(0.05)
        assert did == []
        may_end.set()
        await asyncio.gather(moving, second)
        await broker.home.leave()

    asyncio.run(move())
    first.join()
    assert did[:3] == [("first", True), ("closed", True), ("second", False)]
