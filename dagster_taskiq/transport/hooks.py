"""Calling the hooks of a project's middlewares for what they may see, and not decide.

What becomes of a step or run is Dagster's to decide, so middlewares observe it: they get copies,
what they raise is logged, and of what they change only new labels are taken over, since these carry
context (of a trace, of a tenant) to where the task is executed.
"""

import asyncio
import copy
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from taskiq import AsyncBroker, TaskiqMessage, TaskiqMiddleware
from taskiq.utils import maybe_awaitable

from dagster_taskiq.transport.current import project
from dagster_taskiq.wire.labels import is_ours

logger = logging.getLogger(__name__)


def has_hooks(broker: AsyncBroker, *names: str) -> bool:
    """Return whether a middleware of a broker has one of these hooks."""
    return any(has_hook(middleware, name) for middleware in broker.middlewares for name in names)


def has_hook(middleware: TaskiqMiddleware, name: str) -> bool:
    """Return whether a middleware has a hook of its own."""
    return getattr(type(middleware), name) is not getattr(TaskiqMiddleware, name)


async def call_hook(middleware: TaskiqMiddleware, name: str, *args: Any) -> Any:
    """Call a hook, be it a coroutine or not, and return what it returns; ``None`` if it raises."""
    try:
        return await maybe_awaitable(getattr(middleware, name)(*args))
    except Exception:
        logger.exception(
            "The hook %s of the middleware %s raised an error, which changes nothing for the task.",
            name,
            type(middleware).__name__,
        )
        return None


@contextmanager
def observed_sending(messages: Sequence[TaskiqMessage]) -> Iterator[None]:
    """Call ``pre_send`` for steps and runs that are sent in the block, and ``post_send`` after it.

    Labels that ``pre_send`` adds to its copy of a message are there in the block. If that raises,
    ``post_send`` is not called, as by taskiq.
    """
    found = project()
    if found is None or not has_hooks(found.broker, "pre_send", "post_send"):
        yield
        return
    sending = _Sending(found.broker.middlewares, messages)
    found.start(sending.begin).result()
    was_sent = False
    try:
        yield
        was_sent = True
    finally:
        found.start(partial(sending.end, was_sent)).result()


class _Sending:
    """The hooks for messages that are sent with one call.

    Those for one message are called in one task of asyncio, as taskiq does it, so that what
    ``pre_send`` sets in context variables is there in ``post_send``, and for no other message.
    """

    def __init__(
        self, middlewares: Sequence[TaskiqMiddleware], messages: Sequence[TaskiqMessage]
    ) -> None:
        self._middlewares = tuple(middlewares)
        self._messages = messages
        self._tasks: list[asyncio.Task[None]] = []
        self._has_ended = asyncio.Event()
        self._was_sent = False

    async def begin(self) -> None:
        """Call ``pre_send``, and return when that is done."""
        ready = [asyncio.Event() for _ in self._messages]
        self._tasks = [
            asyncio.ensure_future(self._follow(message, event))
            for message, event in zip(self._messages, ready, strict=True)
        ]
        await asyncio.gather(*(event.wait() for event in ready))

    async def end(self, was_sent: bool) -> None:
        """Call ``post_send`` if the messages were sent, and return when that is done."""
        self._was_sent = was_sent
        self._has_ended.set()
        await asyncio.gather(*self._tasks)

    async def _follow(self, message: TaskiqMessage, ready: asyncio.Event) -> None:
        try:
            seen = copy.deepcopy(message)
            for each in self._middlewares:
                if has_hook(each, "pre_send"):
                    returned = await call_hook(each, "pre_send", seen)
                    seen = returned if isinstance(returned, TaskiqMessage) else seen
            message.labels.update(_added(message.labels, seen.labels))
        finally:
            ready.set()
        await self._has_ended.wait()
        if not self._was_sent:
            return
        for each in reversed(self._middlewares):
            if has_hook(each, "post_send"):
                await call_hook(each, "post_send", seen)


def _added(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return the labels that were added, and may be: new names that mean nothing to us, in JSON."""
    return {
        name: value
        for name, value in after.items()
        if name not in before and isinstance(name, str) and not is_ours(name) and _is_json(value)
    }


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
