"""A project's own app whose middlewares would decide about every task, if they could."""

import os
from pathlib import Path
from typing import Any

from taskiq import TaskiqMessage, TaskiqMiddleware, TaskiqResult
from taskiq.middlewares import SimpleRetryMiddleware

from compat_tests.life_errors import LOG_ENV
from dagster_taskiq.app import broker


class Deciding(TaskiqMiddleware):
    """Notes which of its hooks are called, and interferes in each."""

    def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        self._note("pre_execute", message)
        message.kwargs.clear()
        message.task_name = "another"
        return message

    async def post_execute(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        self._note("post_execute", message)
        result.error = RuntimeError("it is I who says how it ended")
        raise result.error

    def post_save(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        self._note("post_save", message)
        raise RuntimeError("too late")

    def _note(self, hook: str, message: TaskiqMessage) -> None:
        with Path(os.environ[LOG_ENV]).open("a") as file:
            file.write(f"{hook} {message.task_name} {message.labels.get('step_key', '-')}\n")


broker.add_middlewares(
    SimpleRetryMiddleware(default_retry_count=5, default_retry_label=True), Deciding()
)
