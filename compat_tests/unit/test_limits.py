"""Limits of tasks and children, and the lease of a worker."""

import asyncio
import math
import time
from typing import Any

import pytest

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.worker.frames import EARLY_SECONDS
from dagster_taskiq.worker.lease import Lease
from dagster_taskiq.worker.limits import TimeLimits, may_run_another
from dagster_taskiq.worker.options import PoolOptions

pytestmark = pytest.mark.anyio

#: A moment that no test waits for.
FAR = 600.0


def options(**limits: Any) -> PoolOptions:
    return PoolOptions(concurrency=1, max_runs=1, **limits)


@pytest.mark.parametrize(
    ("labels", "limits", "expected"),
    [
        ({}, {}, TimeLimits()),
        ({}, {"time_limit": 5.0, "soft_time_limit": 3.0}, TimeLimits(hard=5.0, soft=3.0)),
        ({"time_limit": "7"}, {"time_limit": 5.0}, TimeLimits(hard=7.0)),
        ({"time_limit": 0}, {"time_limit": 5.0}, TimeLimits(hard=5.0)),
        ({"soft_time_limit": 2}, {"time_limit": 5.0}, TimeLimits(hard=5.0, soft=2.0)),
    ],
)
async def test_a_tasks_own_limit_counts_instead_of_the_workers(
    labels: dict[str, Any], limits: dict[str, float], expected: TimeLimits
) -> None:
    assert TimeLimits.of(labels, options(**limits)) == expected


@pytest.mark.parametrize("value", ["soon", -1, math.inf])
async def test_a_limit_that_is_no_time_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="time_limit"):
        TimeLimits.of({"time_limit": value}, options())


async def test_the_soft_limit_is_reported_and_then_the_hard_one() -> None:
    reported: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()
    with TimeLimits(hard=0.002, soft=0.001).enforced(
        lambda text, is_hard: reported.put_nowait((text, is_hard))
    ):
        assert await reported.get() == ("It exceeded its soft time limit of 0.001 s.", False)
        assert await reported.get() == ("It exceeded its time limit of 0.002 s.", True)


async def test_nothing_is_reported_of_a_task_that_has_ended() -> None:
    reported: list[str] = []
    with TimeLimits(hard=0.001, soft=0.001).enforced(lambda text, _: reported.append(text)):
        pass
    # Timers of one loop fire in the order of their times: this one comes after both.
    after = asyncio.Event()
    asyncio.get_running_loop().call_later(0.002, after.set)
    await after.wait()
    assert reported == []


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, True),
        ({"max_tasks_per_child": 3}, True),
        ({"max_tasks_per_child": 2}, False),
        ({"max_memory_per_child": 1000}, True),
        ({"max_memory_per_child": 999}, False),
    ],
)
async def test_a_child_is_used_again_within_its_limits(
    limits: dict[str, int], expected: bool
) -> None:
    assert may_run_another(options(**limits), tasks_done=2, resident_bytes=1000) is expected


async def test_a_lease_is_valid_until_a_moment_before_its_deadline() -> None:
    lease = Lease(30.0)
    assert not lease.is_valid
    lease.renew(time.monotonic() + FAR)
    assert lease.is_valid
    lease.renew(time.monotonic() + EARLY_SECONDS)
    assert not lease.is_valid


async def test_a_new_child_waits_for_a_lease() -> None:
    lease = Lease(30.0)
    waiting = asyncio.ensure_future(lease.until_valid())
    await asyncio.sleep(0)
    lease.renew(time.monotonic())  # a heartbeat that took longer than the lease
    await asyncio.sleep(0)
    assert not waiting.done()
    lease.renew(time.monotonic() + FAR)
    await waiting


async def test_an_end_of_the_lease_is_known_after_it_was_renewed() -> None:
    lease = Lease(30.0)
    lease.renew(time.monotonic() + FAR)
    before = time.monotonic()
    assert not lease.has_ended_since(before)
    lease.renew(time.monotonic())
    assert lease.has_ended_since(before)
    lease.renew(time.monotonic() + FAR)
    assert lease.has_ended_since(before)
    assert not lease.has_ended_since(time.monotonic())
    assert "no heartbeat for 30 s" in lease.describe_end()
