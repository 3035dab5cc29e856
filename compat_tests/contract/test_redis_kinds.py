"""Kinds of Redis that cannot serve, or not safely: a cluster, a server that evicts."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from compat_tests.servers import free_port, own_redis
from compat_tests.waiting import eventually
from compat_tests.workers import WorkerProcess, running_worker
from dagster_taskiq.client import client_for
from dagster_taskiq.errors import ConfigError, ServerUnavailableError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.eviction import Eviction
from dagster_taskiq.transport.registry import make
from dagster_taskiq.wire.records import Task

#: How many slots the keys of a cluster are spread over.
SLOTS = 16384


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A cluster of one node, which has all slots."""
    with own_redis("--cluster-enabled", "yes") as server:
        with closing(redis.Redis(port=server.port)) as client:
            client.execute_command("CLUSTER", "ADDSLOTS", *range(SLOTS))
            eventually(lambda: client.cluster("info")["cluster_state"] == "ok")
        yield server.url


def test_a_cluster_is_refused_as_broker_and_as_backend(cluster: str, tmp_path: Path) -> None:
    here = f"sqlite:///{tmp_path / 'queue.db'}"
    for settings in (Settings(broker=cluster), Settings(broker=here, backend=cluster)):
        with pytest.raises(ConfigError) as caught:
            client_for(settings)
        sentence = str(caught.value)
        assert sentence.startswith(f"{cluster} is a Redis Cluster")
        assert "redis+sentinel://" in sentence
        assert "\n" not in sentence


def test_a_worker_of_a_cluster_ends_with_one_sentence(cluster: str, tmp_path: Path) -> None:
    here = f"sqlite:///{tmp_path / 'queue.db'}"
    workers = [
        WorkerProcess(Settings(broker=cluster), tmp_path, "as-broker"),
        WorkerProcess(Settings(broker=here, backend=cluster), tmp_path, "as-backend"),
    ]
    for worker in workers:
        assert worker.wait() == 2
        *_, last_of_banner, sentence = worker.output().splitlines()
        assert last_of_banner.startswith("    Ctrl-C")
        assert sentence.startswith(f"Error: {cluster} is a Redis Cluster")


def test_a_cluster_that_does_not_say_so_is_known_by_what_it_answers(cluster: str) -> None:
    """A managed one may not answer INFO; taskiq's own commands do not ask for it."""

    async def use() -> None:
        broker = make(Settings(broker=cluster))
        backend = broker.result_backend
        assert isinstance(backend, StateBackend)
        broker.use_running_loop()
        await broker.startup()
        try:
            # Keys of one script, which a cluster keeps on different nodes.
            with pytest.raises(ConfigError, match="is a Redis Cluster"):
                await backend.start(Task("t"))
        finally:
            await broker.shutdown()

    asyncio.run(use())


def test_sentinels_that_are_not_there_are_named_in_a_short_sentence() -> None:
    ports = free_port(), free_port()
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    settings = Settings(broker=f"redis+sentinel://:s3cret@{hosts}/the-master/0")
    with pytest.raises(ServerUnavailableError, match="No master found") as caught:
        client_for(settings)
    sentence = str(caught.value)
    for port in ports:
        assert sentence.count(f"127.0.0.1:{port} - ") == 1
    assert len(sentence) < 400
    assert "s3cret" not in sentence
    assert "<" not in sentence


def test_a_server_that_is_no_sentinel_is_named(cluster: str) -> None:
    host = cluster.removeprefix("redis://").removesuffix("/0")
    with pytest.raises(ConfigError, match=f"no sentinels \\({host}\\)"):
        client_for(Settings(broker=f"redis+sentinel://{host}/the-master/0"))


@pytest.mark.parametrize(
    ("policy", "maxmemory", "warned"),
    [
        ("allkeys-lru", "8mb", True),
        ("allkeys-random", "8mb", True),
        # Nothing of ours has an expiry that matters.
        ("volatile-lru", "8mb", False),
        ("noeviction", "8mb", False),
        ("allkeys-lru", "0", False),
    ],
)
def test_a_server_that_deletes_what_it_should_keep_is_known_by_its_policy(
    evicting: redis.Redis, policy: str, maxmemory: str, warned: bool
) -> None:
    evicting.config_set("maxmemory", maxmemory)
    evicting.config_set("maxmemory-policy", policy)
    url = f"redis://127.0.0.1:{evicting.get_connection_kwargs()['port']}/0"
    found = client_for(Settings(broker=url)).evictions()
    assert list(found) == ([url] if warned else [])
    for each in found.values():
        assert f"maxmemory-policy {policy}" in each.warning
        assert "8 MB" in each.warning


@pytest.fixture(scope="module")
def evicting() -> Iterator[redis.Redis]:
    with own_redis() as server, closing(redis.Redis(port=server.port)) as client:
        yield client


def test_who_may_not_ask_the_server_is_not_refused(evicting: redis.Redis) -> None:
    evicting.execute_command("ACL", "SETUSER", "shy", "on", ">word", "~*", "&*", "+@all", "-info")
    port = evicting.get_connection_kwargs()["port"]
    client = client_for(Settings(broker=f"redis://shy:word@127.0.0.1:{port}/0"))
    assert client.evictions() == {}
    assert client.depths() == []


def test_what_has_been_evicted_is_counted_from_the_first_look_on() -> None:
    before = Eviction("redis://host", "allkeys-lru", 8 * 1024 * 1024, 5)
    assert before.since(before) == ""
    after = replace(before, evicted=7)
    assert after.since(before) == (
        "redis://host has evicted 2 keys since the run began (maxmemory-policy allkeys-lru)."
    )
    assert "evicted 7 keys since it was started" in after.since(None)


def test_a_worker_says_that_its_server_evicts(tmp_path: Path) -> None:
    arguments = ("--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru")
    with (
        own_redis(*arguments) as server,
        running_worker(Settings(broker=server.url), tmp_path, "-c", "1") as worker,
    ):
        eventually(lambda: "deletes any key when its 50 MB are full" in worker.output())
