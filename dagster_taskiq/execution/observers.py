"""Middlewares that see what becomes of a task, and have no effect on it.

What becomes of a step or run is Dagster's to decide, and the end of a task whose process died is on
record before any middleware hears of it.
"""

import copy
from typing import Any

from taskiq import AsyncBroker, TaskiqMessage, TaskiqMiddleware, TaskiqResult

from dagster_taskiq.transport.hooks import call_hook


class Observer(TaskiqMiddleware):
    """A middleware whose hooks get copies; what they return is ignored, what they raise is logged.

    All hooks for one execution get the same copy of its message, on which a middleware may keep
    what belongs to it. Start-up and shutdown are not passed on: the broker calls the middleware's
    own.
    """

    def __init__(self, middleware: TaskiqMiddleware) -> None:
        super().__init__()
        self._middleware = middleware
        #: What ``pre_execute`` has returned for the step or run that this process executes now.
        self._seen: TaskiqMessage | None = None

    async def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        """Call the hook (taskiq's own hook)."""
        seen = copy.deepcopy(message)
        returned = await call_hook(self._middleware, "pre_execute", seen)
        self._seen = returned if isinstance(returned, TaskiqMessage) else seen
        return message

    async def on_error(
        self, message: TaskiqMessage, result: TaskiqResult[Any], exception: BaseException
    ) -> None:
        """Call the hook (taskiq's own hook)."""
        await self._call("on_error", message, _copy(result), exception)

    async def post_execute(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        """Call the hook (taskiq's own hook)."""
        await self._call("post_execute", message, _copy(result))

    async def post_save(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        """Call the hook (taskiq's own hook)."""
        await self._call("post_save", message, _copy(result))

    async def _call(self, hook: str, message: TaskiqMessage, *args: Any) -> None:
        if self._seen is None or self._seen.task_id != message.task_id:
            self._seen = copy.deepcopy(message)
        await call_hook(self._middleware, hook, self._seen, *args)


def observed(broker: AsyncBroker) -> AsyncBroker:
    """Return a broker that shares all with another one, and whose middlewares only observe."""
    view = copy.copy(broker)
    view.middlewares = [Observer(each) for each in broker.middlewares]
    return view


def _copy(result: TaskiqResult[Any]) -> TaskiqResult[Any]:
    return result.model_copy(update={"labels": dict(result.labels)})
