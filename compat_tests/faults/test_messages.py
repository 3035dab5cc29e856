"""Messages that come twice, that others have written, or that nobody can read."""

import asyncio
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiormq
import psutil
import pytest
import redis
from dagster import DagsterRunStatus
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp.commands import Basic
from taskiq import AckableMessage
from taskiq.utils import maybe_awaitable

from compat_tests.executor import fault_jobs
from compat_tests.executor.conftest import SIDE_QUEUE
from compat_tests.executor.runs import House
from compat_tests.executor.scratch import Scratch
from compat_tests.faults import message_jobs
from compat_tests.faults.conftest import Figure
from compat_tests.waiting import eventually
from dagster_taskiq.client import client_for
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.messages import Outgoing
from dagster_taskiq.transport.registry import make_broker
from dagster_taskiq.wire.records import Worker

SUCCESS, FAILURE = DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE


@contextmanager
def on_the_way(
    house: House, monkeypatch: pytest.MonkeyPatch, change: Callable[[Outgoing], list[Outgoing]]
) -> Iterator[Callable[[Outgoing], None]]:
    """Have all that this process sends pass through a function, which says what arrives instead.

    Yields a function that sends a message past it.
    """
    client = client_for(house.settings)
    kind = type(client.broker)
    put_all = kind.put_all

    async def changed(self: QueueBroker, messages: Sequence[Outgoing]) -> None:
        await put_all(self, [arrives for each in messages for arrives in change(each)])

    def send(message: Outgoing) -> None:
        client._call(lambda: put_all(client.broker, [message]))

    with monkeypatch.context() as patched:
        patched.setattr(kind, "put_all", changed)
        yield send


def worker_of(house: House) -> Worker:
    """Return the one worker that a house has, when it holds nothing."""
    client = client_for(house.settings)

    def idle() -> Worker | None:
        (worker,) = client.workers()
        return worker if not worker.is_lost and not worker.running else None

    eventually(lambda: client.depths() == [], "nothing waits, or is claimed")
    found: Worker = eventually(idle, "the worker is idle")
    return found


# -- twice -----------------------------------------------------------------------------------------


def test_messages_that_are_delivered_three_times_have_each_step_run_once(
    fleet: House, scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a run with a fan-out, a pool, a skipped step and retries at once and later."""
    for name in ("go-fan", "go-pool"):
        scratch.note(name)
    sent: list[Outgoing] = []

    def twice(message: Outgoing) -> list[Outgoing]:
        sent.append(message)
        return [message, message]

    with on_the_way(fleet, monkeypatch, twice) as send:
        outcome = fleet.run(fault_jobs.rich_past, scratch)
        assert outcome.status is SUCCESS
        worker_of(fleet)
        # And again when all has ended long ago.
        for message in sent:
            send(message)
        worker_of(fleet)
    steps = [*("chooses", "spreads", "counts-once", "counts-after_retry", "counts-after_long")]
    steps += [f"fan{end}-{number}" for end in ("", "-end") for number in range(3)]
    assert {each: scratch.count(each) for each in steps} == dict.fromkeys(steps, 1)
    # Twice each, because they ask for that themselves.
    assert (scratch.count("second_try"), scratch.count("long_wait")) == (2, 2)
    for name in ("pool-began", "pool-ended"):
        assert sorted(scratch.lines(name)) == ["pool_a", "pool_b"]
    outcome.assert_sound()


# -- of another release ----------------------------------------------------------------------------


def with_more_labels(message: dict[str, Any]) -> None:
    message["labels"]["from_the_future"] = {"a": [1]}
    message["labels_types"] = {**(message["labels_types"] or {}), "not_there": 1}


def with_more_fields(message: dict[str, Any]) -> None:
    message["from_the_future"] = 1


def with_more_packed(message: dict[str, Any]) -> None:
    message["kwargs"]["execute_step_args_packed"]["from_the_future"] = 1


def with_more_arguments(message: dict[str, Any]) -> None:
    message["kwargs"]["from_the_future"] = 1


def with_fewer_arguments(message: dict[str, Any]) -> None:
    del message["kwargs"]["executable_dict"]


def of_another_task(message: dict[str, Any]) -> None:
    message["task_name"] = "execute_plan_anew"


def of_another_class(message: dict[str, Any]) -> None:
    message["kwargs"]["execute_step_args_packed"]["__class__"] = "ArgsFromTheFuture"


CHANGES = {
    "more_labels": with_more_labels,
    "more_fields": with_more_fields,
    "more_packed": with_more_packed,
    "more_arguments": with_more_arguments,
    "fewer_arguments": with_fewer_arguments,
    "other_task": of_another_task,
    "other_class": of_another_class,
}
#: What the log says of those that cannot be understood.
SAID = {
    "fewer_arguments": ("executable_dict", "another release of dagster-taskiq"),
    "other_task": ("no task named 'execute_plan_anew'",),
    "other_class": ("ArgsFromTheFuture",),
    "cut_off": ("was sent 4 times", "rejects it"),
}


def test_messages_that_were_changed_are_understood_or_fail_their_step(
    fleet: House, scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come of another release, or were damaged once, or every time."""
    seen: set[str] = set()

    def change(message: Outgoing) -> list[Outgoing]:
        content = json.loads(message.body)
        step = content["labels"].get("step_key", "")
        if step in CHANGES:
            CHANGES[step](content)
            return [replace(message, body=json.dumps(content).encode())]
        if step == "cut_off" or (step == "cut_off_once" and step not in seen):
            seen.add(step)
            return [replace(message, body=message.body[: len(message.body) // 2])]
        return [message]

    with on_the_way(fleet, monkeypatch, change):
        outcome = fleet.run(message_jobs.changed, scratch)
    assert outcome.status is FAILURE
    assert outcome.failed == set(SAID)
    for step, words in SAID.items():
        text = outcome.failure(step)
        assert all(word in text for word in words), text
    good = ["cut_off_once", "more_arguments", "more_fields", "more_labels", "more_packed"]
    assert sorted(scratch.lines("quick")) == good


# -- of others -------------------------------------------------------------------------------------


def message_of(number: int, **changes: Any) -> bytes:
    fields = {"task_id": f"foreign-{number}", "task_name": "other.project", "labels": {}}
    # What becomes of a step is in an event log; of another task a result would be kept.
    fields["labels"] = {"run_id": "of-another-project"}
    return json.dumps({**fields, "args": [number], "kwargs": {}, **changes}).encode()


#: Messages that are not of this project, by what they are.
FOREIGN: dict[str, Callable[[int], bytes]] = {
    "bytes": lambda number: bytes((number * each) % 256 for each in range(200)),
    "nothing": lambda number: b"",
    "cut off": lambda number: message_of(number)[:60],
    "another shape": lambda number: json.dumps({"id": number, "task": "t"}).encode(),
    "deeper than anybody reads": lambda number: b"[" * 20_000 + b"]" * 20_000,
    "of Celery": lambda number: json.dumps([[number], {}, {"callbacks": None}]).encode(),
    "an unknown task": message_of,
    "labels that are no labels": lambda number: message_of(number, labels=[1]),
    "types of labels that nobody knows": lambda number: message_of(
        number, labels={"n": "x"}, labels_types={"n": 99}
    ),
    "a limit that is no number": lambda number: message_of(number, labels={"timeout": "soon"}),
    "a way to acknowledge that nobody knows": lambda number: message_of(
        number, labels={"ack_type": "perhaps"}
    ),
    "a name that is used inside": lambda number: message_of(
        number, kwargs={"dagster_taskiq_context": 1}
    ),
    "no task id": lambda number: message_of(number, task_id=""),
    "a run's queue in its label": lambda number: message_of(
        number, labels={"queue_name": "elsewhere:runs"}
    ),
}

#: How many are put before a run's steps. Ten thousand take minutes where each costs several writes
#: to a disk: ``DAGSTER_TASKIQ_TEST_FOREIGN=10000`` puts as many.
HOW_MANY = 1_150
#: By how much the parent may be larger at the end, in MiB: had it kept what it saw, it would be by
#: more. Its children are replaced where they grow, and hold the code that they have loaded.
GROWTH = 16


async def put_foreign(house_settings: Settings, bodies: list[bytes]) -> None:
    broker = make_broker(house_settings)
    broker.use_running_loop()
    await broker.startup()
    for first in range(0, len(bodies), 4):
        some = bodies[first : first + 4]
        # What the broker notes beside a message is the sender's word as well, and may be wrong.
        puts = (broker.put(f"{first}", house_settings.queue, 0, body) for body in some)
        await asyncio.gather(*puts)
    await broker.shutdown()


def size(pid: int) -> int:
    """Return how much memory a process holds, in MiB."""
    return int(psutil.Process(pid).memory_info().rss) >> 20


def test_a_queue_full_of_foreign_messages_delays_a_run_and_costs_nothing_more(
    fleet: House, scratch: Scratch, figure: Figure
) -> None:
    many = int(os.environ.get("DAGSTER_TASKIQ_TEST_FOREIGN", HOW_MANY))
    kinds = list(FOREIGN.values())
    bodies = [kinds[number % len(kinds)](number) for number in range(many)]
    # What is needed to read and refuse them is there before anything is measured.
    asyncio.run(put_foreign(fleet.settings, bodies[: 5 * len(kinds)]))
    worker = worker_of(fleet)
    before = size(worker.pid)
    asyncio.run(put_foreign(fleet.settings, bodies))
    since = time.monotonic()
    outcome = fleet.run(message_jobs.six, scratch)
    seconds = time.monotonic() - since
    figure(f"{many} foreign messages, and 6 steps behind them", f"{seconds:.1f} s")
    assert outcome.status is SUCCESS
    assert sorted(scratch.lines("quick")) == [f"quick_{number}" for number in range(6)]
    now = worker_of(fleet)
    assert now.id == worker.id
    after = size(worker.pid)
    figure("size of the worker's parent before and after", f"{before} MiB, {after} MiB")
    assert after - before < GROWTH
    assert client_for(fleet.settings).rejected() <= 1_100  # kept to be looked at, and no more


async def as_a_stranger(house: House) -> None:
    """Put something into the queue of a house, with a client that knows nothing of our ways."""
    queue, prefix = house.settings.queue, house.settings.prefix
    if house.kind == "redis":
        with redis.Redis.from_url(house.settings.broker) as client:
            client.zadd(f"{prefix}:levels:{queue}", {"0": 0})
            stream = f"{prefix}:queue:{queue}:0"
            client.xadd(stream, {"something": "else"})
            # As the group is made with a stream's first message, by whoever puts that.
            with suppress(redis.ResponseError):
                client.xgroup_create(stream, "workers", "0")
    else:
        connection = await aiormq.connect(house.settings.broker)
        channel = await connection.channel()
        for body in (b"something else", message_of(0), b"[[1], {}, {}]"):
            # Neither id nor priority nor time, and headers that mean something else.
            headers = {"sent_at": "yesterday", "task_id": {"a": 1}}
            properties = Basic.Properties(headers=headers if body else None)
            await channel.basic_publish(
                body, routing_key=f"{prefix}:queue:{queue}", properties=properties
            )
        await connection.close()


@pytest.mark.parametrize("fleet", ["redis", "rabbitmq"], indirect=True)
def test_what_a_stranger_puts_into_a_queue_is_set_aside(fleet: House, scratch: Scratch) -> None:
    worker = worker_of(fleet)
    asyncio.run(as_a_stranger(fleet))
    assert fleet.run(message_jobs.six, scratch).status is SUCCESS
    assert worker_of(fleet).id == worker.id


@pytest.mark.parametrize("fleet", ["redis"], indirect=True)
def test_a_worker_whose_queue_is_no_queue_reports_it_and_works_on_when_it_is(
    fleet: House, scratch: Scratch
) -> None:
    """What it runs meanwhile comes to its end."""
    worker = worker_of(fleet)
    outcome = fleet.create(fault_jobs.held_once, scratch)
    stream = f"{fleet.settings.prefix}:queue:{SIDE_QUEUE}:0"
    deeds: list[str] = []

    def break_and_mend() -> None:
        if deeds or not scratch.count("held-began"):
            return
        deeds.append("broken")
        with redis.Redis.from_url(fleet.settings.broker) as client:
            client.zadd(f"{fleet.settings.prefix}:levels:{SIDE_QUEUE}", {"0": 0})
            client.rpush(stream, "a list, as others keep their messages in")
            eventually(lambda: "Cannot take messages" in log_of(fleet), "it says so")
            scratch.note("go")
            scratch.wait_for("held-ended")
            client.delete(stream)

    fleet.execute(outcome, fault_jobs.held_once, meanwhile=break_and_mend)
    assert outcome.status is SUCCESS
    assert scratch.count("below") == 1
    assert worker_of(fleet).id == worker.id


def log_of(house: House) -> str:
    """Return what the shared worker of a house has logged."""
    (worker,) = client_for(house.settings).workers()
    return (Path(house.instance.root_directory).parent / f"{worker.name}.log").read_text()


# -- any bytes -------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
NAMES = ("task_id", "task_name", "labels", "labels_types", "args", "kwargs")
#: Objects with the fields of a message, each of which may be right, wrong or missing.
RIGHT = {
    "task_id": st.text(max_size=40),
    "task_name": st.text(max_size=20),
    "labels": st.dictionaries(st.text(max_size=8), JSON, max_size=4),
    "labels_types": st.none() | st.dictionaries(st.text(max_size=8), st.integers(-2, 9)),
    "args": st.lists(JSON, max_size=3),
    "kwargs": st.dictionaries(st.text(max_size=8), JSON, max_size=3),
}
MESSAGES = st.fixed_dictionaries({}, optional={name: RIGHT[name] | JSON for name in NAMES})
WHOLE = st.fixed_dictionaries(RIGHT)
AS_TEXT = st.one_of(JSON, MESSAGES, WHOLE).map(lambda each: json.dumps(each).encode())
CUT = st.tuples(AS_TEXT, st.integers(1, 60)).map(lambda each: each[0][: -each[1]])
BODIES = st.one_of(st.binary(max_size=200), AS_TEXT, CUT)


@given(bodies=st.lists(BODIES, min_size=1, max_size=5))
@settings(max_examples=300)
def test_a_listener_hands_on_what_can_be_read_and_sets_aside_the_rest(
    bodies: list[bytes],
) -> None:
    asyncio.run(listen_to(bodies))


async def listen_to(bodies: list[bytes]) -> None:
    broker = make_broker(Settings(broker=f"memory://{uuid.uuid4().hex}"))
    broker.use_running_loop()
    await broker.startup()
    for number, body in enumerate(bodies):
        await broker.put(f"t{number}", broker.settings.queue, 0, body)
    await broker.put("last", broker.settings.queue, 0, message_of(-1, task_id="last"))
    handed: list[bytes] = []
    async for message in broker.listen():
        assert isinstance(message, AckableMessage)
        await maybe_awaitable(message.ack())
        if broker.formatter.loads(message.data).task_id == "last":
            break
        handed.append(message.data)
    assert await broker.rejected() == len(bodies) - len(handed)
    assert handed == [each for each in bodies if each in handed]
    assert await broker.depths() == []
    await broker.shutdown()
