"""``SoftTimeLimitExceeded``, raised in the function of a task that has run for too long."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from dagster_celery._celery_app.celery_errors import as_celerys
from dagster_celery._celery_app.task_errors import SoftTimeLimitExceeded
from dagster_taskiq.execution.task_context import current_context

#: The signals by which a worker stops a task.
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def raising_soft_time_limit() -> Iterator[None]:
    """Have an interrupt raise ``SoftTimeLimitExceeded`` inside, if the worker sends it for that.

    Any other raises ``KeyboardInterrupt``, as before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        if callable(handler):
            signal.signal(number, _translating(handler))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _translating(handler: Callable[..., Any]) -> Callable[[int, FrameType | None], None]:
    def handle(number: int, frame: FrameType | None) -> None:
        try:
            handler(number, frame)
        except KeyboardInterrupt:
            request = current_context().stop_request()
            if request is None or "soft time limit" not in request.reason:
                raise
            raise as_celerys(SoftTimeLimitExceeded(request.reason)) from None

    return handle
