"""What a project may set on its broker, and what is refused at once."""

import asyncio
import json
import uuid
from datetime import datetime
from typing import Any

import orjson
import pytest
from taskiq import BrokerMessage, InMemoryBroker, TaskiqMessage
from taskiq.abc.serializer import TaskiqSerializer
from taskiq.exceptions import SendTaskError
from taskiq.formatters.json_formatter import JSONFormatter
from taskiq.serializers import JSONSerializer, ORJSONSerializer, PickleSerializer

from dagster_taskiq import app
from dagster_taskiq.client import send
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.registry import make_backend


@pytest.fixture
def broker() -> QueueBroker:
    return app.make(Settings(broker=f"memory://{uuid.uuid4().hex}"))


class Tagged(TaskiqSerializer):
    """A project's own: JSON, with a form for what JSON has none."""

    def dumpb(self, value: Any) -> bytes:
        return json.dumps(value, default=lambda each: {"when": each.isoformat()}).encode()

    def loadb(self, value: bytes) -> Any:
        return json.loads(value)


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
    body = broker.formatter.dumps(message).message
    assert JSONFormatter().loads(body) == message
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


def test_what_a_serializer_has_a_form_for_is_sent(broker: QueueBroker) -> None:
    broker.with_serializer(ORJSONSerializer())

    @broker.task
    def work(when: datetime) -> None:
        """Do nothing."""

    assert send(work, datetime(2026, 1, 1)).id
