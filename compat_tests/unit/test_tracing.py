"""Traces: which spans a message has, in whose place; and taskiq's own middleware beside them."""

import asyncio
import json
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler, SamplingResult
from taskiq import TaskiqMessage
from taskiq.middlewares.opentelemetry_middleware import OpenTelemetryMiddleware

from dagster_taskiq import app
from dagster_taskiq.client import client_for
from dagster_taskiq.execution.own_tasks import own_tasks_of
from dagster_taskiq.execution.perform import begin, perform
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.tracing import spans
from dagster_taskiq.transport import current
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.hooks import observed_sending
from dagster_taskiq.wire.task_names import EXECUTE_PLAN, HAND_OVER_RUN
from dagster_taskiq.wire.task_request import TaskRequest

BROKER = "redis://localhost:6379/0"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"

pytestmark = pytest.mark.anyio


class Exported:
    """The spans that have ended."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def named(self, name: str) -> list[ReadableSpan]:
        return [each for each in self._exporter.get_finished_spans() if each.name == name]

    def one(self, name: str) -> ReadableSpan:
        (found,) = self.named(name)
        return found


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Exported:
    """Configure a provider of traces for one test."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return Exported(exporter)


@pytest.fixture
def broker() -> QueueBroker:
    return app.make(Settings(broker=f"memory://{uuid.uuid4().hex}"))


@pytest.fixture
def project(broker: QueueBroker, monkeypatch: pytest.MonkeyPatch) -> Iterator[QueueBroker]:
    """A broker whose middlewares see what is sent."""
    monkeypatch.setattr(current, "_project", None)
    own_tasks = own_tasks_of(broker)
    current.use_project(current.Project(broker, own_tasks.start_hooks))
    yield broker
    own_tasks.shut_down()


def step(key: str, **labels: Any) -> TaskiqMessage:
    request = TaskRequest(
        id=f"r1:{key}:0", name=EXECUTE_PLAN, kwargs={}, queue="dagster", run_id="r1", step_key=key
    )
    message = request.message()
    message.labels.update(labels)
    return message


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def id_of(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def id_in(labels: dict[str, Any]) -> int:
    return int(labels["traceparent"].split("-")[2], 16)


def test_without_a_provider_nothing_is_imported_and_no_label_added() -> None:
    message = step("a")
    before = dict(message.labels)
    for name in [each for each in sys.modules if each == "dagster_taskiq.tracing.otel"]:
        del sys.modules[name]
    with spans.sending([message], BROKER, "dagster") as stamp:
        assert not stamp(message.labels)
    spans.begin_processing(message, BROKER, "w", time.time()).end()
    spans.begin_execution(message, "w").end()
    spans.begin_run("r1", "job", {}).end()
    spans.flush(1)
    assert message.labels == before
    assert "dagster_taskiq.tracing.otel" not in sys.modules


def test_steps_that_are_sent_at_once_are_one_span(exported: Exported) -> None:
    messages = [step(str(number)) for number in range(160)]
    with spans.sending(messages, BROKER, "dagster") as stamp:
        assert [stamp(each.labels) for each in messages] == [True] * 160
    sent = exported.one("send dagster")
    assert {id_in(each.labels) for each in messages} == {id_of(sent)}
    assert sent.kind is trace.SpanKind.PRODUCER
    assert sent.attributes is not None
    assert sent.attributes["messaging.batch.message_count"] == 160
    assert sent.attributes["messaging.system"] == "redis"
    assert sent.attributes["dagster.run_id"] == "r1"


def test_a_message_that_is_part_of_a_trace_stays_in_it(exported: Exported) -> None:
    message = step("again", traceparent=PARENT)
    with spans.sending([message], BROKER, "dagster") as stamp:
        assert not stamp(message.labels)
    assert message.labels["traceparent"] == PARENT
    assert not exported.named("send dagster")


def test_a_label_that_names_no_span_is_replaced(exported: Exported) -> None:
    message = step("a", traceparent="00-0-0-00")
    with spans.sending([message], BROKER, "dagster") as stamp:
        assert stamp(message.labels)
    assert id_in(message.labels) == id_of(exported.one("send dagster"))


def test_baggage_of_the_sender_arrives_in_the_step(exported: Exported) -> None:
    message = step("a")
    token = context.attach(baggage.set_baggage("tenant", "acme"))
    with spans.sending([message], BROKER, "dagster") as stamp:
        stamp(message.labels)
    context.detach(token)
    spans.begin_processing(message, BROKER, "w", None).end()
    with spans.executing(spans.begin_execution(message, "w")):
        assert baggage.get_baggage("tenant") == "acme"


async def test_async_tasks_beside_each_other_have_each_their_own_span(
    exported: Exported, broker: QueueBroker
) -> None:
    go_on = threading.Event()

    async def waits(name: str) -> None:
        with trace.get_tracer_provider().get_tracer("own").start_as_current_span(f"mine {name}"):
            await asyncio.to_thread(go_on.wait)

    broker.register_task(waits, task_name="waits")
    running = [
        begin(
            broker,
            TaskiqMessage(task_id=name, task_name="waits", labels={}, args=[name], kwargs={}),
        )
        for name in "ab"
    ]
    go_on.set()
    for each in running:
        await asyncio.wrap_future(each.future)
    ids = {
        each.attributes["messaging.message.id"]: id_of(each)
        for each in exported.named("task waits")
        if each.attributes
    }
    assert {name: parent_of(exported.one(f"mine {name}")) for name in "ab"} == ids


def test_the_time_in_the_queue_is_a_span_and_an_attribute(exported: Exported) -> None:
    message = step("a[7]", traceparent=PARENT)
    spans.begin_processing(message, "amqp://localhost", "w", time.time() - 5).end()
    waited, processed = exported.one("wait dagster"), exported.one("process dagster")
    assert waited.start_time is not None
    assert waited.end_time == processed.start_time
    assert 5e9 <= (waited.end_time or 0) - waited.start_time < 6e9
    assert processed.attributes is not None
    assert processed.attributes["dagster_taskiq.queue_seconds"] == pytest.approx(5, abs=1)
    assert processed.attributes["messaging.system"] == "rabbitmq"
    assert processed.attributes["dagster.step_key"] == "a[7]"
    assert {parent_of(waited), parent_of(processed)} == {int("b7ad6b7169203331", 16)}
    assert id_in(message.labels) == id_of(processed), "what comes next is its child"
    spans.begin_execution(message, "w").end()
    assert parent_of(exported.one("step a")) == id_of(processed)


def test_a_sender_whose_clock_is_ahead_has_not_waited_less_than_nothing(exported: Exported) -> None:
    spans.begin_processing(step("a"), BROKER, "w", time.time() + 60).end()
    waited = exported.one("wait dagster")
    assert waited.start_time == waited.end_time


@pytest.mark.parametrize("value", [1, None, ["x"], {"x": 1}, "x" * 100_000, "00-zz", "\ud800"])
def test_a_label_that_is_no_context_begins_a_new_trace(exported: Exported, value: Any) -> None:
    message = step("a", traceparent=value, tracestate=value)
    spans.begin_processing(message, BROKER, "w", None).end()
    assert parent_of(exported.one("process dagster")) is None


@pytest.mark.parametrize(
    ("tag", "parent"),
    [
        (json.dumps({"traceparent": PARENT}), int("b7ad6b7169203331", 16)),
        ("no JSON", None),
        ("[1]", None),
        ('{"traceparent": 7}', None),
    ],
)
def test_a_run_may_belong_to_a_trace_of_another_system(
    exported: Exported, tag: str, parent: int | None
) -> None:
    tags = {"dagster_otel/external_trace_context": tag}
    spans.begin_run("r1", "job", tags).end()
    assert parent_of(exported.one("run job")) == parent
    with spans.part_of_trace(tags), spans.sending([step("a")], BROKER, "dagster"):
        pass
    assert parent_of(exported.one("send dagster")) == parent


def test_what_a_task_raises_and_its_own_spans_are_in_its_span(
    exported: Exported, broker: QueueBroker
) -> None:
    async def fails() -> None:
        with trace.get_tracer_provider().get_tracer("own").start_as_current_span("mine"):
            raise ValueError("no eggs")

    broker.register_task(fails, task_name="fails")
    message = TaskiqMessage(
        task_id="t", task_name="fails", labels={"traceparent": PARENT}, args=[], kwargs={}
    )
    perform(broker, message)
    executed, mine = exported.one("task fails"), exported.one("mine")
    assert parent_of(mine) == id_of(executed)
    assert (executed.status.status_code, executed.status.description) == (
        trace.StatusCode.ERROR,
        "no eggs",
    )
    assert executed.events[0].name == "exception"
    assert executed.parent is not None
    assert f"{executed.parent.trace_id:032x}" == TRACE_ID


def test_a_users_own_task_that_is_sent_carries_the_context(
    exported: Exported, broker: QueueBroker
) -> None:
    client = client_for(broker.settings)
    client.submit(TaskRequest(id="t", name="own", kwargs={}, queue="dagster"))
    tasks = client.in_process
    assert tasks is not None
    claimed = tasks.claim()
    assert claimed is not None
    assert id_in(claimed[0].labels) == id_of(exported.one("send dagster"))


def test_what_a_worker_sends_for_a_run_that_it_gives_up_stays_in_its_trace(
    exported: Exported,
) -> None:
    message = TaskiqMessage(
        task_id="t",
        task_name=HAND_OVER_RUN,
        labels=spans.context_of(step("a", traceparent=PARENT).labels),
        args=[],
        kwargs={},
    )
    with (
        spans.executing(spans.begin_execution(message, "w")),
        spans.sending([step("b")], BROKER, "dagster"),
    ):
        pass
    assert parent_of(exported.one("send dagster")) == int("b7ad6b7169203331", 16)


def test_an_error_of_a_part_of_opentelemetry_stops_no_work(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            raise OSError("the processor is broken")

    class Refuses(Sampler):
        def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
            raise OSError("the sampler is broken")

        def get_description(self) -> str:
            return "broken"

    for broken in (TracerProvider(), TracerProvider(sampler=Refuses())):
        broken.add_span_processor(Broken())
        monkeypatch.setattr(trace, "get_tracer_provider", lambda broken=broken: broken)
        message = step("a")
        with spans.sending([message], BROKER, "dagster") as stamp:
            stamp(message.labels)
        spans.begin_processing(message, BROKER, "w", time.time()).end()
        span = spans.begin_execution(message, "w")
        with spans.executing(span):
            spans.note_failure("failed", "no eggs")
        span.end()
        spans.begin_run("r1", "job", {}).end()
    errors = [each for each in caplog.records if each.levelname == "ERROR"]
    assert len(errors) == 2, "each is logged once"


def test_taskiqs_own_middleware_sees_steps_that_are_sent_each_by_itself(
    exported: Exported, project: QueueBroker
) -> None:
    project.add_middlewares(OpenTelemetryMiddleware())
    messages = [step(key) for key in "abc"]
    with observed_sending(messages):
        assert len({id_in(each.labels) for each in messages}) == 3
        assert not exported.named(f"send/{EXECUTE_PLAN}")
    sent = exported.named(f"send/{EXECUTE_PLAN}")
    assert {id_of(each) for each in sent} == {id_in(each.labels) for each in messages}
    assert [parent_of(each) for each in sent] == [None] * 3, "none is within another"


def test_taskiqs_own_middleware_sees_a_step_from_its_start_to_its_end(
    exported: Exported, project: QueueBroker
) -> None:
    project.add_middlewares(OpenTelemetryMiddleware())
    project.register_task(lambda: None, task_name=EXECUTE_PLAN)
    perform(project, step("a"))
    executed = exported.one(f"execute/{EXECUTE_PLAN}")
    assert parent_of(executed) == id_of(exported.one("step a"))
