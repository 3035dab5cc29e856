"""What is left to end by itself, with nobody waiting for it."""

import asyncio
from typing import Any


def look_at(task: "asyncio.Future[Any]") -> None:
    """Ask for the outcome of what nobody waits for; asyncio complains where nobody does."""
    if not task.cancelled():
        task.exception()
