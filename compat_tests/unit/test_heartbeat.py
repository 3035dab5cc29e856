"""The heartbeat of a worker: what it logs while the backend is away or at fault."""

import asyncio
import logging
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from compat_tests.unit.doubles import make_worker
from dagster_taskiq.errors import ConfigError, ServerUnavailableError
from dagster_taskiq.worker.heartbeat import Heartbeat

pytestmark = pytest.mark.anyio

#: In seconds. The lease is over before the second try.
INTERVAL, LEASE = 0.01, 0.005

AWAY = ServerUnavailableError("redis://host does not answer.", "connection refused")


class Backend:
    """Fails as told, once for each error, and then accepts what is sent."""

    def __init__(self, *errors: Exception) -> None:
        self.settings = SimpleNamespace(lease=LEASE)
        self.errors = list(errors)
        self.accepted = asyncio.Event()
        #: How many it has accepted.
        self.number = 0

    async def beat(self, _: Any) -> list[str]:
        if self.errors:
            raise self.errors.pop(0)
        self.number += 1
        self.accepted.set()
        return []

    async def beats(self, number: int) -> None:
        """Return when it has accepted so many."""
        while self.number < number:
            self.accepted.clear()
            await asyncio.wait_for(self.accepted.wait(), 60)

    async def sweep(self) -> None:
        """Have nothing to delete."""


async def logged(caplog: pytest.LogCaptureFixture, *errors: Exception) -> Counter[str]:
    """Return how often each sentence was logged, by its first words, until a heartbeat got through.

    Args:
        caplog: pytest's.
        errors: what the backend answers before.
    """
    backend: Any = Backend(*errors)
    pool: Any = SimpleNamespace(stop_all=lambda *_, **__: None, renew=lambda _: None)
    cancellation: Any = None
    heartbeat = Heartbeat(backend, pool, cancellation, make_worker_named, INTERVAL)
    with caplog.at_level(logging.WARNING):
        sending = asyncio.ensure_future(heartbeat.run())
        await backend.accepted.wait()
        await asyncio.sleep(0)
        sending.cancel()
    return Counter(
        next((each for each in SENTENCES if each in record.getMessage()), record.getMessage())
        for record in caplog.records
    )


SENTENCES = ("does not answer", "No heartbeat was sent", "answers again", "is refused")


def make_worker_named() -> Any:
    return make_worker("w")


async def test_changes_hasten_heartbeats_only_while_a_monitor_watches() -> None:
    backend: Any = Backend()
    pool: Any = SimpleNamespace(stop_all=lambda *_, **__: None, renew=lambda _: None)
    cancellation: Any = None
    heartbeat = Heartbeat(backend, pool, cancellation, make_worker_named, 3600.0)
    sending = asyncio.ensure_future(heartbeat.run())
    await backend.beats(1)

    heartbeat.note_change()
    assert not heartbeat.is_watched
    heartbeat.watch(1e9)
    await backend.beats(2)
    for _ in range(100):
        heartbeat.note_change()
    await backend.beats(3)
    heartbeat.watch(0.0)
    heartbeat.note_change()
    await asyncio.sleep(0)
    assert not heartbeat.is_watched
    sending.cancel()
    assert backend.number == 3


async def test_an_outage_is_logged_once_and_so_is_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = await logged(caplog, *[AWAY] * 5)

    assert found == {"does not answer": 1, "No heartbeat was sent": 1, "answers again": 1}


async def test_each_other_fault_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    refused = ConfigError("The password is refused.")
    found = await logged(caplog, *[AWAY] * 2, *[refused] * 3, *[ValueError("odd")] * 2)

    assert found == {
        "does not answer": 1,
        "No heartbeat was sent": 1,
        "is refused": 1,
        "Cannot send a heartbeat: odd": 1,
        "answers again": 1,
    }
