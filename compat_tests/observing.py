"""A project whose middlewares see every message: a launcher's module, and one to include.

Each hook writes a line to the file that ``LIFE_LOG`` names: the hook, the task, the step, the label
that ``pre_send`` has added, and the process.
"""

import os
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from taskiq import TaskiqMessage, TaskiqMiddleware, TaskiqResult

from compat_tests.life_errors import LOG_ENV
from dagster_taskiq import TaskiqRunLauncher
from dagster_taskiq.app import broker

__all__ = ["TaskiqRunLauncher"]

#: The message that is being sent, as tracing libraries keep it.
sending: ContextVar[str] = ContextVar("sending")


def say(hook: str, message: TaskiqMessage) -> None:
    """Add a line to the log, in one write."""
    labels = message.labels
    step, tenant = labels.get("step_key", "-"), labels.get("tenant", "-")
    with Path(os.environ[LOG_ENV]).open("a") as file:
        file.write(f"{hook} {message.task_name} {step} {tenant} {os.getpid()}\n")


class Observing(TaskiqMiddleware):
    """Says which of its hooks are called; those for sending also add labels, and interfere."""

    async def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
        say("pre_send", message)
        sending.set(message.task_id)
        message.labels.update(tenant="acme", time_limit=1, queue_name="nowhere")
        message.kwargs.clear()
        return message

    def post_send(self, message: TaskiqMessage) -> None:
        assert sending.get() == message.task_id
        say("post_send", message)
        raise RuntimeError("after it was sent")

    def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        message.labels["_seen"] = object()
        say("pre_execute", message)
        return message

    async def on_error(
        self, message: TaskiqMessage, result: TaskiqResult[Any], exception: BaseException
    ) -> None:
        say("on_error", message)

    def post_execute(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        assert "_seen" in message.labels
        say("post_execute", message)

    async def post_save(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        assert "_seen" in message.labels
        say("post_save", message)


broker.add_middlewares(Observing())
