"""The names of queues and exchanges on RabbitMQ, and the routing keys of delays."""

import re

import pytest

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.transport.rabbitmq import delays, names
from dagster_taskiq.transport.rabbitmq.names import Names, check_exchange_name, check_queue_name

NAMES = Names("p")


def all_names() -> list[str]:
    return [
        NAMES.queue("q"),
        NAMES.queue("q:runs"),
        NAMES.rejected,
        NAMES.delay_queue(0, "q"),
        NAMES.delay_queue(1, "q"),
        NAMES.delay_exchange(0),
        NAMES.due_exchange,
        NAMES.record("queues"),
        NAMES.records_exchange,
        NAMES.records_lock,
        NAMES.ended("tasks-00"),
        NAMES.progress("task"),
        NAMES.notifications_exchange,
        NAMES.retained("run:r"),
        NAMES.new_inbox(),
        NAMES.new_inbox(),
        NAMES.wakeups_exchange,
        NAMES.new_wakeups("w"),
        NAMES.new_wakeups("w"),
    ]


def test_all_names_differ_begin_with_the_prefix_and_are_allowed() -> None:
    found = all_names()
    assert len(set(found)) == len(found)
    for name in found:
        assert name.startswith("p:")
        check_queue_name(name)


def test_the_table_of_the_module_has_every_name_and_no_other() -> None:
    listed = re.findall(r"^``(\S+)``", names.__doc__ or "", re.MULTILINE)
    patterns = [re.sub(r"<\w+>", ".+", each) for each in listed]
    found = [each.removeprefix("p:") for each in all_names()]
    for name in found:
        assert any(re.fullmatch(pattern, name) for pattern in patterns), name
    for pattern in patterns:
        assert any(re.fullmatch(pattern, name) for name in found), pattern


@pytest.mark.parametrize("text", ["t", "a b", "manual__2024-01-01T00:00:00", "x" * 120])
def test_a_text_that_is_allowed_is_part_of_a_name_as_it_is(text: str) -> None:
    assert names.name_part(text) == text


@pytest.mark.parametrize("text", ["x" * 121, "Ä", "[1]", "a\nb", "*"])
def test_another_text_is_part_of_a_name_as_a_digest(text: str) -> None:
    part = names.name_part(text)
    assert part != text
    assert part == names.name_part(text) != names.name_part(f"{text} ")
    check_exchange_name(part)


@pytest.mark.parametrize(
    ("name", "problem"),
    [("x" * 256, "longer than the 255 bytes"), ("a*b", "has a character that is not allowed")],
)
def test_a_queue_name_that_the_protocol_does_not_allow_is_refused(name: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        check_queue_name(name)


def test_the_name_of_an_exchange_may_be_shorter_than_that_of_a_queue() -> None:
    check_queue_name("x" * 255)
    check_exchange_name("x" * 127)
    with pytest.raises(ConfigError, match=r"exchange .* longer than the 127 bytes"):
        check_exchange_name("x" * 128)


# -- delays ----------------------------------------------------------------------------------


def matches(pattern: str, key: str) -> bool:
    """Match a routing key as a topic exchange does."""
    words = [{"*": r"[^.]*", "#": r".*"}.get(each, re.escape(each)) for each in pattern.split(".")]
    return re.fullmatch(r"\.".join(words).replace(r".*\.", r"(.*\.)?"), key) is not None


@pytest.mark.parametrize(
    ("delay", "units"), [(0.0, 0), (0.01, 1), (0.25, 1), (0.26, 2), (13.0, 52)]
)
def test_a_delay_is_rounded_up_to_units(delay: float, units: int) -> None:
    assert delays.units_of(delay) == units


@pytest.mark.parametrize("delay", [0.25, 1.0, 13.0, 86400.0, delays.LONGEST_SECONDS])
def test_the_waits_of_the_levels_of_a_delay_add_up_to_it(delay: float) -> None:
    levels = delays.levels_of(delays.units_of(delay))
    assert levels == sorted(levels, reverse=True)
    assert sum(map(delays.wait_of, levels)) == delay * 1000


def test_a_delay_that_is_too_long_is_refused() -> None:
    with pytest.raises(ConfigError, match="longer than RabbitMQ can keep a message"):
        delays.units_of(delays.LONGEST_SECONDS + 1)


@pytest.mark.parametrize("units", [1, 2, 5, 52, 2**delays.LEVELS - 1])
def test_a_delayed_message_waits_in_queues_of_its_levels_before_its_queue(
    units: int,
) -> None:
    """Follow a message through the exchanges, as ``queues`` binds them."""
    key = delays.routing_key(units, "q")
    waited = []
    for level in reversed(range(delays.levels_of(units)[0] + 1)):
        waits = matches(delays.pattern_of_bit(level, 1, "q"), key)
        assert waits != matches(delays.pattern_of_bit(level, 0), key)
        assert not matches(delays.pattern_of_bit(level, 1, "other"), key)
        if waits:
            waited.append(level)
    assert waited == delays.levels_of(units)
    assert matches(delays.pattern_of_queue("q"), key)
    assert not matches(delays.pattern_of_queue("other"), key)
