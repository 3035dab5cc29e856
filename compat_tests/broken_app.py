"""A project's own app whose middleware raises: before some tasks, after others."""

from typing import Any

from taskiq import TaskiqMessage, TaskiqMiddleware, TaskiqResult

from dagster_taskiq.app import broker


class Raising(TaskiqMiddleware):
    def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        if message.task_name == "raises_before":
            raise RuntimeError("not this one")
        return message

    def post_execute(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        if message.task_name == "raises_after":
            raise RuntimeError("not that one")


broker.add_middlewares(Raising())


@broker.task("raises_before")
def raises_before() -> int:
    return 1


@broker.task("raises_after")
def raises_after() -> int:
    return 2


@broker.task("is_left_alone")
def is_left_alone() -> int:
    return 3
