"""Slots, run slots and reservations of a worker: who may start, and what is free afterwards."""

import asyncio

import anyio
import pytest

from dagster_taskiq.worker import slots as slots_module
from dagster_taskiq.worker.slots import Slots

pytestmark = pytest.mark.anyio

RUN, STEP = True, False


async def number_free(slots: Slots, most: int = 10) -> int:
    """Return how many slots are free."""
    found = 0
    while found < most:
        with anyio.move_on_after(0.001) as waiting:
            await slots.reserve()
        if waiting.cancelled_caught:
            break
        found += 1
    for _ in range(found):
        slots.unreserve()
    return found


async def received(slots: Slots, task_id: str, is_run: bool = STEP) -> None:
    """Reserve a slot for a task, as the broker does when it has claimed its message."""
    await slots.reserve()
    slots.expect(task_id, is_run)


async def started(slots: Slots, task_id: str, is_run: bool = STEP) -> None:
    await received(slots, task_id, is_run)
    await slots.start(task_id, is_run)


async def test_a_task_takes_the_slot_that_was_reserved_for_it() -> None:
    slots = Slots(2, max_runs=1)
    await received(slots, "a")
    assert await number_free(slots) == 1
    await slots.start("a", STEP)
    assert await number_free(slots) == 1
    slots.end("a")
    assert await number_free(slots) == 2


async def test_a_task_without_a_reservation_waits_for_a_free_slot() -> None:
    slots = Slots(1, max_runs=1)
    await started(slots, "a")
    waiting = asyncio.ensure_future(slots.start("b", STEP))
    await asyncio.sleep(0)
    assert not waiting.done()
    slots.end("a")
    await waiting
    assert await number_free(slots) == 0


async def test_a_slot_for_which_no_message_came_is_given_back() -> None:
    slots = Slots(1, max_runs=1)
    await slots.reserve()
    slots.unreserve()
    assert await number_free(slots) == 1


async def test_what_is_reserved_for_a_task_that_does_not_run_here_is_freed_once() -> None:
    slots = Slots(2, max_runs=1)
    await received(slots, "run", RUN)
    assert not slots.takes_runs
    slots.release_reservation("run")
    slots.release_reservation("run")
    assert await number_free(slots) == 2
    assert slots.takes_runs


async def test_a_second_delivery_of_a_task_that_runs_frees_only_its_own_slot() -> None:
    slots = Slots(3, max_runs=1)
    await started(slots, "run", RUN)
    await received(slots, "run", RUN)
    slots.release_reservation("run")
    assert await number_free(slots) == 2
    assert "run" in slots.runs


async def test_two_deliveries_of_one_task_keep_one_slot() -> None:
    slots = Slots(2, max_runs=2)
    await received(slots, "a")
    await received(slots, "a")
    assert await number_free(slots) == 1


async def test_a_run_has_a_run_slot_though_its_other_delivery_has_freed_that() -> None:
    slots = Slots(1, max_runs=1)
    await received(slots, "run", RUN)
    slots.release_reservation("run")  # the other delivery, which came first to its end
    assert len(slots.runs) == 0
    await slots.start("run", RUN)
    assert len(slots.runs) == 1
    slots.end("run")
    assert len(slots.runs) == 0
    assert await number_free(slots) == 1


async def test_a_message_that_never_starts_frees_its_slots_when_its_time_is_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(slots_module, "RESERVATION_SECONDS", 0.0)
    slots = Slots(1, max_runs=1)
    await received(slots, "run", RUN)
    await slots.until_takes_runs()
    assert await number_free(slots) == 1
    assert "Task run was received and did not start" in caplog.text


async def test_a_second_delivery_that_expires_leaves_the_run_its_run_slot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slots = Slots(2, max_runs=1)
    await started(slots, "run", RUN)
    monkeypatch.setattr(slots_module, "RESERVATION_SECONDS", 0.0)
    await received(slots, "run", RUN)
    await asyncio.sleep(0.01)  # the loop runs the timer, which was due at once
    assert await number_free(slots) == 1
    assert not slots.takes_runs
    slots.end("run")
    assert slots.takes_runs


async def test_a_run_that_only_waits_frees_its_slot_once_and_keeps_its_run_slot() -> None:
    slots = Slots(1, max_runs=1)
    await started(slots, "run", RUN)
    assert slots.free_while_waiting("run")
    assert not slots.free_while_waiting("run")
    assert await number_free(slots) == 1
    assert not slots.takes_runs
    slots.end("run")
    assert await number_free(slots) == 1
    assert slots.takes_runs


async def test_a_task_that_is_no_launched_run_keeps_its_slot_whatever_it_reports() -> None:
    slots = Slots(1, max_runs=1)
    await started(slots, "step")
    assert not slots.free_while_waiting("step")
    assert await number_free(slots) == 0


async def test_no_run_is_taken_while_every_run_slot_is_held() -> None:
    slots = Slots(5, max_runs=2)
    await started(slots, "first", RUN)
    assert slots.takes_runs
    await received(slots, "second", RUN)
    assert not slots.takes_runs
    waiting = asyncio.ensure_future(slots.until_takes_runs())
    await asyncio.sleep(0)
    assert not waiting.done()
    slots.end("first")
    await waiting


async def test_a_worker_that_drains_takes_no_run_and_notes_when_the_last_has_ended() -> None:
    slots = Slots(2, max_runs=2)
    ended: list[bool] = []
    await started(slots, "first", RUN)
    await received(slots, "second", RUN)
    slots.take_no_more_runs(lambda: ended.append(True))
    assert slots.is_draining
    slots.end("first")
    assert not slots.takes_runs
    assert ended == []
    slots.release_reservation("second")
    assert ended == [True]
    assert not slots.takes_runs


async def test_a_worker_without_runs_may_end_as_soon_as_it_drains() -> None:
    slots = Slots(1, max_runs=1)
    ended: list[bool] = []
    slots.take_no_more_runs(lambda: ended.append(True))
    assert ended == [True]


async def test_a_listener_that_has_ended_lets_the_worker_drain() -> None:
    slots = Slots(1, max_runs=1)
    assert not slots.is_draining
    slots.end_listening()
    assert slots.is_draining


async def test_a_slot_that_was_lent_serves_another_task() -> None:
    slots = Slots(1, max_runs=1)
    await started(slots, "waits")
    assert slots.lend("waits")
    assert not slots.lend("waits")
    await started(slots, "other")
    back = asyncio.ensure_future(slots.take_back("waits"))
    next_one = asyncio.ensure_future(slots.reserve())
    await asyncio.sleep(0)
    assert not back.done()
    slots.end("other")
    assert await back
    await asyncio.sleep(0)
    assert not next_one.done(), "who has lent a slot comes before a new task"
    slots.end("waits")
    await next_one


async def test_a_listener_that_has_no_message_keeps_no_task_from_working() -> None:
    slots = Slots(1, max_runs=1)
    await started(slots, "waits")
    slots.lend("waits")
    await slots.reserve()
    assert await slots.take_back("waits")
    slots.expect("came", STEP)
    await slots.start("came", STEP)
    slots.end("waits")
    assert await number_free(slots) == 0, "one more was working than there are slots"
    slots.end("came")
    assert await number_free(slots) == 1


async def test_a_task_that_ends_without_the_slot_it_has_lent_frees_no_other() -> None:
    slots = Slots(1, max_runs=1)
    await started(slots, "waits")
    slots.lend("waits")
    await started(slots, "other")
    back = asyncio.ensure_future(slots.take_back("waits"))
    await asyncio.sleep(0)
    slots.end("waits")
    slots.end("other")
    await back
    assert await number_free(slots) == 1


async def test_only_so_many_tasks_wait_without_a_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module, "MOST_LENT", 1)
    slots = Slots(2, max_runs=1)
    await started(slots, "a")
    await started(slots, "b")
    assert slots.lend("a")
    assert not slots.lend("b")
    assert await number_free(slots) == 1


async def test_a_slot_that_a_listener_was_just_given_keeps_no_task_from_working() -> None:
    slots = Slots(1, max_runs=1)
    await started(slots, "waits")
    listener = asyncio.ensure_future(slots.reserve())
    await asyncio.sleep(0)
    slots.lend("waits")  # the listener gets it, and has not noticed
    assert not listener.done()
    await slots.take_back("waits")
    await listener


async def test_two_tasks_take_their_slots_back_one_after_the_other_past_a_listener() -> None:
    slots = Slots(1, max_runs=1)
    for name in ("outer", "inner"):
        await started(slots, name)
        slots.lend(name)
    await slots.reserve()
    await slots.take_back("inner")
    outer = asyncio.ensure_future(slots.take_back("outer"))
    await asyncio.sleep(0)
    assert not outer.done()
    slots.end("inner")
    await outer
