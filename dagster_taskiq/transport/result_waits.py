"""Waits for results in this process, for what wants to know of them: the child of a worker.

taskiq's ``wait_result`` asks the result backend again and again whether a task has ended.
"""

from collections.abc import Awaitable, Callable

#: Called with the id of a task that was asked for, and whether it has ended.
OnLook = Callable[[str, bool], Awaitable[None]]

_on_look: OnLook | None = None


def observe(on_look: OnLook | None) -> None:
    """Have a function called at each look for a result; it may let the look take longer.

    ``None`` has none called any more.
    """
    global _on_look  # noqa: PLW0603 - it is what note() calls
    _on_look = on_look


async def note(task_id: str, has_ended: bool) -> None:
    """Note that this process has looked for the result of a task."""
    if _on_look is not None:
        await _on_look(task_id, has_ended)
