"""A project's own task with a span of its own."""

from opentelemetry import trace

from dagster_taskiq.app import broker

tracer = trace.get_tracer("shop")


@broker.task
async def stock() -> int:
    with tracer.start_as_current_span("look into the store"):
        return 3
