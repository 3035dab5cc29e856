"""SQS, configured as users of another package have it: a queue by its URL, and no broker."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from dagster import DagsterInstance, DagsterRunStatus, execute_job, job, op, reconstructable
from dagster._core.launcher import LaunchRunContext

from compat_tests.checkout import ROOT
from compat_tests.preloaded import start_program
from compat_tests.servers import own_redis
from compat_tests.sqs_servers import REGION, messages_on_sqs, queues_on_sqs, sqs_client
from compat_tests.waiting import eventually
from dagster_taskiq import TaskiqRunLauncher, taskiq_executor
from dagster_taskiq.client import client_for
from dagster_taskiq.settings.env import BACKEND_ENV, BROKER_ENV
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.settings.sqs_names import ENDPOINT_URL_ENV, QUEUE_URL_ENV


@op
def one() -> int:
    return 1


@op(tags={"dagster-taskiq/priority": "3"})
def more(number: int) -> int:
    return number + 1


@job(executor_def=taskiq_executor)
def sums() -> None:
    more(one())


@dataclass(frozen=True)
class Place:
    """A queue that exists, and a state of tasks that nobody else uses."""

    endpoint: str
    queue_url: str

    @property
    def config(self) -> dict[str, str]:
        """The configuration of executor, worker and run launcher."""
        return {
            "queue_url": self.queue_url,
            "region_name": REGION,
            "endpoint_url": self.endpoint,
            "default_queue": "dagster",
        }


@pytest.fixture
def place(sqs_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.delenv(BROKER_ENV, raising=False)
    client = sqs_client(sqs_endpoint)
    url = client.create_queue(QueueName=f"dagster-tasks-{uuid.uuid4().hex[:8]}")["QueueUrl"]
    with own_redis() as redis:
        monkeypatch.setenv(BACKEND_ENV, redis.url)
        yield Place(sqs_endpoint, url)
    for each in queues_on_sqs(sqs_endpoint, url.rpartition("/")[2]):
        client.delete_queue(QueueUrl=each)


@pytest.mark.parametrize(
    "source",
    ["environment", pytest.param("file", marks=pytest.mark.test_all("by the environment"))],
)
def test_steps_and_runs_go_through_the_queue_that_is_named(
    source: str,
    place: Place,
    dagster_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if source == "file":
        path = tmp_path / "taskiq.yaml"
        path.write_text(yaml.safe_dump({"execution": {"config": place.config}}))
        module, command = "dagster_taskiq", ["worker", "start", "-y", str(path), "--workers", "2"]
        config, launcher = place.config, TaskiqRunLauncher(**place.config)
    else:
        monkeypatch.setenv(QUEUE_URL_ENV, place.queue_url)
        monkeypatch.setenv(ENDPOINT_URL_ENV, place.endpoint)
        monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
        monkeypatch.setenv("DAGSTER_TASKIQ_CONCURRENCY", "2")
        module, command = "taskiq", ["worker", "dagster_taskiq.app:broker", "--workers", "1"]
        config, launcher = {}, TaskiqRunLauncher()
    log = tmp_path / "worker.log"
    worker = start_program(module, command, log, {**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        with DagsterInstance.from_config(str(dagster_home)) as instance:
            run_config = {"execution": {"config": config}}
            with execute_job(reconstructable(sums), instance, run_config=run_config) as result:
                assert result.output_for_node("more") == 2, log.read_text()
            run = instance.create_run_for_job(
                sums,
                run_config=run_config,
                job_code_origin=reconstructable(sums).get_python_origin(),
            )
            launcher.register_instance(instance)
            launcher.launch_run(LaunchRunContext(run, None))

            def has_succeeded() -> bool:
                found = instance.get_run_by_id(run.run_id)
                assert found is not None
                assert found.status is not DagsterRunStatus.FAILURE, log.read_text()
                return found.status is DagsterRunStatus.SUCCESS

            eventually(has_succeeded)
        settings = Settings.from_dict(config).resolved()
        (found,) = client_for(settings).workers()
        assert (found.queues, found.concurrency) == (("dagster",), 2)
    finally:
        worker.terminate()
        worker.wait(60)
    # Steps without a priority went through the queue that is named; the others are named after it.
    name = place.queue_url.rpartition("/")[2]
    made = sorted(url.rpartition("/")[2] for url in queues_on_sqs(place.endpoint, name))
    assert made == [name, f"{name}--p3", f"{name}--runs"]
    assert not queues_on_sqs(place.endpoint, "dagster-taskiq-")
    assert not messages_on_sqs(place.endpoint, name)


#: A program of taskiq's own, which sends one task and listens for it.
LISTENING = """
import asyncio
from dagster_taskiq.app import broker

@broker.task(task_name="greet")
async def greet(name: str) -> None: ...

async def main() -> None:
    await broker.startup()
    await greet.kiq("you")
    async for message in broker.listen():
        print(message.data.decode())
        await message.ack()
        break
    await broker.shutdown()

asyncio.run(main())
"""


def test_a_program_that_listens_by_itself_takes_from_that_queue(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(QUEUE_URL_ENV, place.queue_url)
    monkeypatch.setenv(ENDPOINT_URL_ENV, place.endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    path = tmp_path / "listening.py"
    path.write_text(LISTENING)
    command = [sys.executable, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["args"] == ["you"]
    assert not messages_on_sqs(place.endpoint, place.queue_url.rpartition("/")[2])
