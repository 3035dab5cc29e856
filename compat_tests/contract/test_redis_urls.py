"""Every form of URL that reaches a Redis, on real servers: plain, TLS, unix socket, sentinel."""

import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
import trustme
from dagster import DagsterInstance, DagsterRunStatus

from compat_tests.checkout import ROOT
from compat_tests.executor.runs import House
from compat_tests.executor.scratch import Scratch
from compat_tests.security import own_jobs
from compat_tests.sending import USER_TASKS, open_sender
from compat_tests.servers import RedisServer, free_port, own_redis, redis_binary
from compat_tests.workers import running_worker
from dagster_taskiq.client import Client, client_for
from dagster_taskiq.errors import ConfigError, ServerUnavailableError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.redis.sentinel_urls import read_sentinel_url
from dagster_taskiq.wire.task_request import TaskRequest

MASTER = "the-master"


def settings_for(url: str, options: dict[str, Any] | None = None) -> Settings:
    return Settings(broker=url, broker_options=options or {}, connect_timeout=5.0)


def round_trip(client: Client) -> None:
    """Send a task, see it wait, and take it back."""
    client.submit(TaskRequest(id="one", name="some_task", kwargs={}, queue="queue"))
    assert [(each.queue, each.waiting) for each in client.depths()] == [("queue", 1)]
    client.revoke(["one"], "the test is over")
    assert client.depths() == []


def test_a_password_in_the_url_is_used_and_a_wrong_one_named_as_the_problem() -> None:
    with own_redis("--requirepass", "s3cret") as server:
        right = server.url.replace("://", "://:s3cret@")
        round_trip(client_for(settings_for(right)))
        for wrong in (server.url, server.url.replace("://", "://:wr0ng@")):
            with pytest.raises(ConfigError, match="user and password") as caught:
                client_for(settings_for(wrong))
            assert "wr0ng" not in str(caught.value)


def test_the_rules_of_access_on_the_page_are_enough(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "secure.md").read_text()
    (command,) = re.findall(r"^redis-cli ACL SETUSER (?:.*\\\n)*.*$", page, re.MULTILINE)
    user, *rules = shlex.split(command.replace("\\\n", "").replace("$REDIS_PASSWORD", "s3cret"))[3:]
    with own_redis() as server:
        with redis.Redis(port=server.port) as administrator:
            administrator.execute_command("ACL", "SETUSER", user, *rules)
            settings = settings_for(server.url.replace("://", f"://{user}:s3cret@"))
            round_trip(client_for(settings))
            with running_worker(settings, tmp_path, "-i", USER_TASKS), open_sender(settings) as to:
                assert to.value(to.send("add", 1, 2)) == 3
                assert to.value(to.send("add", 3, 4, delay=0.5)) == 7
            refused = administrator.execute_command("ACL", "LOG")
        assert refused == []
        with pytest.raises(ConfigError, match="user and password"):
            round_trip(client_for(settings.replace(prefix="another")))


def test_a_unix_socket_serves(tmp_path: Path) -> None:
    socket = tmp_path / "redis.sock"
    with own_redis("--unixsocket", str(socket)):
        round_trip(client_for(settings_for(f"unix://{socket}?db=1")))


def test_a_unix_socket_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(ServerUnavailableError, match="does not answer"):
        client_for(settings_for(f"unix://{tmp_path / 'nowhere.sock'}"))


@pytest.fixture
def tls_files(tmp_path: Path) -> dict[str, str]:
    authority = trustme.CA()
    server = authority.issue_cert("localhost")
    files = {name: tmp_path / f"{name}.pem" for name in ("ca", "certificate", "key")}
    authority.cert_pem.write_to_path(files["ca"])
    server.private_key_pem.write_to_path(files["key"])
    server.cert_chain_pems[0].write_to_path(files["certificate"])
    return {name: str(path) for name, path in files.items()}


@pytest.fixture
def tls_port(tls_files: dict[str, str]) -> Iterator[int]:
    port = free_port()
    with own_redis(*tls_arguments(port, tls_files)):
        yield port


def tls_arguments(port: int, files: dict[str, str]) -> list[str]:
    """Return what a server is started with, so that it listens there for whom it knows."""
    arguments = ["--tls-port", str(port), "--tls-ca-cert-file", files["ca"]]
    return [*arguments, "--tls-cert-file", files["certificate"], "--tls-key-file", files["key"]]


def test_tls_with_an_authority_and_a_client_certificate(
    tls_port: int, tls_files: dict[str, str]
) -> None:
    options = {
        "ssl_ca_certs": tls_files["ca"],
        "ssl_certfile": tls_files["certificate"],
        "ssl_keyfile": tls_files["key"],
    }
    round_trip(client_for(settings_for(f"rediss://localhost:{tls_port}/0", options)))


def test_tls_with_an_unknown_authority_is_refused(
    tls_port: int, tls_files: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(ServerUnavailableError, match="certificate"):
        client_for(settings_for(f"rediss://localhost:{tls_port}/0"))
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    known = {"ssl_certfile": tls_files["certificate"], "ssl_keyfile": tls_files["key"]}
    with pytest.raises(ServerUnavailableError, match="certificate"):
        client_for(
            settings_for(f"rediss://localhost:{tls_port}/0", {**known, "ssl_ca_certs": str(other)})
        )


def test_tls_without_a_client_certificate_where_one_is_wanted_is_refused(
    tls_port: int, tls_files: dict[str, str]
) -> None:
    with pytest.raises(ServerUnavailableError, match="does not answer"):
        client_for(
            settings_for(f"rediss://localhost:{tls_port}/0", {"ssl_ca_certs": tls_files["ca"]})
        )


def test_tls_verifies_the_name_that_is_asked_for(tls_port: int, tls_files: dict[str, str]) -> None:
    known = {
        "ssl_ca_certs": tls_files["ca"],
        "ssl_certfile": tls_files["certificate"],
        "ssl_keyfile": tls_files["key"],
    }
    # The machine answers by that name as well; its certificate has another.
    with pytest.raises(ServerUnavailableError, match="certificate"):
        client_for(settings_for(f"rediss://127.0.0.1:{tls_port}/0", known))


def test_a_run_and_its_worker_meet_over_tls_with_a_password_of_odd_characters(
    tls_files: dict[str, str], instance: DagsterInstance, tmp_path: Path
) -> None:
    password = "p@ss:w/rd?#% é"
    arguments = ["--requirepass", password, *tls_arguments(port := free_port(), tls_files)]
    query = "&".join(
        f"{option}={quote(tls_files[name])}"
        for option, name in (
            ("ssl_ca_certs", "ca"),
            ("ssl_certfile", "certificate"),
            ("ssl_keyfile", "key"),
        )
    )
    settings = Settings(
        broker=f"rediss://:{quote(password, safe='')}@localhost:{port}/0?{query}",
        heartbeat_interval=0.5,
        lease=4.0,
    )
    (tmp_path / "notes").mkdir()
    scratch = Scratch(tmp_path / "notes")
    with own_redis(*arguments), running_worker(settings, tmp_path, "-c", "1") as worker:
        outcome = House(settings, instance).run(own_jobs.allowed, scratch)
        assert outcome.status is DagsterRunStatus.SUCCESS
        assert scratch.count("ran") == 1
        assert quote(password, safe="") not in worker.output()


def test_an_unknown_option_is_named() -> None:
    with own_redis() as server, pytest.raises(ConfigError, match="no_such_option"):
        client_for(settings_for(server.url, {"no_such_option": 1}))


@pytest.mark.parametrize("option", ["decode_responses=true", "encoding=latin-1"])
def test_an_option_that_changes_what_replies_are_is_refused(option: str) -> None:
    with own_redis() as server, pytest.raises(ConfigError, match="leave it out"):
        client_for(settings_for(f"{server.url}?{option}"))


def test_the_encoding_that_names_have_anyway_may_be_named() -> None:
    with own_redis() as server:
        client_for(settings_for(f"{server.url}?encoding=UTF-8"))


class Sentinel:
    """A sentinel that watches one master, and changes over to the replica when told to."""

    def __init__(
        self, directory: Path, master: RedisServer, address: str = "127.0.0.1", password: str = ""
    ) -> None:
        self.port = free_port()
        config = directory / "sentinel.conf"
        login = f'sentinel auth-pass {MASTER} "{password}"\n' if password else ""
        config.write_text(
            f"port {self.port}\nbind {address}\ndir {directory}\n"
            f"sentinel monitor {MASTER} {address} {master.port} 1\n{login}"
            f"sentinel down-after-milliseconds {MASTER} 1000\n"
            f"sentinel failover-timeout {MASTER} 5000\n"
        )
        binary = redis_binary()
        assert binary is not None
        command = [binary, str(config), "--sentinel"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.client = redis.Redis(host=address, port=self.port, decode_responses=True)

    def wait_for(self, what: Any, timeout: float = 30) -> None:
        deadline = time.monotonic() + timeout
        while True:
            try:
                if what(self.client):
                    return
            except redis.exceptions.RedisError:
                pass
            assert time.monotonic() < deadline, "the sentinel does not get there"
            time.sleep(0.05)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def test_a_sentinel_leads_to_the_master_and_to_the_next_one_after_a_change(tmp_path: Path) -> None:
    with own_redis() as master, own_redis("--replicaof", "127.0.0.1", str(master.port)) as replica:
        sentinel = Sentinel(tmp_path, master)
        try:
            sentinel.wait_for(
                lambda client: (
                    client.sentinel_master(MASTER)["num-slaves"] == 1
                    and "online"
                    in redis.Redis(port=master.port).execute_command("INFO replication").__repr__()
                )
            )
            url = f"redis+sentinel://127.0.0.1:{sentinel.port}/{MASTER}/0"
            client = client_for(settings_for(url))
            round_trip(client)
            master.stop()
            sentinel.wait_for(
                lambda client: client.sentinel_get_master_addr_by_name(MASTER)[1] == replica.port
            )
            sentinel.wait_for(lambda _: redis.Redis(port=replica.port).role()[0] == b"master")
            round_trip(client_for(settings_for(url).replace(prefix="after-the-change")))
            round_trip(client)
        finally:
            sentinel.stop()


def test_sentinels_at_ipv6_addresses_lead_to_a_master_with_an_odd_password(
    tmp_path: Path,
) -> None:
    password = "p@ss[:w/rd]?#%"
    both = ("--bind", "127.0.0.1", "::1", "--requirepass", password)
    with own_redis(*both) as master:
        sentinel = Sentinel(tmp_path, master, "::1", password)
        try:
            sentinel.wait_for(lambda client: client.sentinel_master(MASTER)["port"] == master.port)
            hosts = f"[::1]:{free_port()},[::1]:{sentinel.port}"
            login = f":{quote(password, safe='')}@"
            round_trip(client_for(settings_for(f"redis+sentinel://{login}{hosts}/{MASTER}/0")))
        finally:
            sentinel.stop()


@pytest.mark.parametrize(
    ("url", "sentinels", "options"),
    [
        ("redis+sentinel://h/m", [("h", 26379)], {}),
        (
            "redis+sentinel://h:1,[::1]:2,[fe80::1%25eth0]/m/3",
            [("h", 1), ("::1", 2), ("fe80::1%eth0", 26379)],
            {"db": 3},
        ),
        (
            "rediss+sentinel://u:p%5B%2F@@[::1]/m?socket_timeout=20&db=2",
            [("::1", 26379)],
            {"username": "u", "password": "p[/@", "ssl": True, "socket_timeout": 20.0, "db": 2},
        ),
    ],
)
def test_a_sentinel_url_is_read_with_several_hosts_and_ipv6_addresses(
    url: str, sentinels: list[tuple[str, int]], options: dict[str, Any]
) -> None:
    read = read_sentinel_url(url)
    assert (list(read.sentinels), read.master, read.options) == (sentinels, "m", options)


def test_options_of_the_sentinels_are_told_from_those_of_the_master() -> None:
    url = "redis+sentinel://h/a%20b?sentinel_password=p%20q&sentinel_socket_timeout=3&db=4"
    read = read_sentinel_url(url)
    assert read.master == "a b"
    assert read.sentinel_options == {"password": "p q", "socket_timeout": 3.0}
    assert read.options == {"db": 4}


@pytest.mark.parametrize(
    "hosts", ["::1:26379", "[::1:26379", "[]:1", "h:port", "h:1,,i:2", "", "u:s3/cret@h:1"]
)
def test_hosts_of_a_sentinel_url_that_cannot_be_read_are_refused_and_not_quoted(
    hosts: str,
) -> None:
    with pytest.raises(ValueError, match="its hosts cannot be read") as caught:
        read_sentinel_url(f"redis+sentinel://{hosts}/m/0")
    assert "s3" not in str(caught.value)


def test_a_sentinel_url_without_a_master_says_how_it_is_written() -> None:
    with pytest.raises(ConfigError, match="redis\\+sentinel://HOST:PORT"):
        client_for(settings_for("redis+sentinel://127.0.0.1:1"))
