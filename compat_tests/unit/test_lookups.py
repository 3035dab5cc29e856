"""Lookups of many tasks at once: how many queries they take, and who gets which answer."""

import asyncio
from collections.abc import Sequence

import pytest

from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.transport.lookups import Lookups
from dagster_taskiq.wire.records import Task

pytestmark = pytest.mark.anyio


class Server:
    """Answers when it is told to, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.may_answer = asyncio.Event()
        self.is_away = False

    async def find(self, task_ids: Sequence[str]) -> dict[str, Task]:
        self.asked.append(list(task_ids))
        await self.may_answer.wait()
        if self.is_away:
            raise ServerUnavailableError("the server", "it is away")
        return {each: Task(each) for each in task_ids if each != "unknown"}


async def test_what_is_asked_for_meanwhile_is_asked_for_together() -> None:
    server = Server()
    lookups = Lookups(server.find)
    first = asyncio.ensure_future(lookups.find("a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    others = [asyncio.ensure_future(lookups.find(each)) for each in ("b", "unknown", "b")]
    await asyncio.sleep(0)
    server.may_answer.set()
    assert await first == Task("a")
    assert await asyncio.gather(*others) == [Task("b"), None, Task("b")]
    assert server.asked == [["a"], ["b", "unknown"]]


async def test_an_answer_is_never_older_than_the_question() -> None:
    server = Server()
    server.may_answer.set()
    lookups = Lookups(server.find)
    assert [await lookups.find("a"), await lookups.find("a")] == [Task("a")] * 2
    assert server.asked == [["a"], ["a"]]


async def test_an_error_is_told_to_each_and_the_next_asks_again() -> None:
    server = Server()
    server.is_away = True
    server.may_answer.set()
    lookups = Lookups(server.find)
    told = await asyncio.gather(lookups.find("a"), lookups.find("b"), return_exceptions=True)
    assert [type(each) for each in told] == [ServerUnavailableError] * 2
    server.is_away = False
    assert await lookups.find("a") == Task("a")


async def test_who_gives_up_keeps_nobody_else_from_the_answer() -> None:
    server = Server()
    lookups = Lookups(server.find)
    impatient = asyncio.ensure_future(lookups.find("a"))
    patient = asyncio.ensure_future(lookups.find("a"))
    await asyncio.sleep(0)
    impatient.cancel()
    server.may_answer.set()
    assert await patient == Task("a")
