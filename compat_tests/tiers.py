"""Which test runs when: on every push, or only where everything is run.

A push (``make test``) runs each promise on at least one broker, and each broker on the contract.
``make test-all`` runs every test on every broker. What a push runs is decided here alone: each test
that it runs gets the marker ``push`` as it is collected, and ``make test`` selects those. A test
that is not selected is not reported as skipped.

1. A test that takes no broker as a parameter runs on every push.
2. A test in one of the directories ``EACH_BROKER``, or with the marker ``each_broker``, because its
   promise depends on the broker, runs on every push on all its brokers. ``ON_PUSH`` has those that
   run on some of them.
3. Every other test that takes a broker runs on every push on one of them. It is chosen by a hash of
   the name of the test's file: the same one each time, all brokers have their share, and the tests
   of a file share workers. The broker in memory, which has no worker, is chosen only if there is no
   other.
4. A test with the marker ``test_all`` runs on no push. The marker says why: another test, or the
   same one with other parameters, holds its promise on every push.
5. SQS is imitated by a server that is slow, and differs from other brokers in its messages alone.
   So a push runs the files ``ON_SQS`` on it, with the states of tasks on Redis; rules 2 and 3
   choose among the others.
6. On the oldest supported Dagster, a push runs the tests marked ``oldest``, on the embedded broker
   if they take one. They get the marker ``push_oldest``.
"""

from binascii import crc32
from collections import defaultdict
from collections.abc import Hashable

import pytest

from compat_tests.brokers import KINDS, MEMORY, SQS, SQS_REDIS

#: The tests that pytest has collected, before it deselects any.
COLLECTED = pytest.StashKey[list[pytest.Item]]()

#: Parameters whose values look like brokers, and are words in a table.
NO_BROKERS = ("celerys", "scheme")

_CONTRACT = "compat_tests/contract"

#: Directories of tests, below ``compat_tests``, that each broker runs on every push.
EACH_BROKER = ("contract", "security")

#: What runs on some brokers on every push although the directory runs on all, or on another broker
#: than the hash would choose: a file, or a test of one. What it promises is the same on the others,
#: and what they do for it has tests of its own.
ON_PUSH = {
    f"{_CONTRACT}/test_own_tasks.py": ("embedded", "redis", "rabbitmq"),
    # A loop that is asyncio's, and threads.
    f"{_CONTRACT}/test_sending.py": ("rabbitmq", "postgresql"),
    # On RabbitMQ, the functions themselves decide.
    f"{_CONTRACT}/test_transitions.py": ("embedded", "redis", "postgresql", MEMORY),
    f"{_CONTRACT}/test_worker.py::test_taskiqs_own_worker_command_serves_the_same_queues": (
        "rabbitmq",
    ),
    f"{_CONTRACT}/test_worker.py::test_ten_megabytes_go_to_a_task_and_come_back": (
        "redis",
        "rabbitmq",
    ),
    # Nothing that is searched for a password depends on the server.
    "compat_tests/security/test_secrets.py": ("redis",),
    # Tasks that wait for each other, one after the other: by far the fastest there.
    "compat_tests/facade/test_own_tasks.py": ("embedded",),
}

#: The files of tests that run on SQS on every push.
ON_SQS = (
    "compat_tests/contract/test_broker.py",
    "compat_tests/contract/test_delays.py",
    "compat_tests/contract/test_put_back.py",
    "compat_tests/contract/test_rejected_messages.py",
    "compat_tests/contract/test_sqs.py",
    "compat_tests/contract/test_unavailable_servers.py",
    "compat_tests/contract/test_worker.py",
)


def broker_of(item: pytest.Item) -> str | None:
    """Return the broker that a test has as a parameter; ``None`` where it has none."""
    found = [value for name, value in _parameters(item).items() if name not in NO_BROKERS]
    return next((each for each in found if each in KINDS), None)


@pytest.hookimpl(tryfirst=True)  # before -m deselects
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    mark_push(items)
    config.stash[COLLECTED] = list(items)


def mark_push(items: list[pytest.Item]) -> None:
    """Give the markers ``push`` and ``push_oldest`` to the tests that run on every push.

    Args:
        items: all tests that were collected, before any is deselected.
    """
    cells: dict[Hashable, dict[str | None, pytest.Item]] = defaultdict(dict)
    for item in items:
        cells[_without_broker(item)][broker_of(item)] = item
    for of_one_test in cells.values():
        for item in _on_push(of_one_test):
            item.add_marker(pytest.mark.push)
        oldest = {broker: item for broker, item in of_one_test.items() if _has(item, "oldest")}
        if oldest:
            on_one = oldest.get("embedded") or next(iter(oldest.values()))
            on_one.add_marker(pytest.mark.push_oldest)


def _on_push(cells: dict[str | None, pytest.Item]) -> list[pytest.Item]:
    """Return those of one test's cells, by their broker, that run on every push."""
    cells = {
        broker: item
        for broker, item in cells.items()
        if not _has(item, "test_all") and (broker not in SQS or _is_on_sqs(item, broker))
    }
    first = next(iter(cells.values()), None)
    if first is None or len(cells) == 1:
        return list(cells.values())
    file = first.nodeid.partition("::")[0]
    some = ON_PUSH.get(first.nodeid.partition("[")[0]) or ON_PUSH.get(file)
    if some is not None:
        return [item for broker, item in cells.items() if broker in (*some, *SQS)]
    if first.path.parent.name in EACH_BROKER or _has(first, "each_broker"):
        return list(cells.values())
    brokers = sorted(each for each in cells if each not in (None, MEMORY, *SQS))
    return [cells[brokers[crc32(file.encode()) % len(brokers)]]]


def _is_on_sqs(item: pytest.Item, broker: str | None) -> bool:
    return broker == SQS_REDIS and item.nodeid.partition("::")[0] in ON_SQS


def _has(item: pytest.Item, marker: str) -> bool:
    return item.get_closest_marker(marker) is not None


def _without_broker(item: pytest.Item) -> Hashable:
    """Return what a test's cells on all brokers have in common: function, and other parameters."""
    function, _, parameters = item.nodeid.partition("[")
    parts = parameters.removesuffix("]").split("-")
    broker = broker_of(item)
    if broker in parts:
        parts.remove(broker)
    return (function, *parts)


def _parameters(item: pytest.Item) -> dict[str, object]:
    callspec = getattr(item, "callspec", None)
    return {} if callspec is None else dict(callspec.params)
