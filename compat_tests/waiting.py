"""Waiting for facts: a test says what must become true, and never how long that takes."""

import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio

T = TypeVar("T")

#: Generous: it is only used up where the fact never comes, which is a failure.
PATIENCE_SECONDS = 60.0
#: The shortest and the longest pause between two looks; in between, a tenth of what was waited.
#: Many looks read a whole event log: with shorter pauses, a test that waits computes.
PAUSE_SECONDS = (0.01, 0.2)


def eventually(holds: Callable[[], T], what: str = "", timeout: float = PATIENCE_SECONDS) -> T:
    """Return the first true answer of ``holds``; fail, and say ``what``, if it never comes."""
    began = time.monotonic()
    while not (answer := holds()):
        time.sleep(_pause(began, timeout, what, holds))
    return answer


async def eventually_async(
    holds: Callable[[], Awaitable[T]], what: str = "", timeout: float = PATIENCE_SECONDS
) -> T:
    """As :func:`eventually`, for an answer that is awaited."""
    began = time.monotonic()
    while not (answer := await holds()):
        pause = _pause(began, timeout, what, holds)
        await anyio.sleep(pause)
    return answer


def _pause(began: float, timeout: float, what: str, holds: Callable[..., Any]) -> float:
    waited = time.monotonic() - began
    if waited > timeout:
        raise AssertionError(f"It never came true: {what or _source(holds)}")
    shortest, longest = PAUSE_SECONDS
    return min(longest, max(shortest, waited / 10))


def _source(holds: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(holds).strip()
    except (OSError, TypeError):
        return repr(holds)
