"""The parts of broker and backend on RabbitMQ that need no server: what they decide by."""

from dataclasses import replace
from typing import Any

import pytest
from aiormq.abc import DeliveredMessage
from aiormq.exceptions import ChannelPreconditionFailed
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from dagster_taskiq.transport.listener import IDLE_LOOK_SECONDS
from dagster_taskiq.transport.rabbitmq import attempts, errors, inbox, messages
from dagster_taskiq.transport.rabbitmq.ended_ids import EndedIds
from dagster_taskiq.transport.rabbitmq.heartbeats import Heartbeats
from dagster_taskiq.transport.rabbitmq.inbox import Received, RetainedChannels
from dagster_taskiq.transport.rabbitmq.records import RECORD_NAMES, Record, task_shard
from dagster_taskiq.transport.rabbitmq.sending import REMEMBERED, SentMessages
from dagster_taskiq.transport.rabbitmq.task_table import FIELDS, STEP_SECONDS, TaskTable, by_shard
from dagster_taskiq.transport.rabbitmq.wakeups import IdleQueues
from dagster_taskiq.wire.notifications import CHANNEL_LENGTH, FROM_START
from dagster_taskiq.wire.records import Task, TaskState

# -- the order of claims -----------------------------------------------------------------------


def message(
    task_id: str, priority: int = 0, sent_at: float | None = None, *, redelivered: bool = False
) -> DeliveredMessage:
    """Return a message as the server delivers it."""
    headers: dict[str, Any] = {messages.TASK_ID_HEADER: task_id}
    if sent_at is not None:
        headers[messages.SENT_AT_HEADER] = int(sent_at * 1e9)
    properties = Basic.Properties(priority=messages.level_of(priority), headers=headers)
    return DeliveredMessage(
        delivery=Basic.GetOk(1, redelivered, "", "q", 0),
        header=ContentHeader(properties=properties),
        body=ContentBody(b"").value,
        channel=None,  # type: ignore[arg-type]
    )


def test_a_higher_priority_is_claimed_first_and_the_older_one_of_equal_priority() -> None:
    heads = [
        message("newer", 1, 20.0),
        message("low", -3, 1.0),
        message("older", 1, 10.0),
        message("high", 5, 30.0),
        message("none", 0, 40.0),
    ]
    order = [messages.task_id_of(each) for each in sorted(heads, key=messages.claim_order)]
    assert order == ["high", "older", "newer", "none", "low"]


@pytest.mark.parametrize(("priority", "level"), [(-99, 0), (-10, 0), (0, 10), (10, 20), (99, 20)])
def test_a_priority_that_is_out_of_range_counts_as_the_nearest_one(
    priority: int, level: int
) -> None:
    assert messages.level_of(priority) == level


def test_a_message_of_another_client_has_its_own_id_and_no_age() -> None:
    foreign = message("")
    foreign.header.properties.message_id = "theirs"
    assert messages.task_id_of(foreign) == "theirs"
    assert messages.sent_at(foreign) == 0.0
    assert not messages.was_delivered_before(foreign)
    assert messages.was_delivered_before(message("t", redelivered=True))


# -- the queues to ask -------------------------------------------------------------------------


@pytest.fixture
def idle() -> IdleQueues:
    idle = IdleQueues()
    idle.begin_look(1000.0)
    idle.subscribed("q")
    return idle


def test_a_queue_that_was_empty_is_idle_until_a_wakeup_comes(idle: IdleQueues) -> None:
    assert not idle.is_idle("q")
    idle.before_asking("q")
    assert idle.is_idle("q")
    idle.has_messages("q")
    assert not idle.is_idle("q")


def test_a_queue_whose_wakeups_do_not_arrive_is_never_idle(idle: IdleQueues) -> None:
    assert idle.missing(["q", "other"]) == {"other"}
    idle.before_asking("other")
    assert not idle.is_idle("other")


def test_every_queue_is_asked_once_in_a_while(idle: IdleQueues) -> None:
    idle.before_asking("q")
    idle.begin_look(1000.0 + IDLE_LOOK_SECONDS / 2)
    assert idle.is_idle("q")
    idle.begin_look(1000.0 + IDLE_LOOK_SECONDS)
    assert not idle.is_idle("q")


def test_after_a_lost_connection_no_queue_is_idle_or_subscribed(idle: IdleQueues) -> None:
    idle.before_asking("q")
    idle.unsubscribed()
    assert not idle.is_idle("q")
    assert idle.missing(["q"]) == {"q"}


# -- counts of deliveries ----------------------------------------------------------------------


def test_deliveries_are_counted_from_the_second_one() -> None:
    record = Record()
    assert [attempts.count_again(record, "t", now=1.0) for _ in range(3)] == [2, 3, 4]
    assert attempts.count_again(record, "other", now=1.0) == 2


def test_a_delivery_that_was_released_does_not_count() -> None:
    record = Record()
    attempts.uncount(record, "t", now=1.0)  # the first one
    assert attempts.count_again(record, "t", now=2.0) == 1
    attempts.uncount(record, "t", now=3.0)
    assert attempts.count_again(record, "t", now=4.0) == 1
    assert attempts.count_again(record, "t", now=5.0) == 2


def test_counts_that_are_too_old_are_dropped() -> None:
    record = Record()
    attempts.count_again(record, "old", now=0.0)
    attempts.count_again(record, "new", now=1.0 + attempts.KEEP_SECONDS)
    assert record.keys() == {"new"}


# -- sent messages -----------------------------------------------------------------------------


def test_where_a_message_was_sent_is_known_once_and_not_for_ever() -> None:
    sent = SentMessages()
    sent.add("first", "q", delayed=True)
    for number in range(REMEMBERED - 1):
        sent.add(f"t{number}", "q", delayed=False)
    assert sent.pop("first") == ("q", True)
    assert sent.pop("first") is None
    sent.add("one more", "q", delayed=False)
    sent.add("too many", "q", delayed=False)
    assert sent.pop("t0") is None
    assert sent.pop("t1") == ("q", False)


# -- notifications -----------------------------------------------------------------------------


def received(*cursors: str) -> Received:
    kept = Received()
    for cursor in cursors:
        kept.add(cursor, {"n": cursor})
    return kept


def cursors_after(kept: Received, cursor: str) -> list[str]:
    return [each.cursor for each in kept.after(cursor)]


def test_a_reader_gets_what_came_after_its_cursor_or_all_if_that_is_unknown() -> None:
    kept = received("a", "b", "c")
    assert cursors_after(kept, FROM_START) == ["a", "b", "c"]
    assert cursors_after(kept, "a") == ["b", "c"]
    assert cursors_after(kept, "c") == []
    assert cursors_after(kept, "of another connection") == ["a", "b", "c"]


def test_a_notification_that_is_received_twice_is_read_once() -> None:
    kept = received("a")
    assert kept.arrived.is_set()
    kept.arrived.clear()
    kept.add("a", {})
    assert not kept.arrived.is_set()
    assert cursors_after(kept, FROM_START) == ["a"]


def test_the_oldest_notifications_are_dropped() -> None:
    kept = received(*map(str, range(CHANNEL_LENGTH + 2)))
    assert cursors_after(kept, FROM_START) == [str(each + 2) for each in range(CHANNEL_LENGTH)]


def test_retained_notifications_come_before_those_that_arrived_meanwhile() -> None:
    kept = received("c", "d")
    kept.add_older(received("a", "b", "c"))
    assert cursors_after(kept, FROM_START) == ["a", "b", "c", "d"]


def test_a_retaining_queue_is_declared_again_before_it_expires() -> None:
    retained, session = RetainedChannels(), set[str]()
    assert retained.is_due("c", session, now=0.0)
    retained.note("c", now=0.0)
    assert not retained.is_due("c", session, now=1.0)
    assert retained.is_due("other", session, now=1.0)
    assert retained.is_due("c", session, now=inbox.RETAINED_SECONDS / 2)


def test_a_retaining_queue_is_declared_again_if_it_or_its_connection_is_lost() -> None:
    retained, session = RetainedChannels(), set[str]()
    assert retained.is_due("c", session, now=0.0)
    retained.note("c", now=0.0)
    retained.forget("c")
    assert retained.is_due("c", session, now=0.0)
    retained.note("c", now=0.0)
    assert retained.is_due("c", set[str](), now=0.0)


# -- heartbeats --------------------------------------------------------------------------------


def test_the_first_heartbeat_is_as_old_as_the_clocks_tell_and_ages_from_there() -> None:
    heartbeats = Heartbeats()
    assert heartbeats.ages({"w": 90.0}, now=100.0, clock=5.0) == {"w": 10.0}
    assert heartbeats.ages({"w": 90.0}, now=500.0, clock=7.0) == {"w": 12.0}


def test_a_later_heartbeat_is_not_older_than_the_last_look() -> None:
    heartbeats = Heartbeats()
    heartbeats.ages({"w": 0.0}, now=10_000.0, clock=5.0)
    # The worker's clock is hours late, but it has written something since the last look.
    assert heartbeats.ages({"w": 1.0}, now=10_001.0, clock=6.0) == {"w": 1.0}


def test_a_heartbeat_of_a_clock_that_is_ahead_is_as_old_as_its_first_look() -> None:
    heartbeats = Heartbeats()
    assert heartbeats.ages({"w": 9_999.0}, now=100.0, clock=5.0) == {"w": 0.0}
    assert heartbeats.ages({"w": 9_999.0}, now=101.0, clock=6.0) == {"w": 1.0}


def test_a_worker_that_is_gone_is_forgotten() -> None:
    heartbeats = Heartbeats()
    heartbeats.ages({"w": 0.0}, now=100.0, clock=0.0)
    assert heartbeats.ages({}, now=100.0, clock=1.0) == {}
    # As if it were seen for the first time.
    assert heartbeats.ages({"w": 1.0}, now=100.0, clock=1.0) == {"w": 99.0}


# -- records of tasks --------------------------------------------------------------------------

TASK = Task("t", name="n", queue="q", run_id="r", step_key="s", submitted_at=1.0)


def test_a_task_is_read_as_it_was_written() -> None:
    record = Record()
    for state in TaskState:
        marked = replace(TASK, state=state, worker="w", error="why", revoke_requested=True)
        task = replace(marked, attempt=3)
        TaskTable(record)["t"] = task
        assert TaskTable(record)["t"] == task
    assert len(record["t"]) == FIELDS


def test_what_a_newer_release_adds_to_a_record_on_rabbitmq_is_kept() -> None:
    record = Record()
    TaskTable(record)["t"] = TASK
    record["t"].append("newer")
    assert TaskTable(record)["t"] == TASK
    started = replace(TASK, state=TaskState.STARTED, worker="w", started_at=2.0)
    TaskTable(record)["t"] = started
    assert TaskTable(record)["t"] == started
    assert record["t"][FIELDS:] == ["newer"]


def test_what_an_older_release_has_written_is_read() -> None:
    record = Record()
    TaskTable(record)["t"] = TASK
    del record["t"][-2:]  # the attempt and the result
    table = TaskTable(record)
    assert table["t"] == TASK
    assert table.result("t") is None
    ended = replace(TASK, run_id="", state=TaskState.SUCCESS, finished_at=2.0)
    table["t"] = ended
    table.set_result("t", b"result")
    assert (table["t"], table.result("t")) == (ended, b"result")
    del record["t"][-2:]
    (fields,) = table.ended_own().values()
    assert fields[FIELDS - 2 :] == [0, None]


def test_what_ended_long_ago_is_dropped_and_steps_before_others() -> None:
    now = 10 * STEP_SECONDS
    table = TaskTable(Record())
    ended = replace(TASK, state=TaskState.SUCCESS, finished_at=now - STEP_SECONDS - 1.0)
    table["step"] = replace(ended, id="step")
    table["other"] = replace(ended, id="other", step_key="")
    table["recent"] = replace(ended, id="recent", finished_at=now - 1.0)
    table["running"] = replace(TASK, id="running", state=TaskState.STARTED, started_at=1.0)
    table.drop_expired(now, result_ttl=2.0 * STEP_SECONDS)
    assert set(table) == {"other", "recent", "running"}
    table.drop_expired(now, result_ttl=0.5)
    assert set(table) == {"running"}


def test_tasks_are_spread_over_records_that_exist() -> None:
    ids = [f"task {number}" for number in range(1000)]
    shards = by_shard(ids)
    assert sorted(each for some in shards.values() for each in some) == sorted(ids)
    assert shards.keys() == {each for each in RECORD_NAMES if each.startswith("tasks-")}
    assert all(task_shard(each) == shard for shard, some in shards.items() for each in some)


def test_an_id_is_remembered_for_as_long_as_the_period_in_which_it_was_added() -> None:
    record = Record()
    for number in range(100):
        EndedIds(record).add([f"t{number}", f"u{number}"], now=1000.0 + number, period=10.0)
    ids = EndedIds(record)
    assert all(f"t{number}" in ids and f"u{number}" in ids for number in range(100))
    assert "t100" not in ids
    assert ids.moved_after("t5") == 1000.0
    ids.discard("t5")
    ids.discard("never added")
    assert "t5" not in EndedIds(record)
    assert "u5" in EndedIds(record)
    ids.drop_before(1050.0)
    left = [number for number in range(100) if f"t{number}" in EndedIds(record)]
    assert left == list(range(55, 100))


# -- errors ------------------------------------------------------------------------------------


def test_the_first_difference_of_a_queue_that_is_declared_already_is_named() -> None:
    answer = ChannelPreconditionFailed(
        "PRECONDITION_FAILED - inequivalent arg 'x-max-priority' for queue 'p:queue:q' in vhost "
        "'/': received the value '20' of type 'long' but current is none"
    )
    text = str(errors.declared_differently("queue", "p:queue:q", answer))
    assert "its x-max-priority is none, and should be 20" in text
    assert 'rabbitmqctl delete_queue "p:queue:q"' in text
