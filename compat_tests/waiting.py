"""Waiting for facts: a test says what must become true, and never how long that takes."""

import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio

T = TypeVar("T")

#: Generous: it is only used up where the fact never comes, which is a failure.
PATIENCE_SECONDS = 60.0
LOOK_SECONDS = 0.02


def eventually(predicate: Callable[[], T], timeout: float = PATIENCE_SECONDS) -> T:
    """Return the first true value of ``predicate``; fail when there is none in time."""
    deadline = time.monotonic() + timeout
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(f"It never came true: {_source(predicate)}")
        time.sleep(LOOK_SECONDS)
    return value


async def eventually_async(
    predicate: Callable[[], Awaitable[T]], timeout: float = PATIENCE_SECONDS
) -> T:
    """As :func:`eventually`, for a predicate that is awaited."""
    deadline = time.monotonic() + timeout
    while not (value := await predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(f"It never came true: {_source(predicate)}")
        await anyio.sleep(LOOK_SECONDS)
    return value


def _source(predicate: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(predicate).strip()
    except (OSError, TypeError):
        return repr(predicate)
