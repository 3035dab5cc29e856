"""A collector of OpenTelemetry's traces, by OTLP over HTTP, in a thread of the tests."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WrittenSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from compat_tests.waiting import eventually

#: The time between two looks whether the test wants something else, in seconds.
LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Span:
    """A span that has ended, as it was exported."""

    name: str
    kind: str
    trace: str
    id: str
    #: Empty for the first of a trace.
    parent: str
    #: What it has failed with; ``None`` if it has not.
    error: str | None
    attributes: dict[str, Any]
    #: Of ``time.time()``.
    began: float
    ended: float
    #: The id of the process.
    pid: int
    #: The name of what has made it.
    scope: str


class Collector:
    """The spans that were exported so far."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.url = ""
        #: Whether an exporter has waited for an answer while there was none.
        self.has_waited = False
        self._answers = threading.Event()
        self._answers.set()
        self._is_ending = False

    def hang(self) -> None:
        """Answer nothing from now on, and note that an exporter waits."""
        self._answers.clear()

    def answer(self) -> None:
        """Answer again."""
        self._answers.set()

    def variables(self) -> dict[str, str]:
        """Return the environment variables with which a process exports its spans to here."""
        return {
            "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "process",
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "taskiq",
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }

    def one(self, name: str, **attributes: Any) -> Span:
        """Wait for the span of a name, with these attributes, of which there is one."""
        eventually(lambda: self.of(name, **attributes), f"the span {name!r} {attributes}")
        (found,) = self.of(name, **attributes)
        return found

    def of(self, name: str, **attributes: Any) -> list[Span]:
        """Return the spans of a name that have come, with these attributes (``a__b``: ``a.b``)."""
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}
        return [
            span
            for span in list(self.spans)
            if span.name == name and wanted.items() <= span.attributes.items()
        ]

    def parent_of(self, span: Span) -> Span:
        """Wait for the parent of a span."""
        eventually(
            lambda: any(each.id == span.parent for each in list(self.spans)),
            f"the parent of {span.name!r}",
        )
        return next(each for each in list(self.spans) if each.id == span.parent)

    def line_of(self, span: Span) -> list[str]:
        """Return the names of a span, its parent, and so on up to the first of its trace."""
        names = [span.name]
        while span.parent:
            span = self.parent_of(span)
            names.append(span.name)
        return names

    async def receive(self, request: web.Request) -> web.Response:
        """Take what an exporter sends."""
        while not self._answers.is_set():
            self.has_waited = True
            await asyncio.sleep(LOOK_SECONDS)
        sent = ExportTraceServiceRequest.FromString(await request.read())
        for resource in sent.resource_spans:
            of_resource = _plain(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.spans += [
                    _read(each, of_resource["process.pid"], scope.scope.name)
                    for each in scope.spans
                ]
        body = ExportTraceServiceResponse().SerializeToString()
        return web.Response(body=body, content_type="application/x-protobuf")

    async def serve(self, ready: threading.Event) -> None:
        """Serve until :meth:`end`."""
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/v1/traces", self.receive)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        (address,) = runner.addresses
        self.url = f"http://127.0.0.1:{address[1]}"
        ready.set()
        while not self._is_ending:  # noqa: ASYNC110 - it is the thread of a test that sets it
            await asyncio.sleep(LOOK_SECONDS)
        await runner.cleanup()

    def end(self) -> None:
        """Answer what waits for that, and serve no longer."""
        self._answers.set()
        self._is_ending = True


@contextmanager
def running_collector() -> Iterator[Collector]:
    """Start a collector, and end it."""
    collector, ready = Collector(), threading.Event()
    serving = partial(asyncio.run, collector.serve(ready))
    thread = threading.Thread(target=serving, daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield collector
    finally:
        collector.end()
        thread.join(30)


def _read(span: WrittenSpan, pid: int, scope: str) -> Span:
    failed = span.status.code == Status.StatusCode.STATUS_CODE_ERROR
    return Span(
        name=span.name,
        kind=WrittenSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        error=span.status.message if failed else None,
        attributes=_plain(span.attributes),
        began=span.start_time_unix_nano / 1e9,
        ended=span.end_time_unix_nano / 1e9,
        pid=pid,
        scope=scope,
    )


def _plain(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
