"""A project whose middlewares try every task again, unless it is told otherwise."""

from taskiq.middlewares import SimpleRetryMiddleware, SmartRetryMiddleware

from dagster_taskiq.app import broker

broker.add_middlewares(
    SimpleRetryMiddleware(default_retry_label=True, default_retry_count=5),
    SmartRetryMiddleware(default_retry_label=True, default_delay=0.01),
)
