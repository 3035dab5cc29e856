"""A project of dagster-celery's on SQS, as kombu is told of it: a worker, a run, its queues."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from dagster import DagsterInstance, execute_job, reconstructable

from compat_tests.facade.conftest import OldFleet, end
from compat_tests.facade.old_project import old_job
from compat_tests.servers import own_redis
from compat_tests.sqs_servers import REGION, messages_on_sqs, queues_on_sqs, sqs_client
from dagster_taskiq.settings.settings import Settings


@dataclass
class SqsFleet(OldFleet):
    """A fleet with an access key in the URL, and options of kombu's transport."""

    endpoint: str
    options: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        options = {"region": REGION, "visibility_timeout": 3600, "wait_time_seconds": 5}
        return {
            "broker": f"sqs://AKIA:s3cr3t@{urlsplit(self.endpoint).netloc}",
            "backend": self.settings.backend_url,
            "config_source": {
                "broker_transport_options": {**options, **self.options},
                "worker_concurrency": 2,
            },
        }


@pytest.fixture
def prefix(sqs_endpoint: str) -> Iterator[str]:
    prefix = f"myapp-{uuid.uuid4().hex[:8]}-"
    yield prefix
    client = sqs_client(sqs_endpoint)
    for name in (prefix, "dagster-taskiq-"):
        for url in queues_on_sqs(sqs_endpoint, name):
            client.delete_queue(QueueUrl=url)


def queues_after_a_run(options: dict[str, Any], endpoint: str, home: Path, notes: Path) -> set[str]:
    """Start a worker, execute a run, and return the names of all queues that there are then."""
    with own_redis() as redis:
        fleet = SqsFleet(Settings(broker=redis.url), home, endpoint, options)
        worker = fleet.start("old", "-q", "dagster", "-q", "side")
        try:
            own = {"config": {"directory": str(notes)}}
            run_config = {
                "execution": {"config": fleet.config},
                "ops": {"aside": own, "then": own},
            }
            with (
                DagsterInstance.from_config(str(home)) as instance,
                execute_job(reconstructable(old_job), instance, run_config=run_config) as result,
            ):
                assert result.success
                assert result.output_for_node("then") == 2
            done = fleet.cli("status", "-A", "compat_tests.facade.old_project")
            assert "s3cr3t" not in done.stdout + done.stderr
        finally:
            end(worker)
        assert "s3cr3t" not in (home / "old.log").read_text()
    return {url.rpartition("/")[2] for url in queues_on_sqs(endpoint, "")}


def test_a_run_has_queues_under_the_prefix_that_celery_had(
    sqs_endpoint: str, prefix: str, dagster_home: Path, tmp_path: Path
) -> None:
    found = queues_after_a_run({"queue_name_prefix": prefix}, sqs_endpoint, dagster_home, tmp_path)
    own = f"{prefix}dagster-taskiq"
    assert {f"{own}-dagster", f"{own}-dagster--p5", f"{own}-side--p7"} <= found
    assert not messages_on_sqs(sqs_endpoint, prefix)


def test_a_run_uses_predefined_queues_alone(
    sqs_endpoint: str, prefix: str, dagster_home: Path, tmp_path: Path
) -> None:
    client = sqs_client(sqs_endpoint)
    urls = {
        name: client.create_queue(QueueName=f"{prefix}{name.replace(':', '-')}")["QueueUrl"]
        for name in ("dagster", "dagster:runs", "side", "side:runs")
    }
    predefined = {
        name: {"url": url, "access_key_id": "AKIA", "secret_access_key": "s3cr3t"}
        for name, url in urls.items()
    }
    before = {url.rpartition("/")[2] for url in queues_on_sqs(sqs_endpoint, "")}
    options = {"predefined_queues": predefined}
    found = queues_after_a_run(options, sqs_endpoint, dagster_home, tmp_path)
    assert found == before
    assert not messages_on_sqs(sqs_endpoint, prefix)
