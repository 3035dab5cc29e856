"""Cancelling what waits for redis-py."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from dagster_taskiq.transport.background import look_at


async def in_own_task(work: Awaitable[Any]) -> Any:
    """Await what redis-py does in a task of its own, so that a cancellation reaches the caller.

    redis-py sometimes swallows a cancellation that arrives while it reads a reply. A listener that
    was cancelled would go on for ever then, and so would the worker that waits for it to end.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        task.add_done_callback(look_at)
        raise
