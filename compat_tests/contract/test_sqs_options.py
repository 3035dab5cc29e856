"""The options of SQS, as its queues show them."""

from typing import Any

import pytest

from compat_tests.brokers import SQS_REDIS
from compat_tests.contract.test_broker import claim, opened, put
from compat_tests.sqs_servers import queues_on_sqs, sqs_client
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.sqs.broker import SqsBroker
from dagster_taskiq.transport.sqs.names import Names
from dagster_taskiq.wire.notifications import FROM_START
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


async def test_two_fleets_with_a_queue_each_share_nothing(settings: Settings) -> None:
    client = sqs_client(endpoint_of(settings))
    urls = [
        client.create_queue(QueueName=f"{settings.prefix}-team{each}")["QueueUrl"] for each in "ab"
    ]
    fleets = [
        with_options(settings, queue_url=url).replace(prefix=Settings().prefix) for url in urls
    ]
    async with opened(fleets[0]) as one, opened(fleets[1]) as other:
        await put(one, "step", queue=settings.queue, priority=5)
        await put(one, "run", queue=run_queue(settings.queue))
        await put(one, "gpu", queue="gpu")
        for broker in (other, one):
            broker.queues = (settings.queue, "gpu")
        assert await other.claim() is None
        taken = {(await claim(one)).task_id for _ in range(3)}
        assert await one.rejected() == 0
    assert taken == {"step", "run", "gpu"}
    added = {name.removeprefix(f"{settings.prefix}-team") for name in names_of(settings)}
    queue = settings.queue
    assert {"a", "b", "a--p5", "a--runs", "a-gpu", "b--runs", "b-gpu"} <= added
    assert f"a-{queue}" not in added


def test_a_prefix_that_is_set_counts_before_the_name_of_the_queue() -> None:
    url = "https://sqs.eu-central-1.amazonaws.com/111111111111/tasks"
    own = Settings(broker="sqs://eu-central-1", broker_options={"queue_url": url})
    assert SqsBroker(own)._queues.names.rejected == "tasks--rejected"
    assert SqsBroker(own.replace(prefix="mine"))._queues.names.rejected == "mine--rejected"
    named = own.replace(broker="sqs://eu-central-1/other", prefix="mine")
    assert SqsBroker(named)._queues.names.rejected == "other--rejected"


async def test_priorities_are_announced_to_those_with_the_same_prefix(settings: Settings) -> None:
    async with opened(settings) as broker:
        backend = broker.result_backend
        assert isinstance(backend, StateBackend)
        await put(broker, "t", priority=5)
        channels = [
            Names(each).levels_channel for each in (settings.prefix, f"{settings.prefix}-2")
        ]
        own, other = [await backend.collect(each, FROM_START, 0.0) for each in channels]
    assert [each.body for each in own] == [{"levels": [["q", 5]]}]
    assert other == []
