"""The command line as its users see it: what it prints, and with which exit code it ends."""

import asyncio
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster
import psutil
import pytest

from compat_tests.brokers import Limit, has_limit
from compat_tests.checkout import ROOT
from compat_tests.conftest import StartWorker, make_settings
from compat_tests.sending import USER_TASKS, Sender, open_sender
from compat_tests.servers import RedisServer, free_port, own_redis
from compat_tests.waiting import eventually
from compat_tests.workers import WorkerProcess, executor_config, running_worker
from dagster_taskiq import cli as command_line
from dagster_taskiq import client
from dagster_taskiq.cli import main
from dagster_taskiq.cli.worker_tables import show_workers
from dagster_taskiq.client import client_for
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.settings.urls import redact
from dagster_taskiq.transport.registry import make_backend
from dagster_taskiq.version import __version__
from dagster_taskiq.wire.records import Running, TaskState, Worker
from dagster_taskiq.worker.cores import usable_cores
from dagster_taskiq.worker.fork_server import process
from dagster_taskiq.worker.options import default_concurrency

INCLUDE = ("-i", USER_TASKS)

one_broker = pytest.mark.parametrize("broker_kind", ["embedded"], indirect=True)


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    error: str

    @property
    def sentence(self) -> str:
        """What it said went wrong, and nothing else."""
        assert (self.code, self.out) == (2, "")
        (line,) = self.error.splitlines()
        assert line.startswith("Error: ")
        return line


Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process, which has imported Dagster already."""
    for name in ("DAGSTER_TASKIQ_BROKER", "DAGSTER_TASKIQ_BACKEND"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["dagster-taskiq", *arguments])
        capsys.readouterr()
        code = 0
        # A process ends with the command, and what it does at signals with it.
        handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1 if end.code else 0
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return run


@pytest.fixture
def config(settings: Settings, tmp_path: Path) -> tuple[str, str]:
    return config_for(settings, tmp_path)


def config_for(settings: Settings, directory: Path) -> tuple[str, str]:
    """Return the option that names a file with these settings."""
    path = directory / "cli.yaml"
    path.write_text(json.dumps(executor_config(settings)))  # JSON is YAML
    return ("-y", str(path))


def beat_of(settings: Settings, name: str, lease: float, **more: Any) -> None:
    """Leave a worker's heartbeat, as one that died since has left it."""

    async def work() -> None:
        backend = make_backend(settings)
        backend.home.use_running_loop()
        await backend.startup()
        await backend.beat(Worker(name, name, "far-away", 99, ("q",), 3, "0.0", lease, **more))
        await backend.shutdown()

    asyncio.run(work())


# -- a worker that runs something ------------------------------------------------------------


@dataclass(frozen=True)
class Busy:
    """A worker with one of its two slots taken, and two tasks that nobody serves."""

    settings: Settings
    worker: WorkerProcess
    config: tuple[str, str]
    #: The process that runs the task.
    pid: int


@pytest.fixture(scope="module")
def busy(
    broker_kind: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Busy]:
    directory = tmp_path_factory.mktemp(f"cli-{broker_kind}")
    settings = make_settings(broker_kind, directory, request).replace(lease=60.0)
    arguments = (*INCLUDE, "-q", "a", "-q", "b,c", "-c", "2", "--kill-grace", "12")
    with (
        running_worker(settings, directory, *arguments, name="busy") as worker,
        open_sender(settings) as sender,
    ):
        started, go = directory / "started", directory / "go"
        held = sender.send("hold", str(started), str(go), queue_name="c")
        eventually(started.exists)
        for _ in range(2):
            sender.send("add", 1, 2, queue_name="gpu")
        client = client_for(settings)
        eventually(lambda: any(each.running for each in client.workers()))
        eventually(lambda: all(task.pid for each in client.workers() for task in each.running))
        pid = int(started.read_text())
        yield Busy(settings, worker, config_for(settings, directory), pid)
        go.touch()
        sender.value(held)


def test_worker_list_shows_workers_and_what_they_run(run: Run, busy: Busy) -> None:
    outcome = run("worker", "list", *busy.config)
    assert outcome.code == 0
    lines = [line.split("\t") for line in outcome.out.splitlines()]
    assert lines.pop(0) == [f"Broker: {redact(busy.settings.broker)}"]
    assert lines[:2] == [
        ["# Workers"],
        ["worker", "state", "host", "pid", "queues", "slots", "runs", "seen", "version"],
    ]
    name, state, _, pid, queues, slots, runs, seen, version = lines[2]
    assert (name, state, pid) == ("busy", "busy", str(busy.worker.pid))
    assert (queues, slots, runs, version) == ("a,b,c", "1/2", "0/10", __version__)
    assert re.fullmatch(r"\d+s ago", seen)
    assert lines[3:5] == [["# Running"], ["worker", "pid", "run", "step", "since"]]
    assert lines[5][:4] == ["busy", str(busy.pid), "-", f"{USER_TASKS}:hold"]


def test_worker_list_as_json_has_all_that_is_known(run: Run, busy: Busy) -> None:
    outcome = run("worker", "list", "--json", *busy.config)
    assert outcome.code == 0
    (worker,) = json.loads(outcome.out)
    assert (worker["name"], worker["pid"]) == ("busy", busy.worker.pid)
    assert worker["queues"] == ["a", "b", "c"]
    assert (worker["concurrency"], worker["version"]) == (2, __version__)
    assert (worker["lost"], worker["lease"], worker["kill_grace"]) == (False, 60.0, 12.0)
    assert worker["host"]
    assert worker["age"] >= 0
    (running,) = worker["running"]
    assert (running["name"], running["pid"]) == (f"{USER_TASKS}:hold", busy.pid)
    assert running["seconds"] >= 0


def test_status_shows_queues_and_workers_and_is_content(
    run: Run, busy: Busy, broker_kind: str
) -> None:
    outcome = run("status", *busy.config)
    assert outcome.code == 0
    lines = [line.split("\t") for line in outcome.out.splitlines()]
    assert lines.pop(0) == [f"Broker: {redact(busy.settings.broker)}"]
    # Shown where it is another server than the broker's.
    if busy.settings.backend_url != busy.settings.broker:
        assert lines.pop(0) == [f"Backend: {redact(busy.settings.backend_url)}"]
    columns = ["queue", "waiting", "starting", "oldest", "unserved"]
    assert lines[:2] == [["# Queues"], columns]
    # RabbitMQ does not tell how many messages are with a worker that has not started them.
    assert lines[2][:3] == ["gpu", "2", "-" if broker_kind == "rabbitmq" else "0"]
    assert lines[2][-1] == "no worker serves it"
    assert ["# Workers"] in lines
    assert "busy" in outcome.out


def test_status_as_json_has_queues_workers_and_what_was_set_aside(
    run: Run, busy: Busy, broker_kind: str
) -> None:
    outcome = run("status", "--json", *busy.config)
    document = json.loads(outcome.out)
    (queue,) = document["queues"]
    claimed = None if broker_kind == "rabbitmq" else 0
    assert (queue["queue"], queue["waiting"], queue["claimed"]) == ("gpu", 2, claimed)
    assert queue["unserved"]
    if has_limit(busy.settings, Limit.AGE):
        assert queue["oldest_age"] is None
    else:
        assert queue["oldest_age"] >= 0
    assert [each["name"] for each in document["workers"]] == ["busy"]
    assert document["rejected"] == 0
    assert document["broker"] == redact(busy.settings.broker)
    assert document["backend"] == redact(busy.settings.backend_url)


@one_broker
def test_a_queue_is_served_by_workers_that_are_alive_and_take_more(
    run: Run, settings: Settings, config: tuple[str, str]
) -> None:
    with open_sender(settings) as sender:
        for queue in ("q", "q:runs", "other"):
            sender.call(sender.broker.put, queue, queue, 0, b"")

    def unserved() -> list[str]:
        document = json.loads(run("status", "--json", *config).out)
        return [each["queue"] for each in document["queues"] if each["unserved"]]

    assert unserved() == ["other", "q", "q:runs"]
    beat_of(settings, "one that drains", 60.0, draining=True)
    beat_of(settings, "a lost one", 0.0)
    assert unserved() == ["other", "q", "q:runs"]
    beat_of(settings, "one that takes them", 60.0)
    assert unserved() == ["other"]
    rows = [line.split("\t") for line in run("status", *config).out.splitlines()]
    assert {row[0]: row[-1] for row in rows if row[0] in ("q", "other")} == {
        "q": "",
        "other": "no worker serves it",
    }


@pytest.mark.parametrize("form", ["text", "json"])
def test_status_watch_prints_again_and_again_also_while_the_server_is_away(
    tmp_path: Path, form: str
) -> None:
    output = tmp_path / "output"
    with own_redis() as server, output.open("wb") as file:
        options = ["--watch=0.2", "-b", server.url, *(["--json"] if form == "json" else [])]
        watching = subprocess.Popen(
            [sys.executable, "-m", "dagster_taskiq", "status", *options],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "FORCE_COLOR": "1", "PYTHONPATH": str(ROOT)},
        )
        good, bad = ('"queues"', '"error"') if form == "json" else ("# Queues", "Error: ")

        def count(text: str) -> int:
            return output.read_text().count(text)

        try:
            eventually(lambda: count(good) >= 2)
            server.stop()
            eventually(lambda: count(bad) >= 2)
            before = count(good)
            server.start()
            eventually(lambda: count(good) > before)
        finally:
            watching.send_signal(signal.SIGINT)
            assert watching.wait(30) == 1  # there is no worker
    lines = output.read_text().splitlines()
    assert not any("\x1b" in line for line in lines)
    if form == "json":
        times = [json.loads(line)["at"] for line in lines]
    else:
        times = [line[2:] for line in lines if re.match(r"# \d", line)]
    assert all(datetime.fromisoformat(each).tzinfo for each in times)
    assert len(times) == count(good) + count(bad)


def test_status_watch_and_local_exclude_each_other(run: Run) -> None:
    outcome = run("status", "--watch", "--local")
    assert outcome.code == 2
    assert "--local" in outcome.error


def test_status_of_one_worker_is_content_with_that_one_only(run: Run, busy: Busy) -> None:
    assert run("status", "--worker", "busy", *busy.config).code == 0
    assert run("status", "--worker", "another", *busy.config).code == 1


@one_broker
def test_on_a_terminal_lists_are_tables(
    run: Run, busy: Busy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    shown = run("status", *busy.config).out
    for word in ("Queues", "Workers", "Running", "gpu", "busy", "a,b,c", "──"):
        assert word in shown
    assert not re.search(r"^[\w#].*\t", shown, re.MULTILINE)


def test_of_a_lost_worker_nothing_is_said_to_run(capsys: pytest.CaptureFixture[str]) -> None:
    running = (Running("t", "task", "", "", 7, 1.0),)
    worker = Worker("id", "gone", "host", 6, ("q",), 1, __version__, 30.0, running=running)
    show_workers([replace(worker, age=31.0)])
    assert "lost" in (out := capsys.readouterr().out) and "Running" not in out
    show_workers([worker])
    assert "Running" in capsys.readouterr().out


@one_broker
def test_terminating_an_unknown_worker_names_those_there_are(run: Run, busy: Busy) -> None:
    outcome = run("worker", "terminate", "busy", "nobody", *busy.config)
    assert outcome.sentence == "Error: No such worker: nobody. There are: busy."
    # Nothing was done by halves.
    assert [each.name for each in client_for(busy.settings).workers()] == ["busy"]


@one_broker
@pytest.mark.parametrize("arguments", [(), ("busy", "--all")])
def test_terminate_wants_names_or_all(run: Run, busy: Busy, arguments: tuple[str, ...]) -> None:
    outcome = run("worker", "terminate", *arguments, *busy.config)
    assert outcome.code == 2
    assert "Name the workers to end, or give --all." in outcome.error


# -- without a worker ------------------------------------------------------------------------


def test_status_without_a_worker_is_not_content(run: Run, config: tuple[str, str]) -> None:
    outcome = run("status", *config)
    assert (outcome.code, outcome.error) == (1, "")
    assert next(line for line in outcome.out.splitlines() if ": " not in line) == "# Queues"
    assert json.loads(run("worker", "list", "--json", *config).out) == []


def test_status_of_a_default_broker_without_workers_asks_for_its_name(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    outcome = run("status")
    assert outcome.code == 1
    assert (
        "default broker" in outcome.error
        and "-b, -y, -A or $DAGSTER_TASKIQ_BROKER" in outcome.error
    )
    named = run("status", "-b", "embedded://")
    assert (named.code, named.error) == (1, "")


def test_a_monitor_of_the_default_broker_says_so(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        # It ends at once.
        outcome = run("monitor", "--port", str(taken.getsockname()[1]))
        named = run("monitor", "-b", "embedded://", "--port", str(taken.getsockname()[1]))
    assert outcome.code != 0 != named.code
    assert "default broker" in outcome.error
    assert "default broker" not in named.error


def test_status_with_a_lost_worker_is_not_content(
    run: Run, settings: Settings, config: tuple[str, str]
) -> None:
    beat_of(settings, "dead", lease=0.01)
    eventually(lambda: run("status", *config).code == 1)
    (worker,) = json.loads(run("worker", "list", "--json", *config).out)
    assert worker["lost"]
    assert run("worker", "list", *config).out.splitlines()[3].split("\t")[:2] == ["dead", "lost"]
    assert "There are: none." in run("worker", "terminate", "dead", *config).sentence


def test_workers_are_listed_with_what_is_not_as_expected_in_their_dagster(
    run: Run, settings: Settings, config: tuple[str, str]
) -> None:
    beat_of(settings, "as-expected", lease=60.0)
    beat_of(settings, "otherwise", lease=60.0, unexpected_parts=("event log rows", "another"))
    for command in (("status",), ("worker", "list")):
        (line,) = [x for x in run(*command, *config).out.splitlines() if "as expected (" in x]
        assert line.startswith(
            "otherwise: Dagster is not as expected (event log rows, another), so"
        )


@one_broker
def test_a_worker_logs_which_parts_of_dagster_it_uses(busy: Busy) -> None:
    (found,) = re.findall(r"as expected in (\d+) of the (\d+) parts", busy.worker.output())
    assert len(set(found)) == 1


def test_status_tells_of_messages_that_were_set_aside(
    run: Run, settings: Settings, config: tuple[str, str]
) -> None:
    async def work(sender: Sender) -> None:
        await sender.broker.put("t", "dagster", 0, b"garbage")
        delivery = await sender.broker.claim()
        assert delivery is not None
        await sender.broker.reject(delivery, "nobody understands it")

    with open_sender(settings) as sender:
        sender.call(work, sender)
    assert "1 message(s) were set aside as unreadable" in run("status", *config).out
    assert json.loads(run("status", "--json", *config).out)["rejected"] == 1


@one_broker
def test_rejected_messages_are_listed_requeued_and_deleted_by_their_ids(
    run: Run, settings: Settings, config: tuple[str, str]
) -> None:
    async def work(sender: Sender) -> None:
        for task_id in ("t", "u\x1b[31m", "v"):
            await sender.broker.put(task_id, "dagster", 0, b"garbage \x1b[2J")
            delivery = await sender.broker.claim()
            assert delivery is not None
            await sender.broker.reject(delivery, "nobody\nunderstands it")

    with open_sender(settings) as sender:
        sender.call(work, sender)
    outcome = run("rejected", "list", "--limit", "2", *config)
    title, columns, *rows, more = [line.split("\t") for line in outcome.out.splitlines()]
    assert (title, columns[0], columns[-1]) == (["# Set aside"], "id", "begins with")
    assert [row[1:3] for row in rows] == [["dagster", "t"], ["dagster", "u\\x1b[31m"]]
    assert rows[0][4:] == ["12 B", "nobody\\nunderstands it", "garbage \\x1b[2J"]
    assert more == ["There are 3; see --limit."]
    first, second, third = json.loads(run("rejected", "list", "--json", *config).out)
    assert (third["task_id"], third["size"], third["is_whole"]) == ("v", 12, True)

    assert run("rejected", "requeue", first["id"], *config).out == "1 message(s) requeued.\n"
    again = run("rejected", "requeue", first["id"], second["id"], *config)
    assert (again.code, again.out) == (1, "1 message(s) requeued.\n")
    assert f"Not requeued: {first['id']}. They are not there any more" in again.error
    assert run("rejected", "delete", "--all", *config).out == "1 message(s) deleted.\n"
    assert json.loads(run("rejected", "list", "--json", *config).out) == []
    (queue,) = json.loads(run("status", "--json", *config).out)["queues"]
    assert (queue["queue"], queue["waiting"]) == ("dagster", 2)
    for command in ("requeue", "delete"):
        assert run("rejected", command, *config).code == 2
        assert run("rejected", command, "--all", "1", *config).code == 2


# -- ending workers --------------------------------------------------------------------------


def state_of(listed: Outcome, name: str) -> str:
    """Return what a list of workers says of the state of one of them."""
    rows = [line.split("\t") for line in listed.out.splitlines()]
    # A worker with a task is listed once more, with what it runs.
    return next(row[1] for row in rows if row[0] == name)


@one_broker
def test_terminate_ends_workers_gently_or_now(
    run: Run,
    settings: Settings,
    config: tuple[str, str],
    start_worker: StartWorker,
    tmp_path: Path,
) -> None:
    client = client_for(settings)
    # That the first one drains is known at once, and not when it beats next.
    seldom = {"heartbeat_interval": 300.0, "lease": 900.0}
    first = start_worker(*INCLUDE, "-c", "1", "-q", "first", name="first", **seldom)
    second = start_worker(*INCLUDE, "-c", "1", "-q", "second", name="second")
    with open_sender(settings) as sender:
        held = {}
        for name in ("first", "second"):
            paths = [str(tmp_path / f"{name}-{each}") for each in ("started", "go")]
            held[name] = sender.send("hold", *paths, queue_name=name)
            eventually(Path(paths[0]).exists)
        assert run("worker", "terminate", "--no-wait", "first", *config).out == (
            "Sent 1 worker(s) the command to end.\n"
        )
        eventually(lambda: "Draining: 1 tasks" in first.output())
        eventually(lambda: state_of(run("worker", "list", *config), "first") == "draining")
        outcome = run("status", "--worker", "first", *config)
        assert (outcome.code, state_of(outcome, "first")) == (0, "draining")
        known = json.loads(run("worker", "list", "--json", *config).out)
        assert [each["draining"] for each in known] == [True, False]
        (tmp_path / "first-go").touch()
        assert sender.value(held["first"]) == "held"
        assert first.wait() == 0
        assert [each.name for each in client.workers()] == ["second"]
        outcome = run("worker", "terminate", "--all", "--now", *config)
        assert outcome.out == "Sent 1 worker(s) the command to end.\nsecond has ended.\n"
        assert second.wait() == 1
        assert client.tasks([held["second"]])[held["second"]].state is TaskState.REVOKED
    ended = run("worker", "terminate", "--all", *config)
    assert (ended.code, ended.error) == (0, "")
    assert ended.out == f"There is no worker to end on {redact(settings.broker)}.\n"


# -- settings that cannot be used ------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("kafka://host", "nothing serves the scheme 'kafka'"),
        ("just-a-word", "it has no scheme, such as redis://"),
    ],
)
def test_a_url_that_nothing_serves_is_named_with_all_that_are(
    run: Run, url: str, problem: str
) -> None:
    said = run("status", "--broker", url).sentence
    assert said.startswith(f"Error: Cannot use {url!r} as broker: {problem}. Served are: ")
    for served in ("embedded://", "sqlite://", "redis://", "rediss://", "memory://"):
        assert served in said


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3cr3t@host:not-a-port/0",
        "redis://:s3cr3t/w0rd@host:6379/0",
        "redis://:s3cr3t@[::1/0",
        "redis+sentinel://:s3cr3t@host:not-a-port/master",
        "redis+sentinel://:s3cr3t@host",
        "sqlite://:s3cr3t@",
        "sqlite:///:memory:?password=s3cr3t",
        "sqlite:s3cr3t@host:word:word",
        "kafka://:s3cr3t@host",
    ],
)
def test_a_malformed_url_is_an_error_of_one_sentence_without_its_password(
    run: Run, url: str
) -> None:
    said = run("status", "--broker", url).sentence
    assert "s3cr3t" not in said
    assert "w0rd" not in said


def test_a_redis_that_does_not_answer_is_an_error_of_one_sentence(run: Run) -> None:
    url = f"redis://:s3cr3t@127.0.0.1:{free_port()}/0"
    for command in (("status",), ("worker", "list"), ("worker", "terminate", "--all")):
        said = run(*command, "--broker", url).sentence
        assert "does not answer" in said
        assert "s3cr3t" not in said


def test_a_file_that_cannot_be_opened_is_an_error_of_one_sentence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = run("status", "--broker", f"sqlite:///{tmp_path}/file/queue.db").sentence
    assert "Cannot open the broker's file" in said
    (tmp_path / "other").write_text("this is no database, however long one looks at it")
    assert run("status", "--broker", f"sqlite:///{tmp_path}/other").sentence


def test_without_dagster_home_the_embedded_broker_says_what_to_set(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    for command in (
        ("status",),
        ("worker", "list"),
        ("worker", "start"),
        ("worker", "start", "-d"),
    ):
        said = run(*command).sentence
        assert "$DAGSTER_HOME, which is not set" in said
        assert "DAGSTER_TASKIQ_BROKER" in said


def test_a_home_that_is_not_there_is_refused_by_every_command_and_not_made(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "nowhere"))
    database = f"sqlite:///{tmp_path}/queue.db"
    for command in ("status", "worker list", "worker start", f"worker start -d -b {database}"):
        assert 'nowhere" is not a directory or does not exist' in run(*command.split()).sentence
    assert not (tmp_path / "nowhere").exists()


def test_the_environment_says_where_the_broker_is(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("DAGSTER_TASKIQ_BROKER", f"sqlite:///{tmp_path}/from-environment.db")
    assert run("status").code == 1
    assert (tmp_path / "from-environment.db").exists()


def test_the_embedded_broker_is_a_file_under_dagster_home(run: Run, dagster_home: Path) -> None:
    assert run("status").code == 1
    assert (dagster_home / "dagster_taskiq" / "queue.db").exists()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("load_from:\n  - python_file: repo.py\n", "load_from"),
        ("brokr: redis://host\n", "brokr"),
        ("execution:\n  config:\n    brokr: redis://host\n", "brokr"),
        ("lease: soon\n", "lease"),
        ("heartbeat_interval: 20.0\n", "at least twice"),
        ("queue: ''\n", '"queue" must not be empty'),
        ("broker: {env: NOT_SET_ANYWHERE}\n", "NOT_SET_ANYWHERE"),
        ("broker_options: {a: [{b: {env: NOT_SET_ANYWHERE}}]}\n", "NOT_SET_ANYWHERE"),
        ("just text\n", "must hold a mapping"),
        ("a: [1\n", "is not valid YAML"),
        ("execution: [1]\n", "config.yaml"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_by_name(
    run: Run, tmp_path: Path, text: str, problem: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    for command in (("status",), ("worker", "start"), ("worker", "start", "-d")):
        outcome = run(*command, "-y", str(path))
        assert outcome.code == 2
        assert outcome.error.startswith("Error: ")
        assert problem in outcome.error
        assert "Traceback" not in outcome.error


def test_a_file_that_is_not_there_is_an_error_of_one_sentence(run: Run, tmp_path: Path) -> None:
    said = run("status", "-y", str(tmp_path / "gone.yaml")).sentence
    assert "gone.yaml: No such file or directory" in said


def test_a_file_may_hold_a_whole_run_config(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    url = f"sqlite:///{tmp_path}/from-file.db"
    path.write_text(json.dumps({"execution": {"config": {"broker": url}}, "ops": {}}))
    assert run("status", "-y", str(path)).code == 1
    assert (tmp_path / "from-file.db").exists()


def test_options_win_over_the_file(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("broker: kafka://nowhere\n")
    assert run("status", "-y", str(path), "-b", f"sqlite:///{tmp_path}/option.db").code == 1
    assert (tmp_path / "option.db").exists()


@pytest.mark.parametrize(
    "arguments", [("-c", "0"), ("-l", "loud"), ("--max-tasks-per-child", "0"), ("--no-such",)]
)
def test_a_wrong_option_is_a_usage_error(run: Run, arguments: tuple[str, ...]) -> None:
    outcome = run("worker", "start", *arguments)
    assert outcome.code == 2
    assert "Usage: " in outcome.error


@pytest.mark.parametrize(("value", "words"), [("many", "'many'"), ("", "is set, but empty")])
def test_a_wrong_number_of_slots_in_the_environment_is_named(
    value: str, words: str, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DAGSTER_TASKIQ_CONCURRENCY", value)
    said = run("worker", "start", "-b", f"sqlite:///{tmp_path}/queue.db").sentence
    assert "DAGSTER_TASKIQ_CONCURRENCY" in said
    assert words in said


def test_where_the_number_of_slots_comes_from_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_TASKIQ_CONCURRENCY", "7")
    assert default_concurrency() == (7, "DAGSTER_TASKIQ_CONCURRENCY")
    monkeypatch.delenv("DAGSTER_TASKIQ_CONCURRENCY")
    assert default_concurrency() == usable_cores()


def test_an_empty_broker_in_the_environment_is_refused_by_name(
    run: Run, dagster_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_TASKIQ_BROKER", "")
    for command in ("status", "worker list", "worker start", "worker start -d"):
        said = run(*command.split()).sentence
        assert "variable DAGSTER_TASKIQ_BROKER is set, but empty" in said
    assert not (dagster_home / "dagster_taskiq").exists()


def test_as_a_process_an_error_is_one_sentence_too() -> None:
    command = [sys.executable, "-m", "dagster_taskiq", "status", "--broker", "kafka://host"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1


# -- a project's own app ---------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a module that makes a broker, as the current one."""
    url = f"sqlite:///{tmp_path}/project.db"
    (tmp_path / "own_project_app.py").write_text(
        "from dagster_taskiq import app\n"
        "from dagster_taskiq.settings import Settings\n"
        f"mine = app.make(Settings(broker={url!r}, queue='project'))\n"
        "nothing = 3\n"
    )
    (tmp_path / "failing_project_app.py").write_text("raise RuntimeError('not today')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def test_an_app_is_named_by_module_and_attribute(run: Run, project: Path) -> None:
    assert run("status", "-A", "own_project_app:mine").code == 1
    assert (project / "project.db").exists()


@pytest.mark.parametrize(
    ("app", "problem"),
    [
        ("no_such_project_app", "Cannot import the module no_such_project_app"),
        ("failing_project_app", "not today"),
        ("own_project_app:nothing", "no broker of dagster_taskiq named nothing"),
        ("own_project_app:gone", "no broker of dagster_taskiq named gone"),
        ("own_project_app", "no broker of dagster_taskiq named broker or app"),
        (":broker", "names no module"),
        ("", "names no module"),
    ],
)
def test_an_app_that_is_not_there_is_an_error_of_one_sentence(
    run: Run, project: Path, app: str, problem: str
) -> None:
    assert problem in run("status", "-A", app).sentence


# -- in the background -----------------------------------------------------------------------


@pytest.fixture
def secret_redis() -> Iterator[RedisServer]:
    with own_redis("--requirepass", "s3cr3t-w0rd") as server:
        yield server


def started_in_background(outcome: Outcome) -> tuple[psutil.Process, Path]:
    assert outcome.code == 0, outcome
    found = re.fullmatch(r"Started worker in the background: pid (\d+), log (\S+)\n", outcome.out)
    assert found, outcome
    return psutil.Process(int(found[1])), Path(found[2])


@pytest.fixture
def ending() -> Iterator[list[psutil.Process]]:
    """Processes that a test leaves running; they are ended after it."""
    processes: list[psutil.Process] = []
    yield processes
    for each in processes:
        if each.is_running():
            each.kill()
            each.wait(30)


@pytest.mark.parametrize(
    ("form", "slots"),
    [
        ("-bURL", "-dc 1"),
        pytest.param(
            "--broker URL",
            "--background --workers 1",
            marks=pytest.mark.test_all("the short forms, which click reads alike"),
        ),
    ],
)
def test_a_background_worker_serves_logs_to_a_file_and_shows_no_password(
    run: Run,
    secret_redis: RedisServer,
    dagster_home: Path,
    ending: list[psutil.Process],
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    slots: str,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # Too long for the path of a socket, of which a worker therefore keeps none there.
    temporary = tmp_path / ("t" * 200)
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    url = secret_redis.url.replace("://", "://:s3cr3t-w0rd@")
    settings = Settings(broker=url)
    # The file names another broker: what the command line says must win, also in the background.
    elsewhere = config_for(Settings(broker="redis://127.0.0.1:1/0"), tmp_path)
    options = [*elsewhere, *form.replace("URL", url).split(" ")]
    arguments = ("-n", "of/the night", "-q", "a", "-q", "b,c", *INCLUDE, *slots.split(" "))
    process, log = started_in_background(run("worker", "start", *options, *arguments))
    ending.append(process)
    # It is there when the command has returned.
    (worker,) = client_for(settings).workers()
    assert (worker.name, worker.pid) == ("of/the night", process.pid)
    assert (worker.queues, worker.concurrency) == (("a", "b", "c"), 1)
    with open_sender(settings) as sender:
        assert sender.value(sender.send("add", 1, 2, queue_name="b")) == 3
    words = [word for each in _family(process) for word in each.cmdline()]
    assert not any("s3cr3t-w0rd" in word for word in words)
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert log.parent == dagster_home / "dagster_taskiq" / "logs"
    assert "is ready: 1 slots (--concurrency), queues a, b, c" in log.read_text()
    assert "s3cr3t-w0rd" not in log.read_text()
    outcome = run("worker", "terminate", "of/the night", "--broker", url)
    assert outcome.out == "Sent 1 worker(s) the command to end.\nof/the night has ended.\n"
    eventually(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


def _family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def test_a_background_worker_without_dagster_home_says_what_to_set(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    said = run("worker", "start", "-d", "-b", f"sqlite:///{tmp_path}/queue.db").sentence
    assert "logs under $DAGSTER_HOME, which is not set" in said


def test_a_background_worker_whose_home_takes_no_files_says_so_in_one_sentence(
    run: Run, dagster_home: Path, tmp_path: Path
) -> None:
    (dagster_home / "dagster_taskiq").touch()  # no directory can be made there, by root neither
    said = run("worker", "start", "-d", "-b", f"sqlite:///{tmp_path}/queue.db").sentence
    assert "Cannot write the log of a background worker" in said
    assert "start the worker in the foreground" in said
    assert "Cannot open the broker's file" in run("status").sentence


def test_a_worker_that_cannot_start_its_fork_server_says_so_in_one_sentence(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise ConfigError("Cannot start it.")

    monkeypatch.setattr(process, "start", fails)
    assert run("worker", "start").sentence == "Error: Cannot start it."


def test_a_background_worker_that_ends_as_it_starts_is_told_of(
    run: Run, dagster_home: Path
) -> None:
    outcome = run("worker", "start", "-d", "-i", "no_such_module_anywhere")
    assert outcome.code == 2
    assert outcome.error.startswith("Error: The worker has ended as it started. Its log, ")
    assert "no_such_module_anywhere" in outcome.error  # the log's last lines say why


@one_broker
def test_a_worker_shows_first_what_it_serves_and_how_it_is_stopped(busy: Busy) -> None:
    first, *lines = busy.worker.output().splitlines()
    assert first.endswith(" dagster_taskiq.worker: Worker busy starts.")
    broker, queues, slots, release, stop, *_ = (line.strip() for line in lines)
    assert broker == f"broker   {redact(busy.settings.broker)}"
    assert queues == "queues   a, b, c"
    assert slots == "slots    2 (--concurrency); holds up to 10 runs"
    assert release.startswith(f"release  {__version__}; Dagster {dagster.__version__}, Python 3.")
    assert stop == "Ctrl-C   finish and leave; again: stop"
    assert "Settings(" not in busy.worker.output()


@one_broker
def test_a_second_worker_with_a_name_is_told_of_the_first(
    settings: Settings, start_worker: StartWorker
) -> None:
    beat_of(settings, "twin", 60.0)
    beat_of(settings, "gone", 0.0)
    worker = start_worker("-c", "1", name="twin")
    eventually(lambda: "Another worker is named twin as well: process 99" in worker.output())
    assert "on far-away" in worker.output()


@one_broker
def test_a_worker_that_is_interrupted_before_it_is_ready_ends_at_once(
    settings: Settings, dagster_home: Path, tmp_path: Path
) -> None:
    worker = WorkerProcess(settings, tmp_path, "early", "-i", "compat_tests.slow_module")
    try:
        eventually(lambda: "Worker early starts." in worker.output())
        worker.signal(signal.SIGINT)
        assert worker.wait() == 0
    finally:
        worker.end()
    assert "Worker early has ended." in worker.output()
    assert not re.search("Traceback|Error|is ready", worker.output())


def test_a_command_that_is_interrupted_says_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(settings: Settings) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "client_for", interrupted)
    outcome = run("worker", "list", "-b", f"sqlite:///{tmp_path}/queue.db")
    assert (outcome.code, outcome.out, outcome.error.strip()) == (130, "", "")
    monkeypatch.setattr(command_line, "_run", lambda: interrupted(Settings()))
    outcome = run("--help")
    assert (outcome.code, outcome.out, outcome.error.strip()) == (130, "", "")


def test_the_version_is_told(run: Run) -> None:
    assert run("--version").out == f"dagster-taskiq, version {__version__}\n"


def test_what_needs_no_dagster_does_not_wait_for_it() -> None:
    """Dagster takes seconds to import: a probe, and the parent of a worker, do without it."""
    modules = "cli.status, dagster_taskiq.cli.worker, dagster_taskiq.worker.runner"
    code = f"import sys, dagster_taskiq.{modules}; print('dagster' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
