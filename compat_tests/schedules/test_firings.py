"""What one scheduler does with a firing: it sends it, waits for another scheduler, or reports."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from taskiq import ScheduleSource
from taskiq.exceptions import ScheduledTaskCancelledError
from taskiq.scheduler.scheduled_task import ScheduledTask

from dagster_taskiq import app
from dagster_taskiq.schedules import Scheduler, StoredSchedules, scheduler
from dagster_taskiq.schedules.due import firing_of, task_id_of
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.schedule_store import ScheduleStore
from dagster_taskiq.transport.sql import schedule_store

pytestmark = pytest.mark.anyio

SOON = datetime.now(timezone.utc) + timedelta(seconds=1)


class Source(ScheduleSource):
    """One that leaves out what has the argument ``unwanted``."""

    async def get_schedules(self) -> list[ScheduledTask]:
        return []

    def pre_send(self, task: ScheduledTask) -> None:
        if task.args == ["unwanted"]:
            raise ScheduledTaskCancelledError


def schedule(**changes: Any) -> ScheduledTask:
    given = {"task_name": "t", "labels": {}, "args": [], "kwargs": {}, "time": SOON, **changes}
    return ScheduledTask(schedule_id="s", **given)


@pytest.fixture
async def sends(tmp_path: Path) -> AsyncIterator[Scheduler]:
    broker = app.make(Settings(broker=f"sqlite:///{tmp_path / 'queue.db'}"))
    made = Scheduler(broker, [Source()])
    await made.startup()
    yield made
    await made.shutdown()


def store_of(sends: Scheduler) -> ScheduleStore:
    assert isinstance(sends.broker.result_backend, StateBackend)
    store = sends.broker.result_backend.schedule_store()
    assert store is not None
    return store


async def waiting(sends: Scheduler) -> int:
    return sum(each.waiting for each in await sends.broker.depths())


async def test_a_firing_is_sent_once_under_its_id_and_the_schedule_stays(sends: Scheduler) -> None:
    task = schedule(labels={"mine": 1})
    for _ in range(2):
        await sends.on_ready(Source(), task)
    assert await waiting(sends) == 1
    delivery = await sends.broker.claim()
    assert delivery is not None
    message = sends.broker.formatter.loads(delivery.body)
    assert message.task_id == task_id_of(firing_of(task, SOON, is_permanent=False))
    assert message.labels["schedule_id"] == "s"
    assert (task.task_id, task.labels) == (None, {"mine": 1})


async def test_a_schedule_with_a_task_id_keeps_it(sends: Scheduler) -> None:
    await sends.on_ready(Source(), schedule(task_id="mine"))
    delivery = await sends.broker.claim()
    assert delivery is not None
    assert delivery.task_id == "mine"


async def test_what_a_scheduler_has_claimed_and_not_sent_another_one_sends(
    sends: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = schedule()
    firing = firing_of(task, SOON, is_permanent=False)
    await store_of(sends).claim(firing, "dead")
    looks, others_pause = 0, asyncio.sleep

    async def pause(seconds: float) -> None:
        nonlocal looks
        if seconds != scheduler.OTHERS_SECONDS:
            await others_pause(seconds)
            return
        looks += 1
        if looks == 3:
            monkeypatch.setattr(schedule_store, "CLAIM_SECONDS", -1.0)

    monkeypatch.setattr(scheduler.asyncio, "sleep", pause)
    await sends.on_ready(Source(), task)
    assert looks == 3
    assert await waiting(sends) == 1


async def test_a_firing_that_its_source_does_not_want_is_left_out(
    sends: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await sends.on_ready(Source(), schedule(args=["unwanted"]))
    assert await waiting(sends) == 0
    assert [each.message.split(",")[0] for each in caplog.records] == ["Left out"]


async def test_a_firing_that_cannot_be_sent_is_reported_in_one_sentence(
    sends: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    await sends.on_ready(Source(), schedule(labels={"priority": "high"}))
    (record,) = caplog.records
    assert "Cannot send t of schedule s" in record.message
    assert "priority" in record.message
    assert record.exc_info is None


async def test_a_schedule_that_cannot_be_read_is_passed_over(
    sends: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    source = StoredSchedules(sends.broker)
    await store_of(sends).put("broken", "{}")
    await source.add_schedule(schedule())
    assert [each.schedule_id for each in await source.get_schedules()] == ["s"]
    assert "cannot be read" in caplog.text
