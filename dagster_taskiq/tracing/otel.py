"""Spans, by the API of OpenTelemetry. Imported only by :mod:`dagster_taskiq.tracing.spans`.

Names and kinds of spans and attributes are those of OpenTelemetry's conventions for messaging, in
the version of 2025, as far as they have a word for it.
"""

import json
import threading
import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import Any

from opentelemetry import context as contexts
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.util.types import AttributeValue

from dagster_taskiq.settings.urls import scheme_of
from dagster_taskiq.tracing.span import REASON_LENGTH, Message, Span, Stamp, tried
from dagster_taskiq.version import __version__
from dagster_taskiq.wire.labels import JOB_LABEL, QUEUE_LABEL, RUN_LABEL, STEP_LABEL, attempt_of
from dagster_taskiq.wire.step_task_ids import is_step_task_id
from dagster_taskiq.wire.task_names import INTERNAL, is_own_task

#: The words for ``messaging.system``, by the schemes of brokers; else it is the scheme.
_SYSTEMS = {
    "amqp": "rabbitmq",
    "amqps": "rabbitmq",
    "sqs": "aws_sqs",
    "rediss": "redis",
    "unix": "redis",
    "redis+sentinel": "redis",
}
#: The tag of a run with the context of the trace to which it belongs, as a JSON object of what W3C
#: has as headers. It is the one that the package dagster-otel reads.
TRACE_TAG = "dagster_otel/external_trace_context"

Attributes = dict[str, AttributeValue]


@lru_cache(maxsize=1)
def _tracer_of(provider: TracerProvider) -> trace.Tracer:
    return provider.get_tracer("dagster_taskiq", __version__)


def _tracer() -> trace.Tracer:
    return _tracer_of(trace.get_tracer_provider())


class OpenSpan(Span):
    """A span that has begun."""

    def __init__(self, span: trace.Span, parent: Context) -> None:
        self._span = span
        #: The context of its children, with the baggage that its parent's has.
        self.context = trace.set_span_in_context(span, parent)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Let the spans that begin in the block be its children."""
        with _attached(self.context):
            yield

    def note(self, name: str, value: str) -> None:
        """Give it an attribute."""
        tried(None, self._span.set_attribute, name, value)

    def note_failure(self, kind: str, reason: str) -> None:
        """Note that what it stands for has failed."""
        self.note("error.type", kind)
        failed = Status(StatusCode.ERROR, reason[:REASON_LENGTH])
        tried(None, self._span.set_status, failed)

    def note_error(self, error: BaseException) -> None:
        """Note the error with which it has failed, with its traceback."""
        tried(None, self._span.record_exception, error)
        self.note_failure(type(error).__name__, str(error))

    def end(self) -> None:
        """End it."""
        tried(None, self._span.end)


class ContinuedSpan(Span):
    """A span that has begun in another process."""

    def __init__(self, labels: Mapping[str, Any]) -> None:
        self._context = _extract(labels)

    def attached(self) -> AbstractContextManager[None]:
        """Let the spans that begin in the block be its children."""
        return _attached(self._context)


def has_context(labels: Mapping[str, Any]) -> bool:
    """Return whether labels have the context of a trace."""
    if not any(field in labels for field in propagate.get_global_textmap().fields):
        return False
    return trace.get_current_span(_extract(labels, Context())).get_span_context().is_valid


def context_of(labels: Mapping[str, Any]) -> dict[str, Any]:
    """Return the labels that are the context of a trace."""
    fields = propagate.get_global_textmap().fields
    return {field: labels[field] for field in fields if field in labels}


def begin_sending(
    messages: Sequence[Message], broker: str, default_queue: str
) -> tuple[Span, Stamp] | None:
    """Begin the span in which messages are sent; ``None`` if all of them have a context.

    Args:
        messages: the messages.
        broker: the URL of the broker.
        default_queue: the queue of a message whose labels name none.

    Returns:
        The span, and what puts it into the labels of a message.
    """
    new = [each for each in messages if not has_context(each.labels)]
    if not new:
        return None
    attributes = _messaging("send", broker)
    name = "send"
    queues = {str(each.labels.get(QUEUE_LABEL) or default_queue) for each in new}
    if len(queues) == 1:
        (queue,) = queues
        name, attributes["messaging.destination.name"] = f"send {queue}", queue
    if len(new) == 1:
        attributes |= _of_message(new[0])
    else:
        attributes["messaging.batch.message_count"] = len(new)
        for label, attribute in ((RUN_LABEL, "dagster.run_id"), (JOB_LABEL, "dagster.job_name")):
            values = {str(each.labels.get(label) or "") for each in new}
            if len(values) == 1 and all(values):
                attributes[attribute] = values.pop()
    parent = contexts.get_current()
    started = _tracer().start_span(name, parent, kind=SpanKind.PRODUCER, attributes=attributes)
    span = OpenSpan(started, parent)
    carrier: dict[str, str] = {}
    propagate.inject(carrier, span.context)

    def stamp(labels: MutableMapping[str, Any]) -> bool:
        if not carrier or tried(True, has_context, labels):
            return False
        labels.update(carrier)
        return True

    return span, stamp


def begin_processing(message: Message, broker: str, worker: str, due_at: float | None) -> Span:
    """Begin the span of a message in the parent of a worker."""
    parent = _extract(message.labels)
    queue = str(message.labels.get(QUEUE_LABEL) or "")
    attributes = {
        **_messaging("process", broker),
        **_of_message(message),
        "dagster_taskiq.worker": worker,
        "dagster_taskiq.attempt": _attempt_of(message),
    }
    if queue:
        attributes["messaging.destination.name"] = queue
    now = time.time()
    if due_at is not None:
        waited = max(0.0, now - due_at)
        attributes["dagster_taskiq.queue_seconds"] = round(waited, 3)
        waiting = _tracer().start_span(
            f"wait {queue}".rstrip(),
            parent,
            attributes=_of_message(message),
            start_time=_nanoseconds(now - waited),
        )
        waiting.end(_nanoseconds(now))
    span = _tracer().start_span(
        f"process {queue}".rstrip(),
        parent,
        kind=SpanKind.CONSUMER,
        attributes=attributes,
        start_time=_nanoseconds(now),
    )
    return _in_labels(OpenSpan(span, parent), message)


def begin_execution(message: Message, worker: str) -> Span:
    """Begin the span of a task in the process that executes it."""
    if message.task_name in INTERNAL:
        return ContinuedSpan(message.labels)
    step = str(message.labels.get(STEP_LABEL) or "")
    if step:
        name = f"step {step.partition('[')[0]}"  # there are as many mapping keys as there are data
    elif is_own_task(message.task_name, message.labels):
        name = f"task {message.task_name}"
    else:
        name = f"run {message.labels.get(JOB_LABEL) or ''}".rstrip()
    attributes = {
        **_of_message(message),
        "dagster_taskiq.worker": worker,
        "dagster_taskiq.attempt": _attempt_of(message),
    }
    parent = _extract(message.labels)
    span = _tracer().start_span(name, parent, attributes=attributes)
    return _in_labels(OpenSpan(span, parent), message)


def begin_run(run_id: str, job: str, tags: Mapping[str, str]) -> Span:
    """Begin the span of a run in a process that is no worker's."""
    attributes: Attributes = {"dagster.run_id": run_id, "dagster.job_name": job}
    parent = _named(tags)
    return OpenSpan(_tracer().start_span(f"run {job}", parent, attributes=attributes), parent)


def part_of_trace(tags: Mapping[str, str]) -> AbstractContextManager[None]:
    """Let the spans that begin in the block belong to the trace that the tags of a run name."""
    return _attached(_named(tags))


def flush(seconds: float) -> None:
    """Have the spans of this process exported that have ended."""
    _call_of_provider("force_flush", seconds)


def finish(seconds: float) -> None:
    """Have the spans of this process exported, which makes no more and ends now."""
    _call_of_provider("shutdown", seconds)


def _call_of_provider(name: str, seconds: float) -> None:
    """Call a method that the providers of the SDK have; wait for it no longer than that."""
    method = getattr(trace.get_tracer_provider(), name, None)
    if method is None:
        return
    # In a thread: the SDK waits for its exporter, whatever time it is given.
    thread = threading.Thread(target=method, name="dagster-taskiq-spans", daemon=True)
    thread.start()
    thread.join(seconds)


@contextmanager
def _attached(context: Context) -> Iterator[None]:
    token = contexts.attach(context)
    try:
        yield
    finally:
        contexts.detach(token)


def _in_labels(span: OpenSpan, message: Message) -> Span:
    """Put the context of a span into the labels of a message."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier, span.context)
    message.labels.update(carrier)
    return span


def _extract(labels: Mapping[str, Any], otherwise: Context | None = None) -> Context:
    """Return the context in the labels of a message; if there is none, another or the current."""
    return propagate.extract({k: v for k, v in labels.items() if isinstance(v, str)}, otherwise)


def _named(tags: Mapping[str, str]) -> Context:
    """Return the context that the tags of a run name; the current one if they name none."""
    try:
        carrier = json.loads(tags[TRACE_TAG])
    except (KeyError, ValueError):
        return contexts.get_current()
    return _extract(carrier) if isinstance(carrier, dict) else contexts.get_current()


def _messaging(operation: str, broker: str) -> Attributes:
    scheme = scheme_of(broker)
    return {
        "messaging.system": _SYSTEMS.get(scheme, scheme.partition("+")[0]),
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
    }


def _of_message(message: Message) -> Attributes:
    labels = message.labels
    found = {
        "messaging.message.id": message.task_id,
        "taskiq.task_name": message.task_name,
        "dagster.run_id": labels.get(RUN_LABEL),
        "dagster.step_key": labels.get(STEP_LABEL),
        "dagster.job_name": labels.get(JOB_LABEL),
    }
    return {name: str(value) for name, value in found.items() if value}


def _attempt_of(message: Message) -> int:
    """Return the attempt that a message is for: 1 for the first at a step, or at a task."""
    if is_step_task_id(message.task_id):
        return int(message.task_id.rpartition(":")[2].partition(".")[0]) + 1
    return attempt_of(message.labels) + 1


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
