"""What a project may set on its broker, and what is refused at once."""

import asyncio
import json
import uuid
from datetime import date
from typing import Annotated, Any

import orjson
import pytest
from taskiq import (
    BrokerMessage,
    Context,
    InMemoryBroker,
    SmartRetryMiddleware,
    TaskiqDepends,
    TaskiqMessage,
    TaskiqMiddleware,
)
from taskiq.abc.serializer import TaskiqSerializer
from taskiq.exceptions import NoResultError, SendTaskError
from taskiq.formatters.json_formatter import JSONFormatter
from taskiq.kicker import AsyncKicker
from taskiq.serializers import JSONSerializer, ORJSONSerializer, PickleSerializer

from dagster_taskiq import app
from dagster_taskiq.client import call, send
from dagster_taskiq.errors import ConfigError, MiddlewareError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.message_labels import outgoing_of
from dagster_taskiq.transport.registry import make_backend
from dagster_taskiq.wire.labels import SENT_LABEL
from dagster_taskiq.wire.records import TaskState


@pytest.fixture
def broker() -> QueueBroker:
    return app.make(Settings(broker=f"memory://{uuid.uuid4().hex}"))


def restored(value: dict[str, Any]) -> Any:
    return date.fromisoformat(value["date"]) if "date" in value else value


class Tagged(TaskiqSerializer):
    """A project's own: JSON, with a form for what JSON has none."""

    def dumpb(self, value: Any) -> bytes:
        return json.dumps(value, default=lambda each: {"date": each.isoformat()}).encode()

    def loadb(self, value: bytes) -> Any:
        return json.loads(value, object_hook=restored)


@pytest.mark.parametrize(
    "serializer",
    [JSONSerializer(), ORJSONSerializer(), Tagged()],
    ids=lambda each: type(each).__name__,
)
def test_a_serializer_of_json_writes_what_all_can_read(
    serializer: TaskiqSerializer, broker: QueueBroker
) -> None:
    assert broker.with_serializer(serializer) is broker
    message = TaskiqMessage(task_id="t", task_name="n", labels={"l": 1}, args=["ü"], kwargs={})
    sent = JSONFormatter().loads(broker.formatter.dumps(message).message)
    assert sent.labels.pop(SENT_LABEL) > 0
    assert sent == message
    assert broker.formatter.loads(JSONFormatter().dumps(message).message) == message


def test_a_serializer_of_anything_else_is_refused(broker: QueueBroker) -> None:
    with pytest.raises(ConfigError, match=r"PickleSerializer .* ORJSONSerializer"):
        broker.with_serializer(PickleSerializer())
    assert isinstance(broker.serializer, JSONSerializer)


def test_a_formatter_of_taskiqs_messages_is_used(broker: QueueBroker) -> None:
    assert broker.with_formatter(JSONFormatter()) is broker


def test_a_formatter_of_other_messages_is_refused(broker: QueueBroker) -> None:
    class Bare(JSONFormatter):
        def dumps(self, message: TaskiqMessage) -> BrokerMessage:
            body = orjson.dumps(message.args)
            return BrokerMessage(
                task_id=message.task_id, task_name=message.task_name, message=body, labels={}
            )

    with pytest.raises(ConfigError, match="Bare cannot be the formatter"):
        broker.with_formatter(Bare())


def test_a_backend_of_another_kind_is_refused(broker: QueueBroker) -> None:
    with pytest.raises(ConfigError, match="DAGSTER_TASKIQ_BACKEND"):
        broker.with_result_backend(InMemoryBroker().result_backend)
    ours = make_backend(broker.settings)
    assert broker.with_result_backend(ours).result_backend is ours


@pytest.mark.parametrize("priority", ["high", 1.5])
def test_a_priority_that_is_no_number_is_refused(
    priority: str | float, broker: QueueBroker
) -> None:
    @broker.task
    def work() -> None:
        """Do nothing."""

    kicker = work.kicker().with_labels(priority=priority)
    with pytest.raises(ConfigError, match=f"{priority!r}.*Higher runs first") as direct:
        send(kicker)
    assert "dagster-taskiq/priority" in str(direct.value)
    with pytest.raises(SendTaskError) as caught:
        asyncio.run(kicker.kiq())
    assert str(caught.value.__cause__) == str(direct.value)


def test_a_serializer_restores_what_it_has_a_form_for(broker: QueueBroker) -> None:
    broker.with_serializer(Tagged())

    @broker.task
    def year(of: Any) -> int:
        return int(of.year)

    assert call(year, {"date": "2026-11-29"}) == 2026


# -- in memory ---------------------------------------------------------------------------------


def test_a_broker_in_memory_executes_a_task_where_it_is_sent(broker: QueueBroker) -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    @broker.task
    async def outer(number: int) -> int:
        loops.append(asyncio.get_running_loop())
        sent = await inner.kiq(number)
        return (await sent.wait_result(0.01, 10)).raise_for_error().return_value + 1

    @broker.task
    def inner(number: int) -> int:
        return number * 2

    async def use() -> None:
        sent = await outer.kiq(3)
        assert (await sent.get_result()).raise_for_error().return_value == 7
        assert loops == [asyncio.get_running_loop()]

    asyncio.run(use())
    assert call(outer, 4) == 9


def test_in_memory_a_task_that_is_sent_again_is_executed_again(broker: QueueBroker) -> None:
    broker.add_middlewares(SmartRetryMiddleware(default_retry_count=5, default_delay=3600))
    seen: list[int] = []

    @broker.task(retry_on_error=True)
    async def flaky(context: Annotated[Context, TaskiqDepends()]) -> int:
        seen.append(int(context.message.labels.get("_retries", 0)))
        if len(seen) < 3:
            raise ConnectionError("not yet")
        if len(seen) == 3:
            await context.requeue()
        return len(seen)

    kicker: AsyncKicker[..., Any] = flaky.kicker()
    assert call(kicker) == 4
    assert seen == [0, 1, 2, 2]


def test_in_memory_a_task_that_asks_for_no_result_has_none(broker: QueueBroker) -> None:
    @broker.task
    async def silent() -> None:
        raise NoResultError

    sent = send(silent)
    assert (sent.state, sent.is_ready()) == (TaskState.WAITING, False)


def test_in_memory_a_middleware_that_raises_fails_its_task(broker: QueueBroker) -> None:
    class Raising(TaskiqMiddleware):
        def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
            raise LookupError("not this one")

    broker.add_middlewares(Raising())

    @broker.task
    async def work() -> None:
        """Do nothing."""

    with pytest.raises(MiddlewareError, match="not this one"):
        call(work)


# -- the queue of a message ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "labels"), [("shop:mail", {}), ("execute_plan", {"run_id": "r", "step_key": "s"})]
)
def test_the_queue_of_launched_runs_is_refused_for_a_step_or_an_own_task(
    name: str, labels: dict[str, str]
) -> None:
    message = BrokerMessage(
        task_id="t", task_name=name, message=b"", labels={**labels, "queue_name": "a:runs"}
    )
    with pytest.raises(ConfigError, match=r"for launched runs\. Name the queue 'a', or another"):
        outgoing_of(message, "dagster")


def test_an_empty_queue_is_the_default_one_and_a_run_has_its_own() -> None:
    message = BrokerMessage(
        task_id="t", task_name="shop:mail", message=b"", labels={"queue_name": ""}
    )
    assert outgoing_of(message, "dagster").queue == "dagster"
    message = BrokerMessage(
        task_id="t",
        task_name="execute_job",
        message=b"",
        labels={"queue_name": "a:runs", "run_id": "r"},
    )
    assert outgoing_of(message, "dagster").queue == "a:runs"
