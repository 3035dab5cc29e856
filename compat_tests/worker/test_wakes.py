"""How often a worker wakes the loop of a run."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from dagster_taskiq.worker.wakeups import WakeUps

pytestmark = pytest.mark.anyio


class Posted:
    """Wakes, and what they posted."""

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

    async def rests_no_more(self) -> None:
        await asyncio.gather(*self.tasks)


async def test_a_loop_is_woken_at_once() -> None:
    posted = Posted()
    posted.wake_ups.wake("run", "task")
    await asyncio.sleep(0)
    assert posted.posts == [("run", "task")]
    await posted.rests_no_more()
    posted.wake_ups.wake("run", "other")
    await asyncio.sleep(0)
    assert posted.posts == [("run", "task"), ("run", "other")]


async def test_a_crowd_of_wakes_is_two() -> None:
    posted = Posted()
    for number in range(10):
        posted.wake_ups.wake("run", f"task {number}")
        posted.wake_ups.wake("another run", f"its task {number}")
    await posted.rests_no_more()
    assert sorted(posted.posts) == [
        ("another run", "its task 0"),
        ("another run", "its task 9"),
        ("run", "task 0"),
        ("run", "task 9"),
    ]


async def test_what_woke_the_loop_meanwhile_spares_the_second() -> None:
    posted = Posted()
    posted.wake_ups.wake("run", "task")
    posted.wake_ups.wake("run", "other")
    posted.wake_ups.note_woken("run")
    posted.wake_ups.note_woken("a run that nobody has woken")
    await posted.rests_no_more()
    assert posted.posts == [("run", "task")]


async def test_one_who_asks_after_that_is_not_forgotten() -> None:
    posted = Posted()
    posted.wake_ups.wake("run", "task")
    posted.wake_ups.note_woken("run")
    posted.wake_ups.wake("run", "other")
    await posted.rests_no_more()
    assert posted.posts == [("run", "task"), ("run", "other")]
