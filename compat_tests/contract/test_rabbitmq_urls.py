"""Every form of URL that reaches a RabbitMQ, on a real server, and the errors of the others."""

import json
import logging
import re
import shlex
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiormq
import anyio
import pytest
import trustme
from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus
from pamqp.commands import Basic

from compat_tests.checkout import ROOT
from compat_tests.executor import jobs
from compat_tests.executor.runs import House
from compat_tests.executor.scratch import Scratch
from compat_tests.security import own_jobs
from compat_tests.sending import USER_TASKS, open_sender
from compat_tests.servers import RabbitServer, free_port, own_rabbit
from compat_tests.workers import WorkerProcess, running_worker
from dagster_taskiq import app
from dagster_taskiq.client import Client, client_for
from dagster_taskiq.errors import ConfigError, DagsterTaskiqError, ServerUnavailableError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.rabbitmq.connection import RabbitConnection
from dagster_taskiq.transport.rabbitmq.url import read_target
from dagster_taskiq.wire.notifications import FROM_START, run_channel, worker_channel
from dagster_taskiq.wire.records import Task, TaskState
from dagster_taskiq.wire.task_request import TaskRequest

#: What no text of ours may hold.
PASSWORD = "p@ss:w/rd?#% é"
MARK = "hush"

#: A short heartbeat interval and lease for the workers here.
PULSE = {"heartbeat_interval": 0.5, "lease": 4.0}

#: Virtual hosts, each with the one user that has access to it and to no other.
HOSTS = {"/": "root", "name": "namely", "a/b": "slashed", "with space": "spaced"}
#: A virtual host that Celery uses too.
SHARED = "shared"
EVERYTHING = {"configure": ".*", "write": ".*", "read": ".*"}

#: A user whose name has to be encoded, with all permissions at ``/``.
ODD_USER = "o/dd@user:x"
#: A user with access to ``/``, and no permission there.
POWERLESS = "powerless"
#: A user with the permissions that docs/how-to/secure.md gives, and no others.
LIMITED = "dagster"


@dataclass
class Place:
    """A server with users and virtual hosts, whose second port requires a client certificate."""

    server: RabbitServer
    tls_port: int
    #: ``ca``, ``certificate`` and ``key``: paths.
    files: dict[str, str]

    @property
    def port(self) -> int:
        return self.server.port


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("rabbitmq")
    authority = trustme.CA()
    # Not for its address: a client that connects by address has to give the name to expect.
    server = authority.issue_cert("localhost", "rabbit.example.org")
    client = authority.issue_cert("client.example.org")
    names = ("ca", "certificate", "key", "server-certificate", "server-key")
    files = {name: directory / f"{name}.pem" for name in names}
    authority.cert_pem.write_to_path(files["ca"])
    client.private_key_pem.write_to_path(files["key"])
    client.cert_chain_pems[0].write_to_path(files["certificate"])
    server.private_key_pem.write_to_path(files["server-key"])
    server.cert_chain_pems[0].write_to_path(files["server-certificate"])
    tls_port = free_port()
    settings = (
        f'{{load_definitions, "{definitions(directory)}"}}',
        f'{{ssl_listeners, [{{"127.0.0.1", {tls_port}}}]}}',
        f'{{ssl_options, [{{cacertfile, "{files["ca"]}"}},'
        f' {{certfile, "{files["server-certificate"]}"}}, {{keyfile, "{files["server-key"]}"}},'
        " {verify, verify_peer}, {fail_if_no_peer_cert, true}]}",
    )
    with own_rabbit(*settings) as server:
        yield Place(server, tls_port, {name: str(path) for name, path in files.items()})


def definitions(directory: Path) -> Path:
    """Write a file with the users and their permissions."""
    users = {"guest": "guest", ODD_USER: PASSWORD, POWERLESS: MARK, LIMITED: MARK}
    users |= dict.fromkeys(HOSTS.values(), MARK)
    rights = [{"user": user, "vhost": host, **EVERYTHING} for host, user in HOSTS.items()]
    rights += [{"user": user, "vhost": "/", **EVERYTHING} for user in ("guest", ODD_USER)]
    rights.append({"user": "guest", "vhost": SHARED, **EVERYTHING})
    nothing = dict.fromkeys(EVERYTHING, "^$")
    rights.append({"user": POWERLESS, "vhost": "/", **nothing})
    rights.append({"user": LIMITED, "vhost": "/", **permissions_on_the_page()})
    content = {
        "users": [{"name": name, "password": users[name], "tags": ""} for name in users],
        "vhosts": [{"name": name} for name in (*HOSTS, SHARED)],
        "permissions": rights,
    }
    path = directory / "definitions.json"
    path.write_text(json.dumps(content))
    return path


def permissions_on_the_page() -> dict[str, str]:
    """Return the three patterns that docs/how-to/secure.md gives to ``rabbitmqctl``."""
    page = (ROOT / "docs" / "how-to" / "secure.md").read_text()
    (command,) = re.findall(r"^rabbitmqctl set_permissions .*$", page, re.MULTILINE)
    words = shlex.split(command)
    assert words[2:5] == ["--vhost", "/", LIMITED]
    return dict(zip(EVERYTHING, words[5:], strict=True))


def settings_for(url: str, options: dict[str, Any] | None = None, **changes: Any) -> Settings:
    changed = Settings(broker=url, broker_options=options or {}, connect_timeout=10.0)
    return changed.replace(backend="rpc://", **changes)


def round_trip(client: Client) -> None:
    """Send a task, see that it waits, and revoke it."""
    task_id = uuid.uuid4().hex
    client.submit(TaskRequest(id=task_id, name="some_task", kwargs={}, queue="queue"))
    assert [(each.queue, each.waiting) for each in client.depths()] == [("queue", 1)]
    assert client.tasks([task_id])[task_id].state is TaskState.WAITING
    client.revoke([task_id], "the test is over")
    assert client.depths() == []
    assert client.tasks([task_id])[task_id].state is TaskState.REVOKED


def test_the_permissions_on_the_page_are_enough(place: Place, tmp_path: Path) -> None:
    settings = settings_for(f"amqp://{LIMITED}:{MARK}@127.0.0.1:{place.port}/", **PULSE)
    round_trip(client_for(settings))
    with running_worker(settings, tmp_path, "-i", USER_TASKS), open_sender(settings) as sender:
        assert sender.value(sender.send("add", 1, 2)) == 3
        late = sender.send("add", 3, 4, delay=0.5)
        assert sender.value(late) == 7
    elsewhere = settings.replace(prefix="another")
    with pytest.raises(ConfigError, match="set_permissions"):
        round_trip(client_for(elsewhere))


# -- URLs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "host"),
    [
        ("", "/"),
        ("/", "/"),
        ("//", "/"),
        ("/%2f", "/"),
        ("/%2F", "/"),
        ("/name", "name"),
        ("/a%2Fb", "a/b"),
        ("/a/b", "a/b"),
        ("/with%20space", "with space"),
    ],
)
def test_a_path_leads_to_its_virtual_host(place: Place, path: str, host: str) -> None:
    # Each user has access to one virtual host only, so a user that gets in is in that one.
    for scheme in ("amqp", "pyamqp"):
        url = f"{scheme}://{HOSTS[host]}:{MARK}@127.0.0.1:{place.port}{path}"
        round_trip(client_for(settings_for(url)))


def test_what_a_url_leaves_out_is_the_servers_own_default(place: Place) -> None:
    round_trip(client_for(settings_for(f"amqp://:{place.port}")))
    round_trip(client_for(settings_for(f"amqp://guest@localhost:{place.port}//")))
    # It is unknown what listens on the default ports of this machine: nothing is sent there.
    for url, port in (("amqp://host", 5672), ("pyamqp://host//", 5672), ("amqps://host", 5671)):
        assert read_target(url, {}, lease=30.0, connect_seconds=5.0).url.port == port


def test_a_user_and_a_password_of_odd_characters_are_encoded(place: Place) -> None:
    user, password = quote(ODD_USER, safe=""), quote(PASSWORD, safe="")
    round_trip(client_for(settings_for(f"amqp://{user}:{password}@127.0.0.1:{place.port}//")))


def test_heartbeat_and_name_are_those_of_the_url_or_the_options(place: Place) -> None:
    plain = f"amqp://127.0.0.1:{place.port}/"
    for settings in (
        settings_for(f"{plain}?heartbeat=77&name=by-url"),
        settings_for(plain, {"heartbeat": 78, "name": "by-options"}),
        # The options win.
        settings_for(f"{plain}?heartbeat=1&name=both", {"heartbeat": "79"}),
        # A sixth of the lease: what a frozen process holds is requeued before others lose theirs.
        settings_for(f"{plain}?name=by-lease", lease=480.0),
    ):
        client_for(settings).depths()
    listed = place.server.ctl("list_connections", "timeout", "client_properties")
    found = {
        name: line.split()[0]
        for line in listed.splitlines()
        for name in ("by-url", "by-options", "both", "by-lease")
        if f'"{name}"' in line
    }
    assert found == {"by-url": "77", "by-options": "78", "both": "79", "by-lease": "80"}


# -- TLS ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("authority", ["cafile", "cacertfile", "ssl_ca_certs"])
def test_tls_with_an_authority_and_a_client_certificate(place: Place, authority: str) -> None:
    options = {
        authority: place.files["ca"],
        "certfile": place.files["certificate"],
        "keyfile": place.files["key"],
    }
    url = f"amqps://localhost:{place.tls_port}/name"
    query = "&".join(f"{name}={quote(value)}" for name, value in options.items())
    user = f"namely:{MARK}@"
    round_trip(client_for(settings_for(url.replace("//", f"//{user}"), options)))
    round_trip(client_for(settings_for(f"{url.replace('//', f'//{user}')}?{query}")))


def identified(place: Place, **more: Any) -> dict[str, Any]:
    """Return the options of a client whom the server knows."""
    return {"certfile": place.files["certificate"], "keyfile": place.files["key"], **more}


def test_tls_with_an_unknown_authority_is_refused_unless_nothing_is_verified(place: Place) -> None:
    url = f"amqps://localhost:{place.tls_port}//"
    with pytest.raises(ServerUnavailableError, match="certificate"):
        client_for(settings_for(url, identified(place)))
    round_trip(client_for(settings_for(url, identified(place, verify="verify_none"))))
    round_trip(client_for(settings_for(f"{url}?no_verify_ssl=1", identified(place))))
    with pytest.raises(ServerUnavailableError, match="certificate"):
        client_for(settings_for(f"{url}?no_verify_ssl=0", identified(place)))


def test_tls_verifies_the_name_that_is_asked_for(place: Place) -> None:
    url = f"amqps://127.0.0.1:{place.tls_port}//"
    known = identified(place, cafile=place.files["ca"])
    with pytest.raises(ServerUnavailableError, match="certificate"):
        client_for(settings_for(url, known))
    named = {**known, "server_name_indication": "rabbit.example.org"}
    round_trip(client_for(settings_for(url, named)))
    with pytest.raises(ServerUnavailableError, match="certificate"):
        client_for(settings_for(url, {**known, "server_name_indication": "other.example.org"}))


def test_tls_without_a_client_certificate_where_one_is_wanted_is_refused(place: Place) -> None:
    url = f"amqps://localhost:{place.tls_port}//"
    with pytest.raises(ServerUnavailableError, match="does not answer"):
        client_for(settings_for(url, {"cafile": place.files["ca"]}))


def test_tls_to_a_port_without_it_and_the_other_way_round_ends_with_a_sentence(
    place: Place,
) -> None:
    for url in (
        f"amqps://user:{MARK}@localhost:{place.port}//",
        f"amqp://user:{MARK}@localhost:{place.tls_port}//",
    ):
        options = {"verify": "verify_none"} if url.startswith("amqps") else {}
        with pytest.raises(ServerUnavailableError, match="does not answer") as caught:
            client_for(settings_for(url, options))
        assert MARK not in str(caught.value)


def test_a_run_and_its_worker_meet_over_tls_with_a_password_of_odd_characters(
    place: Place, instance: DagsterInstance, tmp_path: Path
) -> None:
    user, password = quote(ODD_USER, safe=""), quote(PASSWORD, safe="")
    query = "&".join(
        f"{option}={quote(place.files[name])}"
        for option, name in (("cafile", "ca"), ("certfile", "certificate"), ("keyfile", "key"))
    )
    url = f"amqps://{user}:{password}@localhost:{place.tls_port}//?{query}"
    settings = settings_for(url, prefix="by-tls").replace(**PULSE)
    (tmp_path / "notes").mkdir()
    scratch = Scratch(tmp_path / "notes")
    with running_worker(settings, tmp_path, "-c", "1") as worker:
        outcome = House(settings, instance).run(own_jobs.allowed, scratch)
        assert outcome.status is DagsterRunStatus.SUCCESS
        assert scratch.count("ran") == 1
        assert password not in worker.output()


# -- what cannot work --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("amqp://u:hush@h//?heartbaet=3", {}, ["heartbaet", "heartbeat"]),
        ("amqp://u:hush@h//", {"no_such_option": "hush"}, ["no_such_option", "cafile"]),
        ("amqp://u:hush@h//?heartbeat=often", {}, ["heartbeat", "'often'"]),
        ("amqp://u:hush@h//", {"heartbeat": -1}, ["heartbeat", "-1"]),
        ("amqp://u:hush@h//", {"heartbeat": 100_000}, ["heartbeat", "100000"]),
        ("amqp://u:hush@h//?timeout=0", {}, ["timeout", "'0'"]),
        ("amqp://u:hush@h//", {"timeout": float("nan")}, ["timeout", "nan"]),
        ("amqp://u:hush@h//", {"connection_timeout": "soon"}, ["connection_timeout", "soon"]),
        ("amqp://u:hush@h//?auth=kerberos", {}, ["auth", "kerberos", "plain"]),
        ("amqps://u:hush@h//?cafile=/no/such/ca.pem", {}, ["cafile", "/no/such/ca.pem"]),
        ("amqps://u:hush@h//", {"cacertfile": "/no/ca.pem"}, ["cafile", "/no/ca.pem"]),
        ("amqps://u:hush@h//", {"certfile": "/no/client.pem"}, ["certfile", "/no/client.pem"]),
        ("amqps://u:hush@h//", {"verify": "perhaps"}, ["verify_none", "perhaps"]),
        ("amqp://u:hush@h:port//", {}, ["host or port"]),
        ("amqp://u:hush@h:99999//", {}, ["host or port"]),
        ("amqp://u:hush@[::1//", {}, ["host or port"]),
        ("amqp://u:hu@hush@h//", {}, ["percent-encoded"]),
        ("amqp://u:hu/hush@h//", {}, ["percent-encoded"]),
        ("amqp://u:hu?hush@h//", {}, ["percent-encoded"]),
        ("amqp://u:hu#hush@h//", {}, ["percent-encoded"]),
    ],
)
def test_what_cannot_be_read_is_named_before_anything_is_sent(
    url: str, options: dict[str, Any], words: list[str]
) -> None:
    # No server answers there: an attempt to connect would be reported instead of the fault.
    with pytest.raises(ConfigError) as caught:
        client_for(settings_for(url, options))
    assert [word for word in words if word not in str(caught.value)] == []
    assert MARK not in str(caught.value)


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    file = tmp_path / "not.pem"
    file.write_text("nothing of the kind")
    for option in ("cafile", "certfile"):
        with pytest.raises(ConfigError) as caught:
            client_for(settings_for(f"amqps://u:{MARK}@h//", {option: str(file)}))
        assert option in str(caught.value)
        assert MARK not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"amqp://guest:{MARK}@127.0.0.1:PORT//", ["user and password"]),
        (f"amqp://nobody:{MARK}@127.0.0.1:PORT//", ["user and password"]),
        (f"amqp://root:{MARK}@127.0.0.1:PORT/no-such-host", ["virtual host", "no-such-host"]),
        (f"amqp://root:{MARK}@127.0.0.1:PORT/name", ["virtual host", "list_permissions"]),
        (f"amqp://{POWERLESS}:{MARK}@127.0.0.1:PORT//", ["set_permissions", "prefix"]),
    ],
)
def test_a_refused_user_learns_what_to_do(place: Place, url: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        round_trip(client_for(settings_for(url.replace("PORT", str(place.port)))))
    assert [word for word in words if word not in str(caught.value)] == []
    assert MARK not in str(caught.value)


def test_no_password_is_logged_or_shown(
    place: Place, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    good = settings_for(f"amqp://root:{MARK}@127.0.0.1:{place.port}//", prefix="quiet")
    client = client_for(good)
    round_trip(client)
    shown = [repr(good), repr(client), repr(client.broker), repr(client.broker.connection)]
    for url in (
        f"amqp://guest:{MARK}@127.0.0.1:{place.port}//",
        f"amqp://guest:{MARK}@127.0.0.1:{free_port()}//",
        f"amqp://root:{MARK}@127.0.0.1:{place.port}/no-such-host",
        f"amqps://root:{MARK}@127.0.0.1:{place.tls_port}//",
    ):
        with pytest.raises(DagsterTaskiqError) as caught:
            client_for(settings_for(url))
        chain: BaseException | None = caught.value
        while chain is not None:
            shown += [str(chain), repr(chain)]
            chain = chain.__cause__ or chain.__context__
    printed = capfd.readouterr()
    for text in (*shown, caplog.text, printed.out, printed.err):
        assert MARK not in text


def test_a_wrong_password_fails_the_run_and_is_in_none_of_its_events(
    place: Place, tmp_path: Path, instance: DagsterInstance
) -> None:
    settings = settings_for(f"amqp://guest:{MARK}@127.0.0.1:{place.port}//")
    outcome = House(settings, instance).run(jobs.values, Scratch(tmp_path))
    assert outcome.status is DagsterRunStatus.FAILURE
    assert "user and password" in outcome.run_failure()
    assert [event for event in outcome.events if MARK in repr(event)] == []
    assert outcome.of(DagsterEventType.STEP_WORKER_STARTING) == []


# -- what other programs have declared ----------------------------------------------------------


def declare(url: str, *, queue: str = "", exchange: str = "", **how: Any) -> None:
    """Declare a queue or exchange as another program would."""

    async def work() -> None:
        connection = await aiormq.connect(url)
        channel = await connection.channel()
        if queue:
            await channel.queue_declare(queue, **how)
        else:
            await channel.exchange_declare(exchange, **how)
        await connection.close()

    anyio.run(work)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"durable": True}, ["x-max-priority is none, and should be 20"]),
        (
            {"durable": True, "arguments": {"x-max-priority": 5}},
            ["x-max-priority is 5, and should be 20"],
        ),
        (
            {"durable": False, "arguments": {"x-max-priority": 20}},
            ["durable is false, and should be true"],
        ),
    ],
)
def test_a_queue_that_is_declared_differently_is_named_at_submit(
    place: Place, how: dict[str, Any], words: list[str]
) -> None:
    prefix = f"taken-{len(str(how))}"
    queue = f"{prefix}:queue:queue"
    declare(place.server.url, queue=queue, **how)
    client = client_for(settings_for(place.server.url, prefix=prefix))
    request = TaskRequest(id="one", name="some_task", kwargs={}, queue="queue")
    with pytest.raises(ConfigError) as caught:
        client.submit(request)
    wanted = [*words, f'The queue "{queue}"', f'delete_queue "{queue}"', "another `prefix`"]
    assert [word for word in wanted if word not in str(caught.value)] == []
    # The others go on.
    client.submit(replace(request, id="two", queue="other"))
    assert [(each.queue, each.waiting) for each in client.depths()] == [("other", 1)]


def test_an_exchange_that_is_declared_differently_is_named(place: Place) -> None:
    declare(place.server.url, exchange="fan:wakeups", exchange_type="fanout", durable=True)
    client = client_for(settings_for(place.server.url, prefix="fan"))
    with pytest.raises(ConfigError) as caught:
        client.submit(TaskRequest(id="one", name="some_task", kwargs={}, queue="queue"))
    text = str(caught.value)
    assert 'The exchange "fan:wakeups"' in text
    assert "type is fanout, and should be direct" in text
    assert "Delete it, or set another `prefix`" in text


def test_a_worker_whose_queue_is_declared_differently_ends_with_one_line(
    place: Place, dagster_home: Path, tmp_path: Path
) -> None:
    queue = "taken:queue:dagster"
    declare(place.server.url, queue=queue, durable=True)
    settings = settings_for(place.server.url, prefix="taken")
    worker = WorkerProcess(settings, tmp_path, "w1")
    try:
        assert worker.wait() == 2
    finally:
        worker.end()
    (sentence,) = [line for line in worker.output().splitlines() if queue in line]
    assert "x-max-priority is none, and should be 20" in sentence
    assert "Traceback" not in worker.output()


@pytest.mark.parametrize("queue", ["q" * 250, "ä" * 125])
def test_a_queue_whose_name_is_too_long_for_the_protocol_is_refused(
    place: Place, queue: str
) -> None:
    client = client_for(settings_for(place.server.url, prefix="long"))
    with pytest.raises(ConfigError, match="255 bytes"):
        client.submit(TaskRequest(id="one", name="some_task", kwargs={}, queue=queue))


def test_a_prefix_that_is_too_long_for_the_protocol_is_refused(place: Place) -> None:
    client = client_for(settings_for(place.server.url, prefix="p" * 250))
    with pytest.raises(ConfigError, match="longer than the 127 bytes"):
        client.submit(TaskRequest(id="one", name="some_task", kwargs={}, queue="queue"))


@pytest.mark.parametrize("name", ["größe", "a*b", "line\nbreak"])
def test_a_name_of_characters_that_the_protocol_does_not_allow_is_refused(
    place: Place, name: str
) -> None:
    for changes, queue in (({"prefix": "plain"}, name), ({"prefix": name}, "plain")):
        client = client_for(settings_for(place.server.url, **changes))
        with pytest.raises(ConfigError, match="not allowed on RabbitMQ"):
            client.submit(TaskRequest(id="one", name="some_task", kwargs={}, queue=queue))


@pytest.mark.parametrize("task_id", ["größe=1", "t" * 300, "line\nbreak"])
def test_a_task_may_have_any_id(place: Place, task_id: str) -> None:
    settings = settings_for(place.server.url, prefix=f"any-{uuid.uuid4().hex[:8]}")

    async def work() -> None:
        broker = app.make(settings)
        backend = broker.result_backend
        assert isinstance(backend, StateBackend)
        broker.use_running_loop()
        await broker.startup()
        task = Task(task_id, "some_task", "queue", run_id="r=1", step_key="ß", worker="wörker")
        await backend.submitted([task])
        message = TaskRequest(id=task_id, name="some_task", kwargs={}, queue="queue").message()
        await broker.kick(broker.formatter.dumps(message))
        broker.queues = ("queue",)
        delivery = await broker.claim()
        assert delivery is not None
        assert delivery.task_id == task_id
        assert await backend.start(task) is None
        await broker.acknowledge(delivery)
        assert await backend.finish(task, TaskState.SUCCESS, "", b"the result")
        assert await backend.load_result(task_id) == b"the result"
        await backend.post(run_channel("r=1"), {"more": 1})
        await backend.post(worker_channel("wörker" * 50), {"more": 1})
        assert len(await backend.collect(run_channel("r=1"), FROM_START, 0.0)) == 2
        await broker.shutdown()

    anyio.run(work)


# -- other backends ----------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["redis", "embedded"])
def test_rpc_with_another_broker_is_that_brokers_own_server(
    other: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path / 'queue.db'}"
    if other == "redis":
        url = request.getfixturevalue("redis_url")
    settings = Settings(broker=url, backend="rpc://", prefix=f"rpc-{tmp_path.name}")
    assert settings.backend_url == url
    client_for(settings).submit(TaskRequest(id="one", name="some_task", kwargs={}, queue="queue"))
    # A backend that names the server itself has the same state.
    known = client_for(settings.replace(backend=url)).tasks(["one"])
    assert known["one"].state is TaskState.WAITING
    client_for(settings).revoke(["one"], "the test is over")


@pytest.mark.parametrize(
    "other", ["embedded", pytest.param("redis", marks=pytest.mark.test_all("in a file"))]
)
def test_work_waits_on_rabbitmq_while_its_state_is_kept_elsewhere(
    place: Place,
    other: str,
    tmp_path: Path,
    instance: DagsterInstance,
    request: pytest.FixtureRequest,
) -> None:
    backend = f"sqlite:///{tmp_path / 'state.db'}"
    if other == "redis":
        backend = request.getfixturevalue("redis_url")
    url = f"amqp://root:{MARK}@127.0.0.1:{place.port}//"
    settings = settings_for(url, prefix=f"with-{other}-{tmp_path.name}", **PULSE)
    settings = settings.replace(backend=backend)
    notes = tmp_path / "notes"
    notes.mkdir()
    with (
        running_worker(settings, tmp_path, "-c", "2", "-i", USER_TASKS, "-l", "debug") as worker,
        open_sender(settings) as sender,
    ):
        assert sender.value(sender.send("add", 1, 2)) == 3
        outcome = House(settings, instance).run(jobs.values, Scratch(notes))
    assert outcome.status is DagsterRunStatus.SUCCESS
    assert Scratch(notes).count("two") == 1
    assert MARK not in worker.output()


# -- neighbours --------------------------------------------------------------------------------

#: What Celery's workers declare: a queue, its exchange, the exchange of their events and theirs of
#: commands, with a reply queue for each process.
CELERY_QUEUES = ("celery", "reply.celery.pidbox", "celeryev.1d3c", "dagster")
CELERY_EXCHANGES = {
    "celery": "direct",
    "celeryev": "topic",
    "celery.pidbox": "fanout",
    "reply.celery.pidbox": "direct",
    "dagster": "direct",
}


def move_in(url: str) -> None:
    """Do what a Celery fleet has done before us, and leave a message in each queue."""

    async def work() -> None:
        connection = await aiormq.connect(url)
        channel = await connection.channel()
        for exchange, kind in CELERY_EXCHANGES.items():
            await channel.exchange_declare(exchange, exchange_type=kind, durable=True)
        for queue in CELERY_QUEUES:
            await channel.queue_declare(queue, durable=True)
            key = "#" if queue.startswith("celeryev") else queue
            exchange = queue if queue in CELERY_EXCHANGES else "celeryev"
            await channel.queue_bind(queue, exchange, key)
            await channel.basic_publish(queue.encode(), exchange=exchange, routing_key=queue)
        await connection.close()

    anyio.run(work)


def messages_of(url: str) -> dict[str, list[tuple[bytes, bool]]]:
    """Return what lies in Celery's queues: each message, and whether anybody had it meanwhile."""

    async def work() -> dict[str, list[tuple[bytes, bool]]]:
        connection = await aiormq.connect(url)
        channel = await connection.channel()
        found: dict[str, list[tuple[bytes, bool]]] = {}
        for queue in CELERY_QUEUES:
            found[queue] = []
            while isinstance((message := await channel.basic_get(queue)).delivery, Basic.GetOk):
                found[queue].append((message.body, bool(message.delivery.redelivered)))
        await connection.close()
        return found

    return anyio.run(work)


def test_a_run_leaves_alone_what_celery_has_on_the_same_virtual_host(
    place: Place, tmp_path: Path, instance: DagsterInstance
) -> None:
    url = f"{place.server.url.rstrip('/')}/{SHARED}"
    move_in(url)
    # The default prefix, and a queue of the same name as one of theirs.
    settings = settings_for(url, **PULSE)
    notes = tmp_path / "notes"
    notes.mkdir()
    with running_worker(settings, tmp_path, "-c", "2"):
        outcome = House(settings, instance).run(jobs.values, Scratch(notes))
        round_trip(client_for(settings))
        queues = set(place.server.ctl("list_queues", "-p", SHARED, "name").split()) - {"name"}
        listed = place.server.ctl("list_exchanges", "-p", SHARED, "name").splitlines()
        exchanges = {each.strip() for each in listed} - {"", "name"}
    assert outcome.status is DagsterRunStatus.SUCCESS
    ours = {each for each in queues | exchanges if each.startswith(f"{settings.prefix}:")}
    assert f"{settings.prefix}:queue:dagster" in ours
    assert queues - ours == set(CELERY_QUEUES)
    assert {each for each in exchanges - ours if not each.startswith("amq.")} == set(
        CELERY_EXCHANGES
    )
    assert messages_of(url) == {queue: [(queue.encode(), False)] for queue in CELERY_QUEUES}


# -- a broker that is not there ----------------------------------------------------------------


@contextmanager
def silent_port() -> Iterator[int]:
    """Accept connections, and never answer."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield int(listener.getsockname()[1])


@contextmanager
def answering_port(answer: bytes) -> Iterator[int]:
    """Be no RabbitMQ: send something to each client, and close the connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = int(listener.getsockname()[1])

    def serve() -> None:
        while True:
            client, _ = listener.accept()
            with client:
                if not client.recv(100):
                    return
                client.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield port
    finally:
        socket.create_connection(("127.0.0.1", port), 5).close()
        thread.join(30)
        listener.close()


def assert_unreachable(url: str, **changes: Any) -> None:
    settings = Settings(broker=url, backend="rpc://", **changes)
    with pytest.raises(ServerUnavailableError, match="does not answer") as caught:
        client_for(settings).submit(TaskRequest(id="one", name="a", kwargs={}, queue="queue"))
    assert MARK not in str(caught.value)


def test_a_port_without_a_listener_is_reported_once() -> None:
    assert_unreachable(f"amqp://u:{MARK}@127.0.0.1:{free_port()}//", connect_timeout=1.0)


def test_a_port_that_accepts_and_never_answers_is_reported_once() -> None:
    with silent_port() as port:
        url = f"amqp://u:{MARK}@127.0.0.1:{port}//"
        assert_unreachable(url, connect_timeout=0.5)
        # Else it would take longer than a test may.
        slow = {"connect_timeout": 1000.0}
        assert_unreachable(f"{url}?connection_timeout=500", **slow)
        assert_unreachable(url, broker_options={"connection_timeout": 500}, **slow)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"AMQP\x01\x01\x00\x09"])
def test_a_port_where_something_else_answers_is_reported_once(answer: bytes) -> None:
    with answering_port(answer) as port:
        assert_unreachable(f"amqp://u:{MARK}@127.0.0.1:{port}//", connect_timeout=5.0)


@pytest.mark.parametrize(("query", "options"), [("?timeout=0.5", {}), ("", {"timeout": "0.5"})])
def test_a_command_to_a_frozen_server_ends_after_the_timeout_that_is_set(
    place: Place, query: str, options: dict[str, Any]
) -> None:
    async def work() -> None:
        url = f"amqp://127.0.0.1:{place.port}//{query}"
        connection = RabbitConnection(url, options, timeout=5.0)
        await connection.open()
        async with connection.channel() as channel:
            await channel.declare_queue("freezing")
            place.server.freeze()
            try:
                with pytest.raises(
                    ServerUnavailableError, match=r"not declare freezing within 0\.5 s"
                ):
                    await channel.declare_queue("freezing")
            finally:
                place.server.thaw()
        # The next one has a new connection.
        async with connection.channel() as channel:
            await channel.declare_queue("freezing")
        await connection.close()

    anyio.run(work)
