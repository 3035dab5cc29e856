"""What every server that keeps schedules promises to schedulers, tried on each of them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from importlib import import_module

import pytest

from compat_tests.brokers import ALL_WITH_STATES, PGBOUNCER
from compat_tests.conftest import other_prefix
from compat_tests.contract.test_backend import opened
from compat_tests.waiting import eventually_async
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.schedule_store import ScheduleStore
from dagster_taskiq.wire.firings import Claim, Firing

pytestmark = pytest.mark.anyio

#: RabbitMQ keeps none.
STORES = (
    *(each for each in ALL_WITH_STATES if each != "rabbitmq"),
    pytest.param(PGBOUNCER, marks=pytest.mark.test_all("PostgreSQL itself")),
)
#: The kinds of stores, each a module of the name.
KINDS = ("memory", "redis", "sql")

NOON = Firing("noon", 1_000_000_020.0, 60.0)
NEXT_NOON = Firing("noon", 1_000_086_420.0, 60.0)


@pytest.fixture(scope="module", params=STORES)
def broker_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def stores(settings: Settings) -> AsyncIterator[list[ScheduleStore]]:
    """Those of several processes, for those who race."""
    async with AsyncExitStack() as stack:
        yield [await _opened(stack, settings) for _ in range(4)]


async def _opened(stack: AsyncExitStack, settings: Settings) -> ScheduleStore:
    store = (await stack.enter_async_context(opened(settings))).schedule_store()
    assert store is not None
    return store


async def test_schedules_are_kept_for_all_processes_of_the_prefix(
    settings: Settings, stores: list[ScheduleStore]
) -> None:
    mine, other, *_ = stores
    await mine.put("a", "{}")
    await mine.put("b", '{"b": "\u00fc"}')
    await mine.put("a", '{"a": 2}')
    await mine.delete("unknown")
    assert sorted(await other.bodies()) == ['{"a": 2}', '{"b": "\u00fc"}']
    await other.delete("b")
    assert await mine.bodies() == ['{"a": 2}']
    async with AsyncExitStack() as stack:
        changed = settings.replace(prefix=other_prefix(settings.prefix))
        if not settings.broker.startswith("memory:"):
            assert await (await _opened(stack, changed)).bodies() == []


async def test_of_schedulers_that_claim_a_firing_at_once_one_gets_it(
    stores: list[ScheduleStore],
) -> None:
    claims = await asyncio.gather(*(each.claim(NOON, f"s{n}") for n, each in enumerate(stores)))
    assert sorted(claims, key=str) == [Claim.MINE, *[Claim.OTHERS] * (len(stores) - 1)]
    winner = claims.index(Claim.MINE)
    assert await stores[winner].claim(NOON, f"s{winner}") is Claim.MINE
    await stores[winner].confirm(NOON, f"s{winner}")
    again = await asyncio.gather(*(each.claim(NOON, f"s{n}") for n, each in enumerate(stores)))
    assert set(again) == {Claim.SENT}


async def test_a_firing_before_the_last_one_counts_as_sent(stores: list[ScheduleStore]) -> None:
    mine, other, *_ = stores
    assert await mine.claim(NEXT_NOON, "mine") is Claim.MINE
    assert await other.claim(NOON, "other") is Claim.SENT
    await other.confirm(NOON, "other")
    assert await other.claim(NEXT_NOON, "other") is Claim.OTHERS
    await mine.confirm(NEXT_NOON, "mine")
    assert await other.claim(Firing("another", NOON.due, 0.0), "other") is Claim.MINE


async def test_what_a_dead_scheduler_has_claimed_another_one_sends(
    stores: list[ScheduleStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other, *_ = stores
    assert await mine.claim(NOON, "mine") is Claim.MINE
    for kind in KINDS:
        module = import_module(f"dagster_taskiq.transport.{kind}.schedule_store")
        monkeypatch.setattr(module, "CLAIM_SECONDS", -1.0)
    assert await other.claim(NOON, "other") is Claim.MINE
    await mine.confirm(NOON, "mine")  # it was only slow
    monkeypatch.undo()
    assert await mine.claim(NOON, "mine") is Claim.OTHERS


async def test_a_claim_is_forgotten_after_its_time(stores: list[ScheduleStore]) -> None:
    mine, other, *_ = stores
    once, for_ever = Firing("once", 1.0, 0.05), Firing("for-ever", 1.0, 0.0)
    for firing in (once, for_ever):
        assert await mine.claim(firing, "mine") is Claim.MINE
        await mine.confirm(firing, "mine")
    await eventually_async(lambda: _is_free(other, once))
    assert await other.claim(for_ever, "other") is Claim.SENT


async def _is_free(store: ScheduleStore, firing: Firing) -> bool:
    return await store.claim(firing, "other") is Claim.MINE
