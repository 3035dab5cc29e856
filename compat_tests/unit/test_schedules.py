"""When schedules are due, and which ones they are: the same for every scheduler."""

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from taskiq.scheduler.scheduled_task import ScheduledTask

from dagster_taskiq import app
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.schedules import LabelSchedules
from dagster_taskiq.schedules.cron import check
from dagster_taskiq.schedules.due import firing_of, task_id_of
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.wire.firings import Firing

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 3, 2, 12, tzinfo=timezone.utc)
SECOND = timedelta(seconds=1)


def schedule(**when: Any) -> ScheduledTask:
    return ScheduledTask(task_name="t", labels={}, args=[], kwargs={}, schedule_id="s", **when)


def due_at(now: datetime, **when: Any) -> datetime:
    firing = firing_of(schedule(**when), now, is_permanent=False)
    return datetime.fromtimestamp(firing.due, timezone.utc)


def moments(seconds: int) -> Iterator[datetime]:
    """Yield the times at which a scheduler looks that started with such an offset."""
    return (NOON + each * SECOND for each in range(seconds))


def test_a_cron_schedule_is_due_at_the_minute_whenever_it_is_noticed() -> None:
    assert {due_at(each, cron="0 12 * * *") for each in moments(60)} == {NOON}
    late = NOON + timedelta(seconds=60.05)
    assert due_at(late, cron="0 12 * * *") == NOON
    assert due_at(late, cron="* * * * *") == NOON + timedelta(minutes=1)
    berlin = {"cron": "0 13 * * *", "cron_offset": "Europe/Berlin"}
    assert due_at(NOON + SECOND, **berlin) == NOON
    assert due_at(NOON, cron="0 10 * * *", cron_offset=timedelta(hours=-2)) == NOON


@pytest.mark.parametrize("interval", [1, 7, timedelta(minutes=5)])
def test_schedulers_of_an_interval_agree_whenever_they_started(interval: int | timedelta) -> None:
    seconds = int(interval.total_seconds()) if isinstance(interval, timedelta) else interval
    for offset in range(min(seconds, 20)):
        looks = [NOON + (offset + count * seconds) * SECOND for count in range(50)]
        # A scheduler comes a moment too early or too late.
        shifted = [each + timedelta(milliseconds=400 * (-1) ** n) for n, each in enumerate(looks)]
        dues = [due_at(each, interval=interval) for each in shifted]
        assert dues == [dues[0] + count * seconds * SECOND for count in range(50)]
        assert dues[0].timestamp() % seconds == 0


def test_a_schedule_of_one_time_is_due_once_at_that_time() -> None:
    naive = NOON.replace(tzinfo=None)
    for each in (NOON, naive, NOON.astimezone(timezone(timedelta(hours=5)))):
        assert due_at(NOON + timedelta(days=9), time=each) == NOON
    one, other = (
        firing_of(schedule(time=when), NOON, is_permanent=True) for when in (NOON, NOON + SECOND)
    )
    assert one.key != other.key
    assert one.keep == 0


def test_a_task_has_an_id_for_each_firing_of_each_schedule() -> None:
    firings = [Firing(key, due, keep) for key in "ab" for due in (1.0, 2.0) for keep in (3.0, 4.0)]
    assert len({task_id_of(each) for each in firings}) == 4
    assert task_id_of(Firing("a", 1.0, 3.0)) == "28b736093a9b5e52b511fd51aed854bb"


@pytest.mark.parametrize(
    "cron",
    ["* * * * *", "*/15 0-6/2 1,15 */3 mon-fri", "0 0 * * 0", "59 23 31 12 6", "0 9 * * MON,tue"],
)
def test_a_cron_expression_that_taskiq_understands_passes(cron: str) -> None:
    check(schedule(cron=cron))


@pytest.mark.parametrize(
    "cron",
    [
        *("60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * jan *", "* * * * 7"),
        *("* * * *", "* * * * * *", "*  * * * *", "@daily", "*/0 * * * *", "x * * * *"),
        *("0 0 30 2 *", "0 0 31 4,6 *"),
    ],
)
def test_a_cron_expression_that_would_never_be_due_is_refused(cron: str) -> None:
    with pytest.raises(ConfigError, match=r"task t (is never due|must have five fields)"):
        check(schedule(cron=cron))


@pytest.mark.parametrize("zone", ["Europe/Berlin", timedelta(hours=2)])
def test_a_cron_expression_in_a_time_zone_passes(zone: str | timedelta) -> None:
    check(schedule(cron="0 6 29 2 *", cron_offset=zone))


@pytest.mark.parametrize("zone", ["Europe/Nowhere", "+2"])
def test_a_time_zone_that_is_none_is_refused(zone: str) -> None:
    with pytest.raises(ConfigError, match="is no time zone"):
        check(schedule(cron="* * * * *", cron_offset=zone))


async def collected(*labels: dict[str, Any]) -> list[ScheduledTask]:
    broker = app.make(Settings(broker="memory://labels"))
    broker.register_task(lambda: None, task_name="t", schedule=[dict(each) for each in labels])
    source = LabelSchedules(broker)
    await source.startup()
    return await source.get_schedules()


async def test_a_schedule_in_the_code_has_the_same_id_in_every_process() -> None:
    minutely, named = {"cron": "* * * * *"}, {"interval": 5, "schedule_id": "mine"}
    other = {"cron": "* * * * *", "args": [datetime(2026, 1, 1, tzinfo=timezone.utc)]}
    first = [each.schedule_id for each in await collected(minutely, minutely, named, other)]
    again = [each.schedule_id for each in await collected(other, named, minutely, minutely)]
    assert len(set(first)) == 4
    assert set(first) == set(again)
    assert "mine" in first


async def test_a_module_of_the_settings_that_cannot_be_imported_is_named() -> None:
    broker = app.make(Settings(broker="memory://labels", include=("no_such_module_here",)))
    with pytest.raises(ConfigError, match="no_such_module_here"):
        await LabelSchedules(broker).startup()
