"""The options of SQS, as its queues show them."""

from typing import Any

import pytest

from compat_tests.brokers import SQS_REDIS
from compat_tests.contract.test_broker import claim, opened, put
from compat_tests.sqs_servers import queues_on_sqs, sqs_client
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.wire.queues import run_queue

pytestmark = pytest.mark.anyio

ATTRIBUTES = {"KmsMasterKeyId": "alias/aws/sqs", "MessageRetentionPeriod": "3600"}


@pytest.fixture(scope="module", params=[SQS_REDIS])
def broker_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings without the queue of the priority that all tests have in use: none is there yet."""
    for url in queues_on_sqs(endpoint_of(settings), settings.prefix):
        sqs_client(endpoint_of(settings)).delete_queue(QueueUrl=url)
    return settings


def endpoint_of(settings: Settings) -> str:
    return str(settings.broker_options["endpoint_url"])


def with_options(settings: Settings, **options: Any) -> Settings:
    return settings.replace(broker_options={**settings.broker_options, **options})


def names_of(settings: Settings) -> list[str]:
    urls = queues_on_sqs(endpoint_of(settings), settings.prefix)
    return sorted(url.rpartition("/")[2] for url in urls)


async def test_a_new_queue_has_the_attributes_and_tags_of_the_options(settings: Settings) -> None:
    own = with_options(settings, queue_attributes=ATTRIBUTES, queue_tags={"team": "data"})
    async with opened(own) as broker:
        await put(broker, "t")
    (url,) = queues_on_sqs(endpoint_of(settings), settings.prefix)
    client = sqs_client(endpoint_of(settings))
    found = client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert {name: found[name] for name in ATTRIBUTES} == ATTRIBUTES
    assert client.list_queue_tags(QueueUrl=url)["Tags"] == {"team": "data"}


async def test_the_command_for_a_queue_that_is_missing_has_them_as_well(settings: Settings) -> None:
    own = with_options(settings, queue_attributes=ATTRIBUTES, queue_tags={"team": "data"})
    async with opened(with_options(own, create_queues=False)) as broker:
        with pytest.raises(ConfigError) as caught:
            await put(broker, "t")
    command = str(caught.value).partition("Run: ")[2]
    assert command.startswith("aws sqs create-queue --region ")
    assert f" --queue-name {settings.prefix}-" in command
    for text in ('"KmsMasterKeyId": "alias/aws/sqs"', """--tags '{"team": "data"}'"""):
        assert text in command
    assert names_of(settings) == []


async def test_without_priorities_there_is_one_queue_for_all(settings: Settings) -> None:
    async with opened(with_options(settings, priorities=False)) as broker:
        for priority in (-3, 0, 5):
            await put(broker, f"t{priority}", priority=priority)
        taken = {(await claim(broker)).task_id for _ in range(3)}
    assert taken == {"t-3", "t0", "t5"}
    assert names_of(settings) == [f"{settings.prefix}-q", f"{settings.prefix}-q--runs"]


async def test_queues_are_found_by_the_urls_that_are_given(settings: Settings) -> None:
    client = sqs_client(endpoint_of(settings))
    name = f"{settings.prefix}x"
    urls = {
        queue: client.create_queue(QueueName=f"{name}-{number}")["QueueUrl"]
        for number, queue in enumerate((settings.queue, run_queue("gpu")))
    }
    async with opened(with_options(settings, queue_urls=urls, create_queues=False)) as broker:
        for queue in urls:
            await put(broker, queue, queue=queue)
    for queue, url in urls.items():
        (message,) = client.receive_message(QueueUrl=url, MessageAttributeNames=["All"])["Messages"]
        assert queue in {each["StringValue"] for each in message["MessageAttributes"].values()}
    assert names_of(settings) == [f"{name}-0", f"{name}-1"]
