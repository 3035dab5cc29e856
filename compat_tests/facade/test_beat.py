"""Periodic tasks: what celery beat sends, a scheduler sends at the same times."""

import itertools
import signal
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import celery
import celery.schedules
import pytest
from taskiq.cli.scheduler.run import is_cron_task_now
from taskiq.scheduler.scheduled_task import ScheduledTask

import dagster_celery.schedules as ours
from compat_tests.preloaded import start_program
from compat_tests.waiting import eventually
from dagster_celery import DagsterCeleryWarning
from dagster_celery._celery_app.adopted import served
from dagster_celery._celery_app.app import CeleryApp
from dagster_celery._celery_app.beat.schedules import BeatSchedules
from dagster_celery._celery_app.beat.times import when
from dagster_celery._celery_app.conf import Conf
from dagster_celery.canvas import chain, group
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.schedules.clock_changes import with_skipped
from dagster_taskiq.schedules.due import firing_of

pytestmark = pytest.mark.anyio

#: Crontabs as arguments of the class.
CRONTABS: tuple[dict[str, Any], ...] = (
    {},
    {"minute": 0},
    {"minute": "*/15"},
    {"minute": "*/7", "hour": "*/5"},
    {"minute": "1,13,30-45,50-59/2", "hour": "8-17"},
    {"minute": "50-10/5"},
    {"minute": [0, 30], "hour": {6, 18}},
    {"minute": 0, "hour": "0,8-17/2"},
    {"minute": 0, "hour": "22-2"},
    {"minute": 30, "hour": 7, "day_of_week": 1},
    {"minute": 30, "hour": 7, "day_of_week": 0},
    {"minute": 30, "hour": 7, "day_of_week": "sunday"},
    {"minute": 0, "hour": 0, "day_of_week": "mon-fri"},
    {"minute": 0, "hour": 0, "day_of_week": "Sat-Mon"},
    {"minute": 0, "hour": 0, "day_of_week": "fri-tue/2"},
    {"minute": 0, "hour": 0, "day_of_week": "*/2"},
    {"minute": 0, "hour": "*/3", "day_of_week": "thu,fri"},
    {"minute": 0, "hour": 3, "day_of_month": "2"},
    {"minute": 0, "hour": 3, "day_of_month": "2-30/2"},
    {"minute": 0, "hour": 3, "day_of_month": "*/3"},
    {"minute": 0, "hour": 3, "day_of_month": 31},
    {"minute": 0, "hour": 3, "day_of_month": "29", "month_of_year": "feb"},
    {"minute": 0, "hour": 3, "day_of_month": "11", "month_of_year": "2,5,11"},
    {"minute": 0, "hour": 3, "day_of_month": "1", "month_of_year": "*/3"},
    {"minute": 0, "hour": 3, "month_of_year": "2-12/2", "day_of_week": "wed"},
    {"minute": 0, "hour": 3, "month_of_year": "nov-feb", "day_of_month": "28-31"},
    # Both kinds of days: they have to be both.
    {"minute": 0, "hour": 0, "day_of_month": "1-7,15-21", "day_of_week": 1},
    {"minute": 0, "hour": 0, "day_of_month": "13", "day_of_week": "fri"},
    {"minute": 0, "hour": 0, "day_of_month": "1", "day_of_week": "sun"},
    {"minute": "*/20", "hour": 4, "day_of_month": "2-31", "day_of_week": "1-5"},
)
#: From when, and how far, the firing times are compared.
START = datetime(2027, 1, 29, 11, 7, tzinfo=timezone.utc)
MOST_FIRINGS, LONGEST = 60, timedelta(days=1500)
ZONES = (None, "Europe/Berlin", "Asia/Kolkata")


def celerys_times(crontab: Any, start: datetime) -> Iterator[datetime]:
    """Yield when celery beat sends a task, in UTC."""
    while True:
        crontab.nowfun = lambda now=start: now
        left = crontab.remaining_estimate(start)
        due = start.astimezone(timezone.utc) + left
        yield due
        start = due.astimezone(start.tzinfo)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("arguments", CRONTABS, ids=str)
def test_a_crontab_is_due_when_celery_finds_it_due(
    arguments: dict[str, Any], zone: str | None
) -> None:
    app = celery.Celery(set_as_current=False)
    conf = Conf({} if zone is None else {"timezone": zone}, {})
    app.conf.timezone = zone
    control = celery.schedules.crontab(**arguments, app=app)
    start = START.astimezone(ZoneInfo(zone or "UTC"))
    times = itertools.islice(celerys_times(control, start), MOST_FIRINGS)
    expected = list(itertools.takewhile(lambda each: each - start < LONGEST, times))
    assert expected
    for crontab in (control, ours.crontab(**arguments)):
        due = when(crontab, conf, "here")
        assert due.keys() <= {"cron", "cron_offset"}
        # All minutes at which one of the two may be due, and the ones before and after.
        candidates = {
            each + timedelta(minutes=shift) for each in expected for shift in range(-61, 62)
        }
        candidates |= set(days(start, expected[-1], expected[0].astimezone(start.tzinfo)))
        found = [
            each
            for each in sorted(candidates)
            if start < each <= expected[-1]
            and is_cron_task_now(due["cron"], each, due.get("cron_offset"))
        ]
        assert found == expected


def days(start: datetime, end: datetime, time_of_day: datetime) -> Iterator[datetime]:
    """Yield each day's local time of day."""
    day = start.replace(hour=time_of_day.hour, minute=time_of_day.minute)
    while day <= end:
        yield day.astimezone(timezone.utc)
        day += timedelta(days=1)


@pytest.mark.parametrize(
    "arguments",
    [
        *({"minute": 60}, {"minute": "x"}, {"hour": "*/0"}, {"hour": ""}, {"day_of_week": 7}),
        *({"day_of_month": 0}, {"month_of_year": 13}, {"minute": "5-61"}, {"minute": "1,,2"}),
        {"day_of_month": 31, "month_of_year": "feb,apr"},
    ],
    ids=str,
)
def test_a_crontab_that_celery_refuses_is_refused(arguments: dict[str, Any]) -> None:
    for crontab in (celery.schedules.crontab, ours.crontab):
        with pytest.raises((ValueError, celery.schedules.ParseException)):
            crontab(**arguments)


def test_crontabs_compare_by_what_they_are() -> None:
    assert ours.crontab.from_string("0 */12 1,2 feb sun") == ours.crontab(
        0, [0, 12], "sun", {1, 2}, 2
    )
    assert ours.crontab(minute=1) != ours.crontab(minute=2)
    assert len({ours.crontab(minute="0,30"), ours.crontab(minute="*/30")}) == 1


@pytest.mark.parametrize(
    ("given", "relative", "expected"),
    [
        (30, False, {"interval": 30}),
        (30.0, False, {"interval": 30}),
        (timedelta(hours=2), False, {"interval": 7200}),
        (celery.schedules.schedule(20), False, {"interval": 20}),
        (ours.schedule(timedelta(minutes=1)), False, {"interval": 60}),
        (celery.schedules.schedule(600, relative=True), False, {"cron": "*/10 * * * *"}),
        (3600, True, {"cron": "0 * * * *"}),
        (timedelta(hours=6), True, {"cron": "0 */6 * * *"}),
        (ours.schedule(86400, relative=True), False, {"cron": "0 0 * * *"}),
    ],
)
def test_an_interval_is_one_of_whole_seconds(
    given: Any, relative: bool, expected: dict[str, Any], recwarn: pytest.WarningsRecorder
) -> None:
    assert when(given, Conf({}, {}), "here", relative=relative) == expected
    assert not recwarn.list


@pytest.mark.parametrize(
    ("given", "relative", "interval"), [(0.4, False, 1), (2.5, False, 3), (7000, True, 7000)]
)
def test_an_interval_that_cannot_be_kept_is_shown(
    given: float, relative: bool, interval: int
) -> None:
    with pytest.warns(DagsterCeleryWarning, match="The entry"):
        due = when(given, Conf({}, {}), "The entry", relative=relative)
    assert due == {"interval": interval}


@pytest.mark.parametrize("given", [0, -1, timedelta(0), "hourly", None, object(), True])
def test_a_schedule_of_another_kind_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match="The entry"):
        when(given, Conf({}, {}), "The entry")


def test_schedules_by_the_sun_are_refused_with_what_to_use() -> None:
    class solar:
        """As Celery's, which needs a package of its own."""

    with pytest.raises(ConfigError, match="crontab"):
        when(solar(), Conf({}, {}), "The entry")
    with pytest.raises(ConfigError, match="crontab"):
        ours.solar("sunset", -37.81753, 144.96715)


def test_without_utc_the_zone_of_the_machine_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/Lima")
    noon = ours.crontab(0, 12)
    local = {"cron": "0 12 * * *", "cron_offset": "America/Lima"}
    assert when(noon, Conf({"enable_utc": False}, {}), "here") == local
    named = Conf({"enable_utc": False, "timezone": ZoneInfo("Asia/Tokyo")}, {})
    assert when(noon, named, "here")["cron_offset"] == "Asia/Tokyo"
    assert "cron_offset" not in when(noon, Conf({"enable_utc": True}, {}), "here")


async def schedules_of(app: CeleryApp) -> tuple[BeatSchedules, dict[str, ScheduledTask]]:
    source = BeatSchedules(app)
    await source.startup()
    return source, {each.schedule_id: each for each in await source.get_schedules()}


async def test_an_entry_has_all_that_a_call_of_its_task_has() -> None:
    app = CeleryApp(broker="memory://", backend="rpc://")

    @app.task(name="with options", queue="of the task", time_limit=5)
    def function(*_: Any, **__: Any) -> None: ...

    app.conf.task_routes = {"routed": {"queue": "of the route"}}
    app.conf.beat_schedule = {
        "a": {"task": "with options", "schedule": 60, "args": (1,), "kwargs": {"b": 2}},
        "b": {"task": "routed", "schedule": 60, "options": {"priority": 7, "expires": 30}},
        "c": {"task": "x", "schedule": 60, "args": [datetime(2027, 1, 1)], "relative": True},
    }
    app.conf.beat_schedule["d"] = {"task": "x", "schedule": 5}
    key = app.add_periodic_task(ours.crontab(), function.s(1, c=3).set(priority=2), (0,))
    assert app.add_periodic_task(9, function.si(1), (0,), name="named", queue="q") == "named"
    source, found = await schedules_of(app)
    assert found.keys() == {*(f"beat:{each}" for each in "abcd"), f"beat:{key}", "beat:named"}
    began = time.time()
    for each in found.values():
        source.pre_send(each)
    a, b, c, signed = (found[f"beat:{each}"] for each in ("a", "b", "c", key))
    assert (a.task_name, a.args, a.kwargs, a.interval) == ("with options", [1], {"b": 2}, 60)
    assert (a.labels["queue_name"], a.labels["time_limit"]) == ("of the task", 5)
    assert (b.labels["queue_name"], b.labels["priority"]) == ("of the route", 7)
    assert began + 29 < b.labels["expires_at"] < time.time() + 31
    assert c.cron == "*/1 * * * *"
    assert c.labels["typed_values"]
    assert (signed.args, signed.kwargs, signed.labels["priority"]) == ([0, 1], {"c": 3}, 2)
    assert (found["beat:named"].args, found["beat:named"].labels["queue_name"]) == ([1], "q")


def test_a_signature_of_several_tasks_is_no_periodic_task() -> None:
    app = CeleryApp(broker="memory://", backend="rpc://")

    @app.task
    def function() -> None: ...

    for each in (chain(function.s(), function.s()), group(function.s())):
        with pytest.raises(ConfigError, match="Write a task that sends it"):
            app.add_periodic_task(60, each)


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"schedule": 1}, 'no "task"'),
        ({"task": "t"}, 'no "schedule"'),
        ({"task": "t", "schedule": 1, "shedule": 2}, "shedule"),
        ({"task": "t", "schedule": 1, "options": {"prority": 1}}, "priority"),
        ({"task": "t", "schedule": "daily"}, "of type str"),
    ],
)
async def test_an_entry_that_cannot_be_served_is_refused(
    entry: dict[str, Any], problem: str
) -> None:
    app = CeleryApp(broker="memory://", backend="rpc://")
    app.conf.beat_schedule = {"mine": entry}
    with pytest.raises(ConfigError, match=problem):
        await schedules_of(app)


def test_a_project_of_celerys_guide_has_its_periodic_tasks_run(
    tmp_path: Path, dagster_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tmp_path / "notes"
    notes.touch()
    monkeypatch.setenv("BEAT_PROJECT_NOTES", str(notes))
    monkeypatch.setenv("DAGSTER_TASKIQ_BROKER", f"sqlite:///{tmp_path / 'queue.db'}")
    app = ("-A", "compat_tests.facade.beat_project")
    commands = [["scheduler", "start", *app], ["worker", "start", *app, "-c", "1"]]
    logs = [tmp_path / f"{each[0]}.log" for each in commands]
    running = [
        start_program("dagster_taskiq", each, log) for each, log in zip(commands, logs, strict=True)
    ]
    wanted = {"second", "configured", "very final", "every=minute"}
    try:
        eventually(lambda: wanted <= set(notes.read_text().splitlines()))
    finally:
        for each in running:
            each.send_signal(signal.SIGTERM)
        assert [each.wait(30) for each in running] == [0, 0]
    assert set(notes.read_text().splitlines()) == wanted


#: Local times about the two changes of the clocks in Europe, and in a zone that shifts by half an
#: hour.
CHANGES = [
    *itertools.product(
        [(2027, 3, 26), (2027, 10, 29)],
        ["Europe/Berlin"],
        [(2, 0), (2, 30), (2, 59), (1, 59), (3, 0), (3, 30)],
    ),
    *itertools.product(
        [(2027, 4, 2), (2027, 10, 1)], ["Australia/Lord_Howe"], [(1, 45), (2, 0), (2, 15), (2, 30)]
    ),
]


@pytest.mark.parametrize(("day", "zone", "time_of_day"), CHANGES, ids=str)
def test_a_job_of_each_night_is_sent_once_when_the_clocks_change(
    day: tuple[int, int, int], zone: str, time_of_day: tuple[int, int]
) -> None:
    app = celery.Celery(set_as_current=False)
    app.conf.timezone = zone
    hour, minute = time_of_day
    control = celery.schedules.crontab(minute, hour, app=app)
    start = datetime(*day, tzinfo=ZoneInfo(zone))
    expected = list(itertools.islice(celerys_times(control, start), 4))
    due = when(ours.crontab(minute, hour), {"timezone": zone}, "here")
    task = ScheduledTask(task_name="t", labels={}, args=[], kwargs={}, schedule_id="s", **due)
    now, found = start.astimezone(timezone.utc), {}
    while now <= expected[-1] + timedelta(hours=2):
        # A scheduler looks each minute, and has the schedules read each time.
        for each in with_skipped([task], now):
            is_due = (
                each.time == now
                if each.time
                else is_cron_task_now(each.cron or "", now, each.cron_offset)
            )
            if is_due:
                firing = firing_of(each, now, is_permanent=False)
                found.setdefault(firing.due, now)
        now += timedelta(minutes=1)
    assert list(found.values()) == expected


async def test_an_app_of_celerys_own_has_its_periodic_tasks_sent() -> None:
    app = celery.Celery("shop", broker="memory://", backend="rpc://", set_as_current=False)

    @app.task(name="note")
    def note(*_: str) -> None: ...

    @app.on_after_configure.connect
    def configured(sender: Any, **_: Any) -> None:
        sender.add_periodic_task(7.0, note.s("configured"), name="configured")

    @app.on_after_finalize.connect
    def finalized(sender: Any, **_: Any) -> None:
        sender.add_periodic_task(celery.schedules.crontab(), note.s("final"), name="finalized")

    app.conf.beat_schedule["plain"] = {"task": "note", "schedule": 5, "args": ("plain",)}
    source, found = await schedules_of(served(app))
    assert found.keys() == {"beat:plain", "beat:configured", "beat:finalized"}
    for each in found.values():
        source.pre_send(each)
    assert found["beat:finalized"].args == ["final"]
