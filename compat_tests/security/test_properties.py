"""What holds for whatever is written: tags, settings, URLs, messages, frames."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from anyio.from_thread import BlockingPortal
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from taskiq import TaskiqMessage
from taskiq.kicker import AsyncKicker

from compat_tests.brokers import ALL_BROKERS
from compat_tests.conftest import make_settings
from dagster_taskiq import app
from dagster_taskiq.errors import ConfigError, UnusableMessageError
from dagster_taskiq.execution.perform import perform
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.settings.urls import redact
from dagster_taskiq.tags import (
    DAGSTER_PRIORITY_TAG,
    OLDER_NAMES,
    PRIORITY_TAG,
    RUN_PRIORITY_TAG,
    read_int_tag,
    read_priority,
    read_tag,
)
from dagster_taskiq.transport import registry
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.connection import Connection
from dagster_taskiq.transport.home_loop import background
from dagster_taskiq.transport.messages import Delivery
from dagster_taskiq.wire.labels import TYPED_LABEL
from dagster_taskiq.wire.typed_values import decode, encode, holds_typed
from dagster_taskiq.worker import frames

# -- typed values ------------------------------------------------------------------------------

#: What a message may hold: JSON, with types that are known, that are not, and that are no names.
typed = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(max_size=5), inner, max_size=3),
        st.fixed_dictionaries(
            {
                "__type__": st.sampled_from(
                    ["datetime", "date", "time", "decimal", "uuid", "bytes", "base64", "os.system"]
                )
                | inner,
                "__value__": inner | st.sampled_from(["2030-01-01", "1E+3", "/w==", "12:00"]),
            }
        ),
    ),
    max_leaves=8,
)
#: All that is ever made of it.
MADE = (type(None), bool, int, float, str, list, dict, datetime, date, time, Decimal, UUID, bytes)


def parts(value: Any) -> Iterator[Any]:
    yield value
    inner = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    for each in inner:
        yield from parts(each)


@given(typed)
def test_typed_values_are_of_a_few_types_or_refused(value: Any) -> None:
    try:
        decoded = decode(value)
    except ValueError as error:
        assert "cannot be read" in str(error)
        return
    assert all(type(each) in MADE for each in parts(decoded))


@given(
    st.recursive(
        st.one_of(
            st.datetimes(),
            st.dates(),
            st.times(),
            st.decimals(allow_nan=False),
            st.uuids(),
            st.binary(),
            st.text(),
            st.integers(),
            st.none(),
        ),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_typed_values_come_back_as_they_were(value: Any) -> None:
    assert decode(json.loads(json.dumps(encode(value)))) == value
    assert holds_typed(value) == (encode(value) != value)


@pytest.mark.parametrize("wrong", ["no date", {"hex": 1}, 5, None, ["2030-01-01"]])
def test_arguments_that_are_no_values_of_their_types_fail_their_task(wrong: Any) -> None:
    broker = app.make(Settings(broker="memory://"))
    broker.register_task(lambda value: value, task_name="print")
    argument = {"__type__": "datetime", "__value__": wrong}
    message = TaskiqMessage(
        task_id="t", task_name="print", labels={TYPED_LABEL: 1}, args=[argument], kwargs={}
    )

    result = perform(broker, message)

    assert isinstance(result.error, UnusableMessageError)
    assert "A value of the type datetime cannot be read" in str(result.error)
    plain = perform(broker, message.model_copy(update={"labels": {}}))
    assert plain.error is None, "without the label, arguments are as they are written"


# -- tags --------------------------------------------------------------------------------------

#: What people write for a number, and what looks like one to some functions and not to others.
numberish = st.one_of(
    st.text(max_size=30),
    st.text("+-0123456789_ \t٣²½", max_size=8),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["--5", "+-5", "²", "9" * 5000, "1_000", "- 5", "", " 7 "]),
)
names = st.sampled_from([*OLDER_NAMES, *OLDER_NAMES.values(), DAGSTER_PRIORITY_TAG, "other"])


@given(st.dictionaries(names, numberish), st.sampled_from([PRIORITY_TAG, RUN_PRIORITY_TAG]))
@example({DAGSTER_PRIORITY_TAG: "--5"}, PRIORITY_TAG)
@example({DAGSTER_PRIORITY_TAG: "²"}, PRIORITY_TAG)
@example({DAGSTER_PRIORITY_TAG: "9" * 5000}, RUN_PRIORITY_TAG)
@example({PRIORITY_TAG: "9" * 5000}, PRIORITY_TAG)
def test_a_priority_is_an_integer_or_refused_in_our_words(tags: dict[str, str], tag: str) -> None:
    for read in (read_priority, read_int_tag):
        try:
            assert isinstance(read(tags, tag, 3), int)
        except ConfigError as error:
            assert tag in str(error) or OLDER_NAMES[tag] in str(error)
            assert tag in tags or OLDER_NAMES[tag] in tags, "Dagster's own tag may be anything"


@given(st.dictionaries(names, st.text()))
def test_the_new_name_of_a_tag_wins(tags: dict[str, str]) -> None:
    for new, old in OLDER_NAMES.items():
        assert read_tag(tags, new) == tags.get(new, tags.get(old))


# -- settings ----------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
fields = st.sampled_from(sorted(Settings.model_fields))


@given(st.dictionaries(fields, json_values, max_size=4))
@example({"lease": "long"})
@example({"lease": float("nan"), "heartbeat_interval": float("nan")})
@example({"include": 5})
@example({"broker": ["redis://h"]})
@example({"queue": 7})
@example({"broker_options": "text"})
@example({"worker_lost": ["fail"]})
@example({"priority": "high"})
def test_settings_of_any_values_are_settings_or_refused_in_our_words(
    document: dict[str, Any],
) -> None:
    try:
        made = Settings.from_dict(document)
    except ConfigError as error:
        assert any(name in str(error) for name in [*document, "environment variable"])
        return
    again = Settings.from_dict(json.loads(json.dumps(made.to_dict())))
    assert again == made
    assert repr(made)


# -- URLs --------------------------------------------------------------------------------------

MARK = "Zq7"
secrets = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), max_size=12).map(
    lambda text: f"{MARK}{text}{MARK}"
)
pieces = st.sampled_from(
    [
        *("://", ":", "/", "//", "@", "?", "&", "#", "=", " ", "é", ",", ";", "%2F"),
        *("localhost", "[::1]", "6379", "0", "u", "redis", "amqp", "ssl", "ca", "master"),
        *("99999", "-1"),
    ]
)
shapes = st.lists(pieces, max_size=12).map("".join)
schemes = st.sampled_from(["redis", "rediss", "unix", "redis+sentinel", "amqp", "amqps", "sqlite"])


@given(schemes, secrets, shapes, shapes)
def test_what_a_url_is_refused_with_never_has_its_password(
    scheme: str, password: str, host: str, query: str
) -> None:
    url = f"{scheme}://user:{password}@{host}?{query}"
    assert MARK not in redact(url)
    try:
        use(url)
    except ConfigError as error:
        assert MARK not in str(error)


@given(schemes, shapes)
@example("redis+sentinel", "h:port/m/0")
@example("redis", "h:99999999999/0")
@example("amqp", "[::1")
@example("sqlite", "/\0")
def test_a_url_of_any_shape_is_used_or_refused_in_our_words(scheme: str, shape: str) -> None:
    for url in (f"{scheme}://{shape}", f"{scheme}:{shape}"):
        try:
            use(url)
        except ConfigError as error:
            assert str(error)


def use(url: str) -> None:
    """Do with a URL what is done before anything is sent."""
    broker = app.make(Settings(broker=url))
    if not url.startswith("sqlite"):  # which makes its file at once
        asyncio.run(_open(broker.connection))


async def _open(connection: Connection) -> None:
    await connection.open()
    await connection.close()


# -- messages ----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=ALL_BROKERS)
def opened_broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[QueueBroker, BlockingPortal]]:
    chosen = make_settings(request.param, tmp_path_factory.mktemp("messages"), request)
    portal = background().portal
    broker = registry.make(chosen)
    broker.queues = ("q",)
    portal.call(broker.startup)
    try:
        yield broker, portal
    finally:
        portal.call(broker.shutdown)


finite = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
labels = st.dictionaries(
    st.text(min_size=1, max_size=8).map("x-{}".format),
    st.integers(-(2**60), 2**60) | st.booleans() | st.text() | st.binary(max_size=20),
    max_size=4,
)


@settings(
    max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # each of them goes to a server and back
@given(st.lists(finite, max_size=3), st.dictionaries(st.text(), finite, max_size=3), labels)
def test_whatever_is_json_comes_out_as_it_was_put_in(
    opened_broker: tuple[QueueBroker, BlockingPortal],
    args: list[Any],
    kwargs: dict[str, Any],
    labels: dict[str, Any],
) -> None:
    broker, portal = opened_broker
    received = portal.call(_there_and_back, broker, args, kwargs, labels)
    assert received.args == args
    assert received.kwargs == kwargs
    assert {name: received.labels[name] for name in labels} == labels


async def _there_and_back(
    broker: QueueBroker, args: list[Any], kwargs: dict[str, Any], labels: dict[str, Any]
) -> TaskiqMessage:
    kicker: AsyncKicker[Any, Any] = AsyncKicker("a_task", broker, {**labels, "queue_name": "q"})
    await kicker.kiq(*args, **kwargs)
    async with _claimed(broker) as delivery:
        message = broker.formatter.loads(delivery.body)
        message.parse_labels()
        return message


@asynccontextmanager
async def _claimed(broker: QueueBroker) -> AsyncIterator[Delivery]:
    delivery = await broker.claim()
    assert delivery is not None
    try:
        yield delivery
    finally:
        await broker.acknowledge(delivery)


# -- frames ------------------------------------------------------------------------------------


@given(st.lists(st.dictionaries(st.text(), finite, max_size=4), max_size=4), st.data())
def test_frames_come_out_as_they_were_put_in_wherever_they_are_cut(
    sent: list[dict[str, Any]], data: st.DataObject
) -> None:
    wire = b"".join(map(frames.pack, sent))
    cut = data.draw(st.integers(0, len(wire)))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(wire[:cut])
        ours.sendall(wire[cut:])
        ours.shutdown(socket.SHUT_WR)
        found = []
        while (frame := frames.receive(theirs)) is not None:
            found.append(frame)
    assert found == sent
    assert asyncio.run(_read_all(wire)) == sent
    # A peer that dies in the middle of one leaves those that were whole.
    whole = asyncio.run(_read_all(wire[:cut]))
    assert whole == sent[: len(whole)]


async def _read_all(wire: bytes) -> list[dict[str, Any]]:
    reader = asyncio.StreamReader()
    reader.feed_data(wire)
    reader.feed_eof()
    found = []
    while (frame := await frames.read(reader)) is not None:
        found.append(frame)
    return found
