"""The monitor with real workers: what its API and its events show of what happens."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from compat_tests.conftest import StartWorker, make_settings
from compat_tests.monitors import Answer, MonitorProcess, running_monitor
from compat_tests.sending import USER_TASKS, Sender, open_sender
from compat_tests.servers import RedisServer, own_redis
from compat_tests.waiting import eventually
from compat_tests.workers import running_worker
from dagster_taskiq.settings.settings import Settings

ADD, HOLD = (f"{USER_TASKS}:{name}" for name in ("add", "hold"))


#: The servers on which a queue may have any name.
any_name = pytest.mark.parametrize("broker_kind", ["redis"], indirect=True)


@dataclass(frozen=True)
class Stage:
    """A worker and a monitor of it."""

    settings: Settings
    monitor: MonitorProcess
    sender: Sender


@pytest.fixture(scope="module")
def stage(
    broker_kind: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp(f"monitor-{broker_kind}")
    settings = make_settings(broker_kind, directory, request).replace(lease=60.0)
    arguments = ("-i", USER_TASKS, "-q", "a,b", "-c", "2")
    with (
        running_worker(settings, directory, *arguments, name="w1"),
        running_monitor(settings, directory, "--dagster-url", "https://dagster/") as monitor,
        open_sender(settings) as sender,
    ):
        yield Stage(settings, monitor, sender)


class Held:
    """A task that runs until it is let go."""

    def __init__(self, sender: Sender, directory: Path, queue: str) -> None:
        self.started, self._go = directory / "started", directory / "go"
        self._sender = sender
        self.id = sender.send("hold", str(self.started), str(self._go), queue_name=queue)
        eventually(self.started.exists)

    def let_go(self) -> None:
        self._go.touch()
        self._sender.value(self.id)


def named(rows: list[dict[str, Any]], name: str, key: str = "name") -> dict[str, Any]:
    """Return the row with a name; an empty one if there is none."""
    return next((each for each in rows if each[key] == name), {})


def test_the_api_shows_what_waits_what_runs_and_who_serves_it(stage: Stage, tmp_path: Path) -> None:
    get = stage.monitor.get
    held = Held(stage.sender, tmp_path, "a")
    waiting = stage.sender.send("add", 1, 2, queue_name="unserved", priority=3)
    running = eventually(lambda: named(get("/api/tasks").json["running"], held.id, "id"))
    assert (running["worker"], running["queue"], running["name"]) == ("w1", "a", HOLD)
    assert running["pid"] == int(held.started.read_text())
    eventually(lambda: get("/api/queues/unserved").json["waiting"])
    queues = get("/api/queues").json["queues"]
    assert [each["name"] for each in queues] == ["a", "b", "unserved"]
    assert (queues[0]["running"], queues[0]["demand"], queues[0]["workers"]) == (1, 1, ["w1"])
    assert (queues[2]["waiting"], queues[2]["unserved"], queues[2]["workers"]) == (1, True, [])
    assert get("/api/queues/unserved").json == queues[2]
    (worker,) = get("/api/workers").json["workers"]
    assert (worker["state"], worker["slots"], worker["busy_slots"]) == ("busy", 2, 1)
    fleet = get("/api/fleet").json
    assert fleet["queues"] == get("/api/queues").json["queues"]
    assert (fleet["trouble"], fleet["at"] > 0) == ("", True)
    stage.sender.call(stage.sender.broker.cancel, waiting)
    held.let_go()
    eventually(lambda: not get("/api/tasks").json["running"])


def test_a_queue_that_nobody_knows_is_answered_with_zeros(stage: Stage) -> None:
    answer = stage.monitor.get("/api/queues/not%20there")
    assert (answer.status, answer.json["name"], answer.json["demand"]) == (200, "not there", 0)


def test_the_page_and_its_settings_are_served(stage: Stage) -> None:
    page = stage.monitor.get("/")
    assert (page.status, page.headers["Cache-Control"]) == (200, "no-cache")
    assert "<script type=" in page.text
    assert stage.monitor.get("/main.js").status == 200
    for path in ("/nothing.js", "/__init__.py", "/page/main.js", "/..%2fweb.py", "/api/none"):
        assert stage.monitor.get(path).status == 404
    settings = stage.monitor.get("/api/settings").json
    assert (settings["dagster_url"], settings["actions"]) == ("https://dagster", False)


def wait_for(events: Iterator[tuple[str, Any]], holds: Callable[[Any], Any]) -> Any:
    """Return the first event's JSON of which something holds."""
    return next(data for _, data in events if holds(data))


def test_a_stream_has_the_fleet_and_then_each_start_and_end(stage: Stage, tmp_path: Path) -> None:
    with stage.monitor.events() as events:
        name, data = next(events)
        assert (name, [each["name"] for each in data["workers"]]) == ("fleet", ["w1"])
        held = Held(stage.sender, tmp_path, "b")
        runs = wait_for(events, lambda data: named(data["running"], held.id, "id"))
        assert named(runs["queues"], "b")["running"] == 1
        held.let_go()
        ends = wait_for(events, lambda data: named(data["ended"], held.id, "id"))
        ended = named(ends["ended"], held.id, "id")
        assert (ended["outcome"], ended["worker"], ended["queue"]) == ("succeeded", "w1", "b")
        assert next(events)[1]["ended"] == [], "what was sent is not sent again"
    with stage.monitor.events() as events:
        name, data = next(events)
        assert name == "fleet"
        assert named(data["ended"], held.id, "id") == ended


def test_a_worker_that_is_killed_is_lost_with_its_tasks_and_then_goes(
    start_worker: StartWorker, settings: Settings, tmp_path: Path
) -> None:
    arguments = ("-i", USER_TASKS, "-q", "a")
    with (
        running_monitor(settings, tmp_path, "--show-lost", "3") as monitor,
        open_sender(settings) as sender,
    ):
        worker = start_worker(*arguments, lease=2.0)
        with monitor.events() as events:
            wait_for(events, lambda data: data["workers"])
            held = Held(sender, tmp_path, "a")
            wait_for(events, lambda data: data["running"])
            os.kill(worker.pid, signal.SIGKILL)
            lost = wait_for(events, lambda data: named(data["workers"], "lost", "state"))
            assert (lost["running"], named(lost["queues"], "a")) == ([], {})
            (ended,) = lost["ended"]
            assert (ended["id"], ended["outcome"]) == (held.id, "lost")
            assert "has been silent for" in ended["error"]
            wait_for(events, lambda data: not data["workers"])


def test_two_monitors_show_the_same_and_one_may_end(stage: Stage, tmp_path: Path) -> None:
    with running_monitor(stage.settings, tmp_path) as other:
        held = Held(stage.sender, tmp_path, "a")
        for monitor in (stage.monitor, other):
            eventually(
                lambda of=monitor: named(of.get("/api/tasks").json["running"], held.id, "id")
            )
        assert other.end() == 0
    held.let_go()
    eventually(lambda: not stage.monitor.get("/api/tasks").json["running"])


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with own_redis() as server:
        yield server


def trouble_of(monitor: MonitorProcess) -> str:
    return str(monitor.get("/api/fleet").json["trouble"])


def test_a_server_that_goes_away_and_comes_back_is_said_and_harms_nothing(
    server: RedisServer, tmp_path: Path
) -> None:
    settings = Settings(broker=server.url, heartbeat_interval=0.5)
    with (
        running_worker(settings, tmp_path, "-q", "a"),
        running_monitor(settings, tmp_path) as monitor,
        monitor.events() as events,
    ):
        wait_for(events, lambda data: data["workers"])
        for away, back in ((server.kill, server.start), (server.freeze, server.thaw)):
            away()
            gone = wait_for(events, lambda data: data["trouble"])
            assert f"{server.url} " in gone["trouble"]
            assert "Check that" in gone["trouble"]
            assert [each["name"] for each in gone["workers"]] == ["w1"], "as it was known last"
            answer = monitor.get("/api/queues/a")
            assert (answer.status, list(answer.json)) == (503, ["trouble"])
            assert monitor.get("/healthz").text == "ok\n"
            back()
            wait_for(events, lambda data: not data["trouble"] and data["workers"])
            assert monitor.get("/api/queues/a").json["workers"] == ["w1"]


def test_an_action_that_a_silent_server_does_not_answer_is_given_up(
    server: RedisServer, tmp_path: Path
) -> None:
    asked: dict[str, Callable[[MonitorProcess], Answer]] = {
        "drain": lambda monitor: monitor.act("drain", worker="w"),
        "revoke": lambda monitor: monitor.act("revoke", task="t"),
        "requeue": lambda monitor: monitor.act("requeue", messages=["m"]),
        "list": lambda monitor: monitor.get("/api/rejected"),
    }
    with running_monitor(Settings(broker=server.url), tmp_path, "--allow-actions") as monitor:
        assert monitor.get("/api/rejected").json["messages"] == []
        server.freeze()
        with ThreadPoolExecutor(len(asked)) as threads:
            answers = dict(
                zip(asked, threads.map(lambda ask: ask(monitor), asked.values()), strict=True)
            )
        assert {each.status for each in answers.values()} == {503}
        assert "not known which messages" in answers.pop("list").json["error"]
        for answer in answers.values():
            assert "may still be carried out" in answer.json["error"]
        server.thaw()
        eventually(lambda: not trouble_of(monitor))
        assert monitor.get("/api/rejected").json["messages"] == []
        assert "asked for the action drain" in monitor.output()
    assert "never retrieved" not in monitor.output()


def test_a_monitor_that_starts_before_its_server_waits_for_it(
    server: RedisServer, tmp_path: Path
) -> None:
    server.kill()
    with running_monitor(Settings(broker=server.url), tmp_path) as monitor:
        assert "does not answer" in eventually(lambda: trouble_of(monitor))
        assert monitor.get("/api/queues/a").status == 503
        server.start()
        eventually(lambda: not trouble_of(monitor))
        assert monitor.get("/api/queues/a").json["demand"] == 0


@any_name
def test_names_are_data_whatever_is_in_them(stage: Stage) -> None:
    name = '<script>alert("1")</script>\n\\"é☃'
    task_id = stage.sender.send("add", 1, 2, queue_name=name)

    def shown() -> dict[str, Any]:
        return named(stage.monitor.get("/api/queues").json["queues"], name)

    assert eventually(shown)["waiting"] == 1
    answer = stage.monitor.get("/api/queues")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    with stage.monitor.events() as events:
        assert named(next(events)[1]["queues"], name)["unserved"]
    stage.sender.call(stage.sender.broker.cancel, task_id)


@pytest.mark.parametrize("broker_kind", ["embedded"], indirect=True)
def test_a_port_that_is_taken_is_named_in_a_sentence(settings: Settings, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        monitor = MonitorProcess(settings, tmp_path, "--port", port)
        assert monitor.process.wait(60) == 2
    assert f"Error: Cannot listen on 127.0.0.1, port {port}" in monitor.output()


def test_what_is_in_one_process_cannot_be_monitored(tmp_path: Path) -> None:
    monitor = MonitorProcess(Settings(broker="memory://"), tmp_path)
    assert monitor.process.wait(60) == 2
    assert "Error: memory:// is inside of one process" in monitor.output()
