"""Who may ask the monitor, and for what."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from taskiq import BrokerMessage

from compat_tests.conftest import StartWorker, make_settings
from compat_tests.monitors import MonitorProcess, basic, running_monitor
from compat_tests.sending import USER_TASKS, open_sender
from compat_tests.waiting import eventually
from dagster_taskiq.errors import TaskRevokedError
from dagster_taskiq.monitor.access import ACTION_HEADER, is_loopback
from dagster_taskiq.settings.settings import Settings

TOKEN = "s3cr3t-é"
JSON = ("Content-Type", "application/json")


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Settings:
    return make_settings("embedded", tmp_path_factory.mktemp("access"), request)


@pytest.fixture(scope="module")
def guarded(
    embedded: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MonitorProcess]:
    directory = tmp_path_factory.mktemp("guarded")
    with running_monitor(embedded, directory, "--allow-actions", token=TOKEN) as monitor:
        yield monitor


@pytest.fixture(scope="module")
def open_to_all(
    embedded: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MonitorProcess]:
    with running_monitor(embedded, tmp_path_factory.mktemp("open")) as monitor:
        yield monitor


PATHS = ("/", "/main.js", "/api/fleet", "/api/queues/a", "/api/none", "/events", "/metrics")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "shown",
    ["", "Bearer", "Bearer wrong", "Bearer s3cr3t", basic("a", "wrong"), "Basic %%%", "Digest a"],
)
def test_without_the_token_nothing_is_told(guarded: MonitorProcess, path: str, shown: str) -> None:
    answer = guarded.ask("GET", path, headers={"Authorization": shown} if shown else {})
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert TOKEN not in answer.text


def test_the_token_is_a_bearer_token_or_the_password_of_any_user(guarded: MonitorProcess) -> None:
    for shown in (f"Bearer {TOKEN}", f"bearer {TOKEN}", basic("", TOKEN), basic("me", TOKEN)):
        answer = guarded.ask("GET", "/api/fleet", headers={"Authorization": shown})
        assert answer.status == 200


def test_health_is_told_to_everybody(guarded: MonitorProcess) -> None:
    assert guarded.ask("GET", "/healthz").text == "ok\n"


def test_an_action_needs_the_token_too(guarded: MonitorProcess) -> None:
    headers = dict([ACTION_HEADER, JSON])
    assert guarded.ask("POST", "/api/actions/drain", b"{}", headers).status == 401


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9580", "127.0.0.1.evil.example"])
def test_the_page_of_a_stranger_reads_nothing_here(open_to_all: MonitorProcess, host: str) -> None:
    answer = open_to_all.ask("GET", "/api/fleet", headers={"Host": host})
    assert answer.status == 403
    assert "--host" in answer.text


def test_behind_a_proxy_the_token_counts_and_not_the_name(guarded: MonitorProcess) -> None:
    headers = {"Host": "monitor.example", "Authorization": basic("a", TOKEN)}
    assert guarded.ask("GET", "/api/fleet", headers=headers).status == 200
    del headers["Authorization"]
    assert guarded.ask("GET", "/api/fleet", headers=headers).status == 401


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9580", "127.0.0.1:9580", "[::1]:9580"])
def test_the_names_of_this_machine_are_answered(open_to_all: MonitorProcess, host: str) -> None:
    assert open_to_all.ask("GET", "/api/fleet", headers={"Host": host}).status == 200


def test_each_answer_tells_browsers_what_they_may_do_with_it(open_to_all: MonitorProcess) -> None:
    for path in ("/", "/api/fleet", "/api/none", "/healthz"):
        headers = open_to_all.get(path).headers
        assert "script-src 'self'" in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "aiohttp" not in headers["Server"]


@pytest.mark.parametrize("action", ["drain", "terminate", "revoke", "requeue", "delete"])
def test_without_being_allowed_there_are_no_actions(
    open_to_all: MonitorProcess, action: str
) -> None:
    assert open_to_all.act(action, worker="w1", task="t", messages=[]).status == 404
    assert open_to_all.get("/api/rejected").status == 404


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ([JSON], "X-Requested-With: dagster-taskiq"),
        ([ACTION_HEADER, ("Content-Type", "text/plain")], "Content-Type: application/json"),
        ([ACTION_HEADER, JSON, ("Origin", "https://evil.example")], "https://evil.example"),
        ([ACTION_HEADER, JSON, ("Origin", "null")], "null"),
    ],
)
def test_a_page_elsewhere_cannot_ask_for_actions(
    guarded: MonitorProcess, headers: list[tuple[str, str]], said: str
) -> None:
    authorization = {"Authorization": basic("a", TOKEN)}
    answer = guarded.ask(
        "POST", "/api/actions/drain", b'{"worker": "w"}', {**dict(headers), **authorization}
    )
    assert (answer.status, list(answer.json)) == (403, ["error"])
    assert said in answer.json["error"]


@pytest.mark.parametrize(
    ("action", "body", "status", "said"),
    [
        ("drain", {"worker": "w9"}, 404, "no worker w9"),
        ("terminate", {"worker": "w9"}, 404, "no worker w9"),
        ("drain", {}, 400, '"worker"'),
        ("drain", {"worker": 7}, 400, '"worker"'),
        ("revoke", {"task": ""}, 400, '"task"'),
        ("requeue", {"messages": []}, 400, '"messages"'),
        ("delete", {"messages": "7"}, 400, '"messages"'),
        ("delete", {"messages": ["7"]}, 409, "No message was deleted"),
    ],
)
def test_an_action_that_cannot_be_done_says_why(
    guarded: MonitorProcess, action: str, body: dict[str, object], status: int, said: str
) -> None:
    answer = guarded.act(action, **body)
    assert answer.status == status
    assert said in answer.json["error"]


def test_a_body_that_is_no_object_is_refused(guarded: MonitorProcess) -> None:
    headers = {**dict([ACTION_HEADER, JSON]), "Authorization": basic("a", TOKEN)}
    for body in (b"", b"[1]", b"{", b"\xff", b"[" * 200_000):
        answer = guarded.ask("POST", "/api/actions/drain", body, headers)
        assert (answer.status, list(answer.json)) == (400, ["error"])
    for wrong in ({"Content-Type": "application/json; charset=x"}, {"Content-Encoding": "gzip"}):
        body = b'{"worker": "w"}'
        answer = guarded.ask("POST", "/api/actions/drain", body, {**headers, **wrong})
        assert (answer.status, list(answer.json)) == (400, ["error"])
    assert "Traceback" not in guarded.output()


@pytest.mark.parametrize("id_", ["\ud800", "a\0b", "é" * 501])
def test_an_id_that_no_server_can_keep_is_refused(guarded: MonitorProcess, id_: str) -> None:
    for action, body in (("revoke", {"task": id_}), ("delete", {"messages": [id_]})):
        answer = guarded.act(action, **body)
        assert answer.status == 400
        assert "an id of at most 1000 bytes" in answer.json["error"]


def test_a_line_of_the_log_is_one_whatever_is_asked_for(guarded: MonitorProcess) -> None:
    answer = guarded.act("revoke", task=f"t1\n2026-11-30 forged\u202e{'x' * 900}")
    assert (answer.status, "is dropped" in answer.json["message"]) == (200, True)
    (line,) = eventually(
        lambda: [each for each in guarded.output().splitlines() if "forged" in each]
    )
    assert "asked for the action revoke" in line
    assert r"t1\n2026-11-30 forged\u202e" in line
    assert 'Named: "t1' in line
    assert len(line) < 1000


def test_what_is_no_http_is_refused_and_not_logged(guarded: MonitorProcess) -> None:
    assert guarded.get("/" + "x" * 9000).status == 400
    assert guarded.get("/healthz").status == 200
    assert "Error handling request" not in guarded.output()


def test_wrong_tokens_are_logged_once_in_a_while(embedded: Settings, tmp_path: Path) -> None:
    with running_monitor(embedded, tmp_path, token=TOKEN) as monitor:
        assert monitor.ask("GET", "/api/fleet").status == 401
        assert "wrong token" not in monitor.output()
        for _ in range(3):
            shown = {"Authorization": "Bearer wrong"}
            assert monitor.ask("GET", "/api/fleet", headers=shown).status == 401
        eventually(lambda: "has shown a wrong token" in monitor.output())
    assert monitor.output().count("wrong token") == 1


def test_space_around_a_token_is_no_part_of_it(embedded: Settings, tmp_path: Path) -> None:
    with running_monitor(embedded, tmp_path, token=f" {TOKEN}\n") as monitor:
        for shown in (f"Bearer {TOKEN}", basic("a", TOKEN), basic("a", f"{TOKEN}\n")):
            answer = monitor.ask("GET", "/api/fleet", headers={"Authorization": shown})
            assert answer.status == 200


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        ("https://monitor.example:443", "monitor.example", 404),
        ("https://monitor.example", "Monitor.Example:443", 404),
        ("http://[::1]:9580", "[::1]:9580", 404),
        ("https://monitor.example:444", "monitor.example", 403),
        ("https://monitor.example:x", "monitor.example", 403),
        ("https://other.example", "monitor.example", 403),
        ("ftp://monitor.example", "monitor.example", 403),
    ],
)
def test_its_own_page_is_known_by_host_and_port(
    guarded: MonitorProcess, origin: str, host: str, status: int
) -> None:
    shown = {"Authorization": basic("a", TOKEN), "Origin": origin, "Host": host}
    headers = {**dict([ACTION_HEADER, JSON]), **shown}
    answer = guarded.ask("POST", "/api/actions/drain", b'{"worker": "w9"}', headers)
    assert answer.status == status


@pytest.fixture
def acting(settings: Settings, tmp_path: Path) -> Iterator[MonitorProcess]:
    with running_monitor(settings, tmp_path, "--allow-actions") as monitor:
        yield monitor


def running_on(monitor: MonitorProcess) -> list[str]:
    return [each["id"] for each in monitor.get("/api/tasks").json["running"]]


def worker_id(monitor: MonitorProcess) -> str:
    (worker,) = eventually(lambda: monitor.get("/api/workers").json["workers"])
    return str(worker["id"])


def test_a_worker_is_drained_or_ended_and_a_task_is_cancelled(
    acting: MonitorProcess, start_worker: StartWorker, settings: Settings, tmp_path: Path
) -> None:
    worker = start_worker("-i", USER_TASKS, "-c", "1")
    go = tmp_path / "go"
    with open_sender(settings) as sender:
        held = sender.send("hold", str(tmp_path / "started"), str(go))
        waits = sender.send("add", 1, 2)
        eventually((tmp_path / "started").exists)
        assert "no record of a task" in acting.act("revoke", task=waits).json["message"]
        assert isinstance(sender.error(waits), TaskRevokedError)
        assert acting.act("revoke", task=waits).status == 409
        worker_id(acting)  # when it is known
        (name,) = [each["name"] for each in acting.get("/api/workers").json["workers"]]
        assert f"{name} was told to drain" in acting.act("drain", worker=name).json["message"]
        eventually(lambda: acting.get("/api/workers").json["workers"][0]["state"] == "draining")
        assert "its worker stops it" in acting.act("revoke", task=held).json["message"]
        assert isinstance(sender.error(held), TaskRevokedError)
        assert worker.wait() == 0
        second = start_worker("-i", USER_TASKS, "-c", "1")
        held = sender.send("hold", str(tmp_path / "again"), str(go))
        eventually(lambda: held in running_on(acting))
        answer = acting.act("terminate", worker=worker_id(acting))
        assert answer.status == 200, answer
        assert "told to end: it stops what it runs, 1 task." in answer.json["message"]
        assert second.wait() == 1
    assert f"asked for the action terminate: {answer.json['message']}" in acting.output()


def test_messages_that_were_set_aside_are_put_back_or_deleted(
    acting: MonitorProcess, start_worker: StartWorker, settings: Settings
) -> None:
    labels = {"queue_name": settings.queue}
    broken = BrokerMessage(task_id="t1", task_name="n", message=b'{"broken', labels=labels)
    with open_sender(settings) as sender:
        sender.put(broken)
        worker = start_worker()
        (message,) = eventually(lambda: acting.get("/api/rejected").json["messages"])
        assert (message["task_id"], message["preview"]) == ("t1", '{"broken')
        eventually(lambda: acting.get("/api/fleet").json["rejected"] == 1)
        worker.process.terminate()
        assert worker.wait() == 0
        answer = acting.act("requeue", messages=[message["id"], "no such id"])
        assert "1 message was put back into its queue. 1 not: " in answer.json["message"]
        eventually(lambda: acting.get(f"/api/queues/{settings.queue}").json["waiting"] == 1)
        start_worker()
        (message,) = eventually(lambda: acting.get("/api/rejected").json["messages"])
        assert acting.act("delete", messages=[message["id"]]).json["message"].endswith("deleted.")
        assert acting.get("/api/rejected").json["messages"] == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_to_act_for_other_machines_the_monitor_wants_a_secret(
    embedded: Settings, tmp_path: Path, host: str
) -> None:
    monitor = MonitorProcess(embedded, tmp_path, "--host", host, "--allow-actions")
    assert monitor.process.wait(60) == 2
    assert "Error: " in monitor.output()
    assert "DAGSTER_TASKIQ_MONITOR_TOKEN" in monitor.output()


def test_an_open_monitor_without_a_secret_warns(embedded: Settings, tmp_path: Path) -> None:
    with running_monitor(embedded, tmp_path, "--host", "0.0.0.0") as monitor:
        answer = monitor.ask("GET", "/api/fleet", headers={"Host": "monitor.example"})
        assert answer.status == 200
    assert "Everybody who reaches 0.0.0.0 may see" in monitor.output()


def test_an_empty_secret_is_none(embedded: Settings, tmp_path: Path) -> None:
    monitor = MonitorProcess(embedded, tmp_path, token="")
    assert monitor.process.wait(60) == 2
    assert "DAGSTER_TASKIQ_MONITOR_TOKEN is set, but empty" in monitor.output()


@pytest.mark.parametrize(
    ("host", "is_one"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.1", False),
        ("monitor.example", False),
        ("", False),
    ],
)
def test_what_only_this_machine_reaches_is_known(host: str, is_one: bool) -> None:
    assert is_loopback(host) is is_one
