"""The spans of a message: it is sent, waits, is processed by a worker, executed in its child.

The context of a trace travels in the labels of messages, under the names that the propagators of
OpenTelemetry have for it: ``traceparent`` and ``tracestate`` of W3C, unless others are configured.
Each process replaces what it finds there by its own span, so that what comes next is a child of it.
What the functions here return does nothing where traces are not in use.
"""

import sys
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from dagster_taskiq.tracing.span import NO_SPAN, Message, Span, Stamp, tried

#: How long the export of what is left may take when a process ends, in seconds. The exit hook of
#: the SDK waits for half a minute, if its collector does not answer.
EXIT_SECONDS = 2.0

#: The span of the task that is executed now.
_executing: ContextVar[Span | None] = ContextVar("dagster_taskiq_span", default=None)


def in_use() -> bool:
    """Return whether something has configured a provider of traces in this process."""
    api = sys.modules.get("opentelemetry.trace")
    find = getattr(api, "get_tracer_provider", None)
    if api is None or find is None:
        return False
    return not isinstance(find(), (api.ProxyTracerProvider, api.NoOpTracerProvider))


@contextmanager
def sending(messages: Sequence[Message], broker: str, default_queue: str) -> Iterator[Stamp]:
    """Send messages in the block, as one span, which is the parent of what becomes of each.

    Args:
        messages: the messages, to each of which the caller applies what it gets.
        broker: the URL of the broker.
        default_queue: the queue of a message whose labels name none.
    """
    if not in_use():
        yield _leave
        return
    from dagster_taskiq.tracing import otel  # noqa: PLC0415 - only where it is in use

    nothing: tuple[Span, Stamp] = (NO_SPAN, _leave)
    span, stamp = tried(nothing, otel.begin_sending, messages, broker, default_queue) or nothing
    try:
        with span.attached():
            yield stamp
    except BaseException as error:
        span.note_error(error)
        raise
    finally:
        span.end()


def begin_processing(message: Message, broker: str, worker: str, due_at: float | None) -> Span:
    """Begin the span of a message in the parent of a worker, which ends when its end is recorded.

    The time in the queue becomes a span of its own.

    Args:
        message: the message, whose labels have the new span from now on.
        broker: the URL of the broker.
        worker: the name of the worker.
        due_at: when it began to wait, in seconds since the epoch; ``None`` if that is not known.
    """
    if not in_use():
        return NO_SPAN
    from dagster_taskiq.tracing import otel  # noqa: PLC0415 - as above

    return tried(NO_SPAN, otel.begin_processing, message, broker, worker, due_at)


def begin_execution(message: Message, worker: str) -> Span:
    """Begin the span of a task in the process that executes it.

    Args:
        message: names the task; its labels have the new span from now on.
        worker: the name of the worker.
    """
    if not in_use():
        return NO_SPAN
    from dagster_taskiq.tracing import otel  # noqa: PLC0415 - as above

    return tried(NO_SPAN, otel.begin_execution, message, worker)


def begin_run(run_id: str, job: str, tags: Mapping[str, str]) -> Span:
    """Begin the span of a run that no worker executes, in the process that does.

    Where a worker executes it, the span of its task is that of the run.

    Args:
        run_id: the run.
        job: the name of its job.
        tags: its tags, which may have the context of a trace to which it belongs.
    """
    if _executing.get() is not None or not in_use():
        return NO_SPAN
    from dagster_taskiq.tracing import otel  # noqa: PLC0415 - as above

    return tried(NO_SPAN, otel.begin_run, run_id, job, tags)


def part_of_trace(tags: Mapping[str, str]) -> AbstractContextManager[None]:
    """Let the spans that begin in the block belong to the trace that the tags of a run name."""
    if not in_use():
        return nullcontext()
    from dagster_taskiq.tracing import otel  # noqa: PLC0415 - as above

    return tried(nullcontext(), otel.part_of_trace, tags)


def context_of(labels: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the labels of a message that are the context of a trace."""
    if not in_use():
        return {}
    from dagster_taskiq.tracing import otel  # noqa: PLC0415 - as above

    return tried({}, otel.context_of, labels)


@contextmanager
def executing(span: Span) -> Iterator[None]:
    """Execute a task in the block, as its span."""
    token = _executing.set(span)
    try:
        with span.attached():
            yield
    finally:
        _executing.reset(token)


def note_failure(kind: str, reason: str) -> None:
    """Note that the step or run that is executed now has failed, though its task has not.

    Args:
        kind: as for :meth:`Span.note_failure`.
        reason: as there.
    """
    span = _executing.get()
    if span is not None:
        span.note_failure(kind, reason)


def flush(seconds: float) -> None:
    """Have the spans of this process exported that have ended, before it is killed.

    Args:
        seconds: how long that may take.
    """
    if not in_use():
        return
    from dagster_taskiq.tracing import otel  # noqa: PLC0415 - as above

    otel.flush(seconds)


def finish() -> None:
    """Have the spans of this process exported, which makes no more and ends now."""
    if not in_use():
        return
    from dagster_taskiq.tracing import otel  # noqa: PLC0415 - as above

    otel.finish(EXIT_SECONDS)


def _leave(labels: MutableMapping[str, Any]) -> bool:
    del labels
    return False
