"""How often a worker wakes the loop of a run."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from dagster_taskiq.worker.wakeups import WakeUps

pytestmark = pytest.mark.anyio


class Posted:
    """Wake-ups, and what they posted."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, str]] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.wake_ups = WakeUps(self.post, self.in_background)

    async def post(self, run_id: str, task_id: str) -> None:
        self.posts.append((run_id, task_id))

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def until_all_sent(self) -> None:
        await asyncio.gather(*self.tasks)


async def test_a_loop_is_woken_at_once() -> None:
    posted = Posted()
    posted.wake_ups.wake("run", "task")
    await asyncio.sleep(0)
    assert posted.posts == [("run", "task")]
    await posted.until_all_sent()
    posted.wake_ups.wake("run", "other")
    await asyncio.sleep(0)
    assert posted.posts == [("run", "task"), ("run", "other")]


async def test_many_wake_ups_at_once_are_sent_as_two() -> None:
    posted = Posted()
    for number in range(10):
        posted.wake_ups.wake("run", f"task {number}")
        posted.wake_ups.wake("another run", f"its task {number}")
    await posted.until_all_sent()
    assert sorted(posted.posts) == [
        ("another run", "its task 0"),
        ("another run", "its task 9"),
        ("run", "task 0"),
        ("run", "task 9"),
    ]


async def test_a_loop_that_was_woken_meanwhile_is_not_woken_again() -> None:
    posted = Posted()
    posted.wake_ups.wake("run", "task")
    posted.wake_ups.wake("run", "other")
    posted.wake_ups.note_woken("run")
    posted.wake_ups.note_woken("a run that was not woken")
    await posted.until_all_sent()
    assert posted.posts == [("run", "task")]


async def test_a_wake_up_that_is_asked_for_after_that_is_sent() -> None:
    posted = Posted()
    posted.wake_ups.wake("run", "task")
    posted.wake_ups.note_woken("run")
    posted.wake_ups.wake("run", "other")
    await posted.until_all_sent()
    assert posted.posts == [("run", "task"), ("run", "other")]
