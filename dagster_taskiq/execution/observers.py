"""Middlewares that see what becomes of a task, and have no effect on it.

What becomes of a step or run is Dagster's to decide, and the end of a task whose process died is on
record before any middleware hears of it.
"""

import copy
import logging
from typing import Any

from taskiq import AsyncBroker, TaskiqMessage, TaskiqMiddleware, TaskiqResult
from taskiq.utils import maybe_awaitable

logger = logging.getLogger(__name__)


class Observer(TaskiqMiddleware):
    """A middleware whose hooks get copies; what they return is ignored, what they raise is logged.

    Start-up and shutdown are not passed on: the broker calls the middleware's own.
    """

    def __init__(self, middleware: TaskiqMiddleware) -> None:
        super().__init__()
        self._middleware = middleware

    async def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        """Call the hook (taskiq's own hook)."""
        await self._call("pre_execute", copy.deepcopy(message))
        return message

    async def on_error(
        self, message: TaskiqMessage, result: TaskiqResult[Any], exception: BaseException
    ) -> None:
        """Call the hook (taskiq's own hook)."""
        await self._call("on_error", copy.deepcopy(message), _copy(result), exception)

    async def post_execute(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        """Call the hook (taskiq's own hook)."""
        await self._call("post_execute", copy.deepcopy(message), _copy(result))

    async def post_save(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        """Call the hook (taskiq's own hook)."""
        await self._call("post_save", copy.deepcopy(message), _copy(result))

    async def _call(self, hook: str, *args: Any) -> None:
        try:
            await maybe_awaitable(getattr(self._middleware, hook)(*args))
        except Exception:
            logger.exception(
                "The hook %s of the middleware %s raised an error, which changes nothing for the "
                "task.",
                hook,
                type(self._middleware).__name__,
            )


def observed(broker: AsyncBroker) -> AsyncBroker:
    """Return a broker that shares all with another one, and whose middlewares only observe."""
    view = copy.copy(broker)
    view.middlewares = [Observer(each) for each in broker.middlewares]
    return view


def has_hooks(broker: AsyncBroker, *names: str) -> bool:
    """Return whether a middleware of a broker has one of these hooks."""
    return any(
        getattr(type(middleware), name) is not getattr(TaskiqMiddleware, name)
        for middleware in broker.middlewares
        for name in names
    )


def _copy(result: TaskiqResult[Any]) -> TaskiqResult[Any]:
    return result.model_copy(update={"labels": dict(result.labels)})
