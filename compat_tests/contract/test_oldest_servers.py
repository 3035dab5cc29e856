"""The oldest servers that are supported: the Redis and RabbitMQ of Dagster's Helm chart.

The contract runs on them as well, in make test-all. Here are tasks, on real workers.
"""

from pathlib import Path

import pytest
import redis

from compat_tests.brokers import OLD_RABBITMQ, OLD_REDIS
from compat_tests.conftest import StartWorker
from compat_tests.sending import USER_TASKS, open_sender
from compat_tests.waiting import eventually
from dagster_taskiq.client import client_for
from dagster_taskiq.errors import TaskRevokedError
from dagster_taskiq.settings.settings import Settings


def test_the_redis_is_one_of_6_0(redis_6_0_url: str) -> None:
    with redis.Redis.from_url(redis_6_0_url) as client:
        assert client.info("server")["redis_version"].startswith("6.0.")


@pytest.mark.parametrize("broker_kind", [OLD_REDIS, OLD_RABBITMQ], indirect=True)
def test_an_old_server_carries_delays_priorities_and_cancellations(
    settings: Settings, start_worker: StartWorker, tmp_path: Path
) -> None:
    client = client_for(settings)
    with open_sender(settings) as sender:
        # Nobody works yet: a higher priority goes first, the others in order of arrival.
        first, second = sender.send("add", 1, 2), sender.send("add", 3, 4)
        urgent = sender.send("add", 5, 6, priority=5)
        delayed = sender.send("add", 1, 2, delay=1)
        revoked = sender.send("add", 1, 2, delay=600)
        client.revoke([revoked], "nobody needs it")

        worker = start_worker("-i", USER_TASKS, "-c", "1")

        assert [sender.value(each) for each in (first, second, urgent, delayed)] == [3, 7, 11, 3]
        known = client.tasks([first, second, urgent])
        assert sorted(known, key=lambda each: known[each].started_at) == [urgent, first, second]
        started = tmp_path / "started"
        stopped = sender.send("hold", str(started), str(tmp_path / "never"))
        eventually(started.exists)
        client.revoke([stopped], "it takes too long")
        for each in (revoked, stopped):
            assert isinstance(sender.error(each), TaskRevokedError)
    worker.end()
    assert client.workers() == []
    assert client.is_empty("dagster")
