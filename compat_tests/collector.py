"""A collector of OpenTelemetry's traces, by OTLP over HTTP, in a thread of the tests."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WrittenSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from compat_tests.waiting import eventually


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
    #: The name of the service, which is that of the process here.
    service: str
    #: The name of what has made it.
    scope: str


class Collector:
    """The spans that were exported so far."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.url = ""
        self._loop = asyncio.new_event_loop()

    def variables(self, service: str) -> dict[str, str]:
        """Return the environment variables with which a process exports its spans to here."""
        return {
            "OTEL_SERVICE_NAME": service,
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
        sent = ExportTraceServiceRequest.FromString(await request.read())
        for resource in sent.resource_spans:
            of_resource = _plain(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.spans += [
                    _read(each, of_resource["service.name"], scope.scope.name)
                    for each in scope.spans
                ]
        body = ExportTraceServiceResponse().SerializeToString()
        return web.Response(body=body, content_type="application/x-protobuf")

    def serve(self, ready: threading.Event) -> None:
        """Serve until :meth:`end`."""

        async def start() -> None:
            app = web.Application(client_max_size=1 << 26)
            app.router.add_post("/v1/traces", self.receive)
            runner = web.AppRunner(app)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            (address,) = runner.addresses
            self.url = f"http://127.0.0.1:{address[1]}"
            ready.set()

        self._loop.create_task(start())
        self._loop.run_forever()

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)


@contextmanager
def running_collector() -> Iterator[Collector]:
    """Start a collector, and end it."""
    collector, ready = Collector(), threading.Event()
    thread = threading.Thread(target=collector.serve, args=(ready,), daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield collector
    finally:
        collector.end()
        thread.join(30)


def _read(span: WrittenSpan, service: str, scope: str) -> Span:
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
        service=service,
        scope=scope,
    )


def _plain(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
