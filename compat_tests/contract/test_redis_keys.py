"""The list of keys in ``transport/redis/keys.py`` has every key that broker and backend use."""

import re
from contextlib import closing
from dataclasses import replace

import pytest
import redis

from compat_tests.contract import test_backend as states
from compat_tests.contract import test_broker as queues
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.redis import keys
from dagster_taskiq.wire.firings import Firing
from dagster_taskiq.wire.records import Task, TaskState

pytestmark = pytest.mark.anyio


def listed_keys() -> dict[str, str]:
    """Return the type of each key of the list, by a pattern of its name without the prefix."""
    rows = re.findall(
        r"^``(?:<prefix>:)?([\w<>:-]+)``\s+(\w+(?: set)?)\s", keys.__doc__ or "", re.M
    )
    types = {name: kind.replace("sorted set", "zset") for name, kind in rows}
    return {re.sub(r"<\w+>", ".+", name): kind for name, kind in types.items()}


@pytest.mark.parametrize("broker_kind", ["redis"], indirect=True)
async def test_every_key_on_redis_is_listed_with_its_type(settings: Settings) -> None:
    async with queues.opened(settings) as broker, states.opened(settings) as backend:
        await queues.put(broker, "rejected", "claimed", "waiting")
        await broker.put("delayed", "q", 1, b"", delay=60.0)
        delivery = await broker.claim()
        assert delivery is not None
        await broker.reject(delivery, "it cannot be read")
        assert await broker.claim() is not None
        await broker.put("waiting too", "q", 1, b"")
        await states.started(backend, replace(states.TASK, id="ended"))
        ended = Task("ended", run_id="run", step_key="step", worker="w1")
        assert await backend.finish(ended, TaskState.SUCCESS, "", b"1")
        await backend.beat(states.worker("w1"))
        store = backend.schedule_store()
        assert store is not None
        await store.put("schedule", "{}")
        await store.claim(Firing("schedule", 1.0, 60.0), "scheduler")
        with closing(redis.Redis.from_url(settings.broker)) as client:
            there = {
                key.decode().removeprefix(f"{settings.prefix}:"): client.type(key).decode()
                for key in client.keys(f"{settings.prefix}:*")
            }
    patterns = listed_keys()
    found = {
        name: next((each for each in patterns if re.fullmatch(each, name)), "not listed")
        for name in there
    }
    assert {name: patterns.get(found[name]) for name in there} == there
    assert set(found.values()) == set(patterns)
