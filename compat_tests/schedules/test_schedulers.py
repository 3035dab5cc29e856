"""Schedules of users' own tasks: real schedulers, of which several run at once, and a worker."""

import asyncio
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from taskiq.kicker import AsyncKicker
from taskiq.scheduler.created_schedule import CreatedSchedule

from compat_tests.conftest import StartWorker
from compat_tests.preloaded import start_program
from compat_tests.sending import Sender, open_sender
from compat_tests.servers import RedisServer, own_redis
from compat_tests.waiting import eventually
from compat_tests.workers import executor_config
from dagster_taskiq import app
from dagster_taskiq.client import client_for
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.schedules import StoredSchedules
from dagster_taskiq.schedules.due import task_id_of
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.wire.firings import Firing

MODULE = "compat_tests.scheduled_tasks"
TASK = f"{MODULE}:scheduled"


#: For brokers on which nothing differs from Redis but the store.
SAME_STORE = pytest.mark.test_all("Redis, and the contract of the store on all of them")


class SchedulerProcess:
    """A command that runs a scheduler."""

    def __init__(self, log: Path, module: str, *arguments: str) -> None:
        self.log = log
        self.process = start_program(module, arguments, log)

    @classmethod
    def of(cls, settings: Settings, directory: Path, name: str) -> "SchedulerProcess":
        """Start a ``dagster-taskiq scheduler start``."""
        config = directory / "scheduler.yaml"
        config.write_text(yaml.safe_dump(executor_config(settings)))
        options = ("-y", str(config), "--include", MODULE, "--update-interval", "1")
        return cls(directory / f"{name}.log", "dagster_taskiq", "scheduler", "start", *options)

    def sent(self) -> list[str]:
        """Return the ids of the tasks that it says it has sent."""
        lines = self.log.read_text().splitlines()
        return [line.rpartition(" ")[2].rstrip(".") for line in lines if " Sent " in line]

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, list[str]]]:
    """What the tasks have said: the ids of those that were sent, by the names of schedules."""
    file = tmp_path / "notes"
    file.touch()
    monkeypatch.setenv("SCHEDULED_TASKS_NOTES", str(file))

    def read() -> dict[str, list[str]]:
        found = defaultdict(list)
        for line in file.read_text().splitlines():
            name, task_id, _ = line.split()
            found[name].append(task_id)
        return found

    return read


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Callable[[str], SchedulerProcess]]:
    """Start a scheduler by its name."""
    with ExitStack() as stack:

        def started(name: str) -> SchedulerProcess:
            process = SchedulerProcess.of(settings, tmp_path, name)
            stack.callback(process.end)
            return process

        yield started


@pytest.fixture
def settings_of_file(tmp_path: Path) -> Settings:
    return Settings(broker=f"sqlite:///{tmp_path / 'queue.db'}")


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    with own_redis() as server:
        yield server


@pytest.fixture
def sender(settings: Settings) -> Iterator[Sender]:
    with open_sender(settings) as sender:
        yield sender


def call(sender: Sender, method: str, when: object, name: str, **labels: Any) -> Any:
    """Make a schedule, as ``task.schedule_by_...`` does."""
    source = StoredSchedules(sender.broker)
    kicker: AsyncKicker[Any, Any] = AsyncKicker(TASK, sender.broker, labels)
    return sender.call(lambda: getattr(kicker, f"schedule_by_{method}")(source, when, name))


def ids_of(schedule: str, since: float) -> set[str]:
    """Return the ids of the tasks of a schedule of each second."""
    seconds = range(int(since), int(time.time()) + 2)
    return {task_id_of(Firing(schedule, float(each), 0.0)) for each in seconds}


@pytest.mark.parametrize(
    "broker_kind",
    [
        "redis",
        "rabbitmq",
        pytest.param("embedded", marks=SAME_STORE),
        pytest.param("postgresql", marks=SAME_STORE),
    ],
    indirect=True,
)
def test_two_schedulers_send_each_firing_once_also_when_one_is_killed(
    settings: Settings,
    broker_kind: str,
    notes: Callable[[], dict[str, list[str]]],
    start_worker: StartWorker,
    start: Callable[[str], SchedulerProcess],
) -> None:
    began = time.time()
    first, second = start("first"), start("second")
    start_worker("--include", MODULE, "-c", "1")
    eventually(lambda: len(notes()["each-second"]) >= 3 and notes()["past"])
    first.end(signal.SIGKILL)
    had = len(notes()["each-second"])
    eventually(lambda: len(notes()["each-second"]) >= had + 3)
    third = start("third")
    eventually(lambda: len(notes()["each-second"]) >= had + 6)
    assert [second.end(), third.end()] == [0, 0]
    sent = [each for scheduler in (first, second, third) for each in scheduler.sent()]
    eventually(lambda: {each for found in notes().values() for each in found} >= set(sent))
    found = notes()
    assert set(found["each-second"]) <= ids_of("each-second", began)
    # There is a second firing if the minute has changed meanwhile.
    minutes = {int(each) // 60 for each in (began, time.time())}
    assert len(found["each-minute"]) <= len(minutes)
    for name, ids in found.items():
        assert len(ids) == len(set(ids)), name
    if broker_kind != "rabbitmq":  # where each scheduler sends a message, of which one is started
        assert len(sent) == len(set(sent))
        assert len(found["past"]) == 1


@pytest.mark.parametrize("broker_kind", ["embedded", "redis", "postgresql"], indirect=True)
def test_schedules_that_are_made_meanwhile_are_sent_until_they_are_unmade(
    tmp_path: Path,
    sender: Sender,
    notes: Callable[[], dict[str, list[str]]],
    start_worker: StartWorker,
    start: Callable[[str], SchedulerProcess],
) -> None:
    soon = datetime.now(timezone.utc) + timedelta(seconds=1)
    call(sender, "time", soon - timedelta(days=400), "late")
    for name in ("first", "second"):
        start(name)
    start_worker("--include", MODULE, "-c", "1")
    each: CreatedSchedule[Any] = call(sender, "interval", 1, "interval")
    call(sender, "time", soon, "once")
    call(sender, "cron", "* * * * *", "cron")
    sender.value(sender.send(f"{MODULE}:plan", "planned"))
    labels = {"retry_on_error": True, "max_retries": 4, "mine": "my label"}
    retried = sender.send(f"{MODULE}:good_at_third", str(tmp_path / "tries"), **labels)
    assert sender.value(retried) == [retried, 1, "my label", 2]
    assert (tmp_path / "tries").read_text() == "tried\n" * 3
    eventually(lambda: set(notes()) >= {"late", "once", "cron", "interval", "planned"})
    source = StoredSchedules(sender.broker)
    kept = eventually(
        lambda: [
            found
            for found in [sender.call(source.get_schedules)]
            if not any(one.time for one in found)
        ]
    )
    assert {one.args[0] for one in kept[0]} == {"interval", "cron"}
    sender.call(each.unschedule)
    had = len(notes()["each-second"])
    # Both schedulers have looked again by then, and sent what they sent before.
    eventually(lambda: len(notes()["each-second"]) >= had + 3)
    unmade = len(notes()["interval"])
    eventually(lambda: len(notes()["each-second"]) >= had + 6)
    found = notes()
    assert len(found["interval"]) == unmade
    assert [len(found[name]) for name in ("late", "once", "planned")] == [1, 1, 1]
    for name, ids in found.items():
        assert len(ids) == len(set(ids)), name


@pytest.mark.parametrize("broker_kind", ["rabbitmq"], indirect=True)
def test_a_schedule_for_a_server_that_keeps_none_is_refused(sender: Sender) -> None:
    with pytest.raises(ConfigError, match=r"keeps no schedules.*PostgreSQL, Redis or SQLite"):
        call(sender, "cron", "* * * * *", "never")


def test_a_scheduler_waits_for_a_server_that_is_away_and_goes_on(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    settings = Settings(broker=redis_server.url)
    redis_server.stop()
    scheduler = SchedulerProcess.of(settings, tmp_path, "patient")
    try:
        eventually(lambda: "Trying again" in scheduler.log.read_text())
        for _ in range(2):
            redis_server.start()
            had = len(scheduler.sent())
            eventually(lambda had=had: len(scheduler.sent()) >= had + 3)
            said = scheduler.log.read_text().count("Trying again")
            redis_server.stop()
            eventually(lambda said=said: scheduler.log.read_text().count("Trying again") > said)
        sent = scheduler.sent()
        assert len(sent) == len(set(sent))
    finally:
        assert scheduler.end() == 0
    assert "Traceback" not in scheduler.log.read_text()


@pytest.mark.parametrize(
    "scheduler", ["dagster_taskiq.app:scheduler", f"{MODULE}:as_taskiqs_guide_has_it"]
)
def test_taskiqs_own_command_runs_schedulers_of_our_broker(
    scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'queue.db'}"
    monkeypatch.setenv("DAGSTER_TASKIQ_BROKER", url)
    process = SchedulerProcess(tmp_path / "log", "taskiq", "scheduler", scheduler, MODULE)
    client = client_for(Settings(broker=url))
    try:
        eventually(lambda: sum(each.waiting for each in client.depths()) >= 4)
    finally:
        assert process.end() == -signal.SIGTERM


def test_schedules_are_made_and_unmade_on_any_event_loop(settings_of_file: Settings) -> None:
    broker = app.make(settings_of_file)
    source = StoredSchedules(broker)
    kicker: AsyncKicker[Any, Any] = AsyncKicker(TASK, broker, {})
    made = [asyncio.run(kicker.schedule_by_cron(source, "0 0 1 1 *", name)) for name in "ab"]
    asyncio.run(made[0].unschedule())
    (left,) = asyncio.run(source.get_schedules())
    assert (left.args, left.schedule_id) == (["b"], made[1].schedule_id)
    asyncio.run(broker.shutdown())
