"""Asyncio tasks that are not awaited."""

import asyncio
from typing import Any


def look_at(task: "asyncio.Future[Any]") -> None:
    """Retrieve the outcome of a task that is not awaited: asyncio logs those that are not."""
    if not task.cancelled():
        task.exception()
