"""What the broker on SQS is made of, without a server: names, bodies, delays, errors, attempts."""

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)
from hypothesis import given
from hypothesis import strategies as st

from dagster_taskiq.errors import ConfigError, DagsterTaskiqError, ServerUnavailableError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.memory.backend import MemoryBackend
from dagster_taskiq.transport.messages import MAX_DELIVERIES
from dagster_taskiq.transport.sqs import delays, messages
from dagster_taskiq.transport.sqs.attempts import Attempts
from dagster_taskiq.transport.sqs.errors import SqsErrors
from dagster_taskiq.transport.sqs.messages import Received
from dagster_taskiq.transport.sqs.names import NAME_LENGTH, Level, Names, nearest
from dagster_taskiq.transport.sqs.threads import in_thread
from dagster_taskiq.wire.queues import run_queue

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import ReceiveMessageResultTypeDef

pytestmark = pytest.mark.anyio

NAMES = Names("our-prefix")
ACCOUNT = "https://sqs.eu-central-1.amazonaws.com/111111111111"

QUEUES = st.from_regex(r"[a-z0-9_]+(-[a-z0-9_]+)*", fullmatch=True).filter(
    lambda text: len(text) <= 40
)


# -- names -----------------------------------------------------------------------------------


@given(QUEUES, st.booleans(), st.integers(-12, 12))
def test_a_name_is_that_of_one_lane_alone(queue: str, is_run: bool, priority: int) -> None:
    level = Level(run_queue(queue) if is_run else queue, nearest(priority))
    assert NAMES.read(NAMES.of(level)) == level


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (Level("gpu"), "our-prefix-gpu"),
        (Level("gpu", 5), "our-prefix-gpu--p5"),
        (Level("gpu", -3), "our-prefix-gpu--m3"),
        (Level("gpu:runs"), "our-prefix-gpu--runs"),
        (Level("gpu:runs", 10), "our-prefix-gpu--runs--p10"),
        (Level("gpu-p5"), "our-prefix-gpu-p5"),
    ],
)
def test_a_level_has_its_name(level: Level, name: str) -> None:
    assert NAMES.of(level) == name


@pytest.mark.parametrize(
    "name",
    [
        *("other-gpu", "our-prefix", "our-prefix-", "our-prefix--rejected", "our-prefix-gpu--p0"),
        *("our-prefix-gpu--q5", "our-prefix-gpu--p5--runs", "our-prefix-gpu--", "our-prefix-gpu.x"),
    ],
)
def test_another_name_is_that_of_no_lane(name: str) -> None:
    assert NAMES.read(name) is None


@pytest.mark.parametrize("queue", ["", "a.fifo", "a b", "a--b", "-a", "a-", "ü", "a" * NAME_LENGTH])
def test_a_queue_that_can_have_no_name_is_refused_with_the_rule(queue: str) -> None:
    with pytest.raises(ConfigError, match=r"letters, digits, - and _ only.* 80 characters"):
        NAMES.of(Level(queue))


@pytest.mark.parametrize("prefix", ["", "a--b", "a-", "a.b", "a:b"])
def test_a_prefix_that_can_begin_no_name_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigError, match="The prefix"):
        Names(prefix)


GIVEN = Names(
    "fleet",
    {"etl": f"{ACCOUNT}/team-b", "gpu:runs": f"{ACCOUNT}/big--runs", "old": f"{ACCOUNT}/fleet-old"},
)


@given(QUEUES | st.sampled_from(["etl", "gpu", "old", "big"]), st.booleans(), st.integers(-12, 12))
def test_beside_queues_with_urls_a_name_is_that_of_one_lane_too(
    queue: str, is_run: bool, priority: int
) -> None:
    level = Level(run_queue(queue) if is_run else queue, nearest(priority))
    name = GIVEN.of(level)
    assert GIVEN.read(name) == level
    assert name in GIVEN.given.values() or name.startswith(tuple(GIVEN.beginnings))


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (Level("etl"), "team-b"),
        (Level("etl", 5), "team-b--p5"),
        (Level("etl:runs"), "team-b--runs"),
        (Level("etl:runs", -1), "team-b--runs--m1"),
        (Level("gpu"), "fleet-gpu"),
        (Level("gpu:runs"), "big--runs"),
        (Level("gpu:runs", 2), "big--runs--p2"),
    ],
)
def test_what_is_beside_a_queue_with_a_url_has_its_name(level: Level, name: str) -> None:
    assert GIVEN.of(level) == name


@pytest.mark.parametrize("name", ["fleet-etl", "fleet-etl--p5", "team-b-gpu", "fleet-gpu--runs"])
def test_a_queue_with_a_url_has_no_other_names(name: str) -> None:
    assert GIVEN.read(name) is None


def test_two_urls_with_one_name_are_refused() -> None:
    other = ACCOUNT.replace("1", "2")
    with pytest.raises(ConfigError, match="have the same name"):
        Names("fleet", {"a": f"{ACCOUNT}/q", "b": f"{other}/q"})
    with pytest.raises(ConfigError, match="is not that of a queue"):
        Names("fleet", {"a": "http://localhost:4566"})


# -- bodies ----------------------------------------------------------------------------------


@given(st.binary() | st.text().map(lambda text: text.encode(errors="surrogatepass")))
def test_any_body_comes_back_from_text_that_sqs_allows(body: bytes) -> None:
    text, attributes = messages.encoded(body, {messages.TASK_ID: "t"})
    assert messages.decoded(text, attributes) == body
    assert text
    assert all(each in "\t\n\r" or each >= " " for each in text)
    assert not set(text) & {"\ufffe", "\uffff"}


def test_a_body_of_text_is_sent_as_it_is_and_is_no_longer_for_it() -> None:
    assert messages.encoded(b'{"a": 1}', {}) == ('{"a": 1}', {})
    assert messages.size_of("ü", {"a": "b"}) == 2 + len("aStringb")


def test_an_attribute_is_text_that_sqs_allows_and_none_is_empty() -> None:
    _, attributes = messages.encoded(b"b", {"one": "a\x00b\ud800", "two": ""})
    assert attributes == {"one": "a\ufffdb\ufffd"}


def test_a_body_that_is_not_what_it_is_said_to_be_is_text() -> None:
    assert messages.decoded("no base 64", {messages.ENCODING: "base64"}) == b"no base 64"


# -- what SQS tells ----------------------------------------------------------------------------


def answer(now: float, **given: Any) -> "ReceiveMessageResultTypeDef":
    """Return an answer with one message, at a time of the server's."""
    attributes = {
        "SentTimestamp": str(int(given.get("sent", now) * 1000)),
        "ApproximateFirstReceiveTimestamp": str(int(given.get("first", now) * 1000)),
        "ApproximateReceiveCount": str(given.get("count", 1)),
    }
    named = {
        name: {"DataType": "String", "StringValue": value}
        for name, value in given.get("named", {}).items()
    }
    message: Any = {
        "MessageId": "id",
        "ReceiptHandle": "receipt",
        "Body": given.get("body", "body"),
        "Attributes": attributes,
        "MessageAttributes": named,
    }
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now))
    told: Any = {"ResponseMetadata": {"HTTPHeaders": {"date": date}}, "Messages": [message]}
    found: ReceiveMessageResultTypeDef = told
    return found


def received(now: float = 1_000_000_000.0, **given: Any) -> Received:
    (message,) = messages.read(answer(now, **given), Level("q"))
    return message


def test_a_message_of_another_program_is_read_with_what_it_has() -> None:
    message = received()
    assert (message.task_id, message.body, message.due_in) == ("id", b"body", 0.0)


def test_ages_are_those_by_the_clock_of_the_server() -> None:
    message = received(1_000_000.0, sent=999_000.0, first=999_900.0, count=3)
    assert (message.count, message.age) == (3, 101.0)  # it tells whole seconds


@pytest.mark.parametrize("delay", [1, 900, 901, 3600, 86400 * 30])
def test_a_delay_is_over_when_its_parts_are(delay: int) -> None:
    now, parts = 1_000_000.0, 0
    named = delays.delay_attribute(delay)
    waits = [delays.server_delay(delay)]
    while True:
        sent, now = now, now + waits[-1]
        message = received(now, sent=sent, named=named)
        if not message.due_in:
            break
        again = delays.sent_on(message)
        assert (again.body, again.task_id) == (message.body, message.task_id)
        named = again.attributes
        waits.append(delays.server_delay(message.due_in))
        parts += 1
    assert sum(waits) == delay
    assert max(waits) <= delays.LONGEST_SECONDS
    assert parts == -(-delay // delays.LONGEST_SECONDS) - 1


def test_what_a_delayed_message_has_waited_without_workers_counts() -> None:
    message = received(1_000_000.0, sent=1_000_000.0 - 5000, named=delays.delay_attribute(3600))
    assert message.due_in == 0


# -- attempts ----------------------------------------------------------------------------------


@pytest.fixture
def backend() -> Iterator[MemoryBackend]:
    yield MemoryBackend(Settings(broker=f"memory://{random.random()}"))


def attempts(backend: object, lease: int = 30) -> Attempts:
    return Attempts(lease, lambda: backend)


@pytest.mark.parametrize(
    ("count", "age", "most"),
    [
        (1, 0.0, 1),
        (7, 1.0, 1),  # polls that received it for nobody
        (2, 31.0, 2),
        (2, 3000.0, 2),
        (5, 65.0, 3),
    ],
)
async def test_an_attempt_is_a_lease_that_may_have_run_out(
    backend: MemoryBackend, count: int, age: float, most: int
) -> None:
    message = replace(received(count=count), age=age)
    found = [await attempts(backend).count(message) for _ in range(5)]
    assert found == [min(most, each) for each in (2, 3, 4, 5, 6)]


async def test_a_message_that_was_often_received_for_nobody_is_not_set_aside(
    backend: MemoryBackend,
) -> None:
    message = replace(received(count=100), age=100_000.0)
    for _ in range(2 * MAX_DELIVERIES):
        counting = attempts(backend)  # of another worker
        assert await counting.count(message) == 2
        await counting.uncount(message)


async def test_a_message_that_its_workers_do_not_survive_is_set_aside_in_the_end(
    backend: MemoryBackend,
) -> None:
    message = replace(received(count=100), age=100_000.0)
    for _ in range(MAX_DELIVERIES):
        counting = attempts(backend)
        found = await counting.count(message)
    assert found > MAX_DELIVERIES
    await counting.forget(message)
    assert await attempts(backend).count(message) == 2


# -- errors ------------------------------------------------------------------------------------


def refusal(code: str, status: int = 400, text: str = "Some words.") -> ClientError:
    response: Any = {
        "Error": {"Code": code, "Message": text},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(response, "SendMessage")


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (
            refusal("RequestThrottled", 403),
            ServerUnavailableError,
            r"limits the rate of requests: RequestThrottled: Some words\. It is reached",
        ),
        (refusal("Whatever", 503), ServerUnavailableError, "endpoint_url"),
        (refusal("QueueDeletedRecently"), ServerUnavailableError, "Some words"),
        (refusal("AccessDenied"), ConfigError, "permit SendMessage.*sqs:GetQueueUrl"),
        (refusal("InvalidClientTokenId"), ConfigError, "AWS_ACCESS_KEY_ID"),
        (refusal("ExpiredToken"), ConfigError, "aws sts get-caller-identity"),
        (refusal("401", 401), ConfigError, "AWS_ACCESS_KEY_ID"),
        (refusal("403", 403), ConfigError, "permit SendMessage: 403"),
        # The page of a proxy.
        (
            refusal("404", 404, "<html>\n<b>Not\nfound</b>.</html>"),
            ConfigError,
            r"refuses SendMessage: 404: Not found. Check .* endpoint_url",
        ),
        (NoCredentialsError(), ConfigError, r"credentials\. Credentials are found"),
        (EndpointConnectionError(endpoint_url="u"), ServerUnavailableError, "does not answer"),
        (ConnectTimeoutError(endpoint_url="u"), ServerUnavailableError, "does not answer"),
        (ReadTimeoutError(endpoint_url="u"), ServerUnavailableError, "does not answer"),
    ],
)
def test_an_error_says_what_to_do(
    error: Exception, kind: type[DagsterTaskiqError], text: str
) -> None:
    with pytest.raises(kind, match=text), SqsErrors("sqs://eu-central-1"):
        raise error


def test_an_error_of_ours_stays_what_it_is() -> None:
    with pytest.raises(ClientError), SqsErrors("sqs://eu-central-1"):
        raise refusal("InvalidMessageContents")


# -- threads -----------------------------------------------------------------------------------


async def test_what_is_done_in_a_thread_returns_or_raises() -> None:
    assert await in_thread(lambda: 1 + 1) == 2
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0)


async def test_what_is_done_in_a_thread_goes_on_if_nobody_waits() -> None:
    goes, done = threading.Event(), threading.Event()

    def work() -> None:
        goes.wait()
        done.set()

    in_thread(work).cancel()
    goes.set()
    await asyncio.to_thread(done.wait)
