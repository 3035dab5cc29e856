"""The pool of children alone: which child a task gets, and how many children there are."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import psutil
import pytest
from taskiq import TaskiqMessage

from compat_tests.pools import run_in
from compat_tests.sending import USER_TASKS
from compat_tests.waiting import eventually_async
from dagster_taskiq.errors import ChildDiedError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.wire.labels import CODE_LABEL, QUEUE_LABEL
from dagster_taskiq.wire.queues import run_queue
from dagster_taskiq.worker.options import PoolOptions
from dagster_taskiq.worker.pool import Pool

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def started(directory: Path, concurrency: int = 1, max_runs: int = 2) -> AsyncIterator[Pool]:
    pool = make_pool(directory, concurrency, max_runs)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


def make_pool(directory: Path, concurrency: int = 1, max_runs: int = 2) -> Pool:
    settings = Settings(broker=f"sqlite:///{directory / 'queue.db'}")
    options = PoolOptions(concurrency=concurrency, max_runs=max_runs, include=(USER_TASKS,))
    return Pool(settings, options, "w", lambda message: None)


@pytest.fixture(scope="module")
async def pool(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pool]:
    """A pool with one slot, which tests share, so they leave it as it was."""
    async with started(tmp_path_factory.mktemp("pool")) as pool:
        yield pool


def message(task_id: str, name: str, *args: str, **labels: str) -> TaskiqMessage:
    return TaskiqMessage(
        task_id=task_id,
        task_name=f"{USER_TASKS}:{name}",
        labels=labels,
        args=list(args),
        kwargs={},
    )


def fork_server(pool: Pool) -> psutil.Process:
    assert pool._starter.server is not None
    return psutil.Process(pool._starter.server.pid)


async def pid_of(pool: Pool, task_id: str, code: str) -> int:
    result = await run_in(pool, message(task_id, "process_id", **{CODE_LABEL: code}))
    assert result.error is None
    return int(result.return_value)


async def test_a_run_that_only_waits_frees_its_slot_and_a_child_too_many_ends(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dagster_taskiq.worker.children.SPARE_SECONDS", 0.2)
    said, go = tmp_path / "said", tmp_path / "go"
    await _number_of_children(pool, 1)
    labels = {QUEUE_LABEL: run_queue("q")}
    waiting = message("run", "orchestrate", str(said), str(go), **labels)
    run = asyncio.ensure_future(run_in(pool, waiting))
    await eventually_async(anyio.Path(said).exists)

    async def is_orchestrating() -> bool:
        return [each.orchestrating for each in pool.running] == [True]

    await eventually_async(is_orchestrating)
    (row,) = pool.running
    assert row.id == "run"
    # The one slot is free for another task while the run goes on, in a child of its own.
    assert await pid_of(pool, "step", "") != row.pid
    assert not run.done()
    await _number_of_children(pool, 2)
    go.touch()
    assert (await run).error is None
    await _number_of_children(pool, 1)
    assert len(pool.slots.runs) == 0


async def test_a_task_that_is_no_run_keeps_its_slot_whatever_it_reports(
    pool: Pool, tmp_path: Path
) -> None:
    said, go = tmp_path / "said", tmp_path / "go"
    claims_to_wait = message("step", "orchestrate", str(said), str(go))
    task = asyncio.ensure_future(run_in(pool, claims_to_wait))
    await eventually_async(anyio.Path(said).exists)
    other = asyncio.ensure_future(pool.slots.reserve())
    (row,) = pool.running
    assert not row.orchestrating
    assert not other.done()
    go.touch()
    assert (await task).error is None
    await other
    pool.slots.unreserve()


async def test_a_child_keeps_to_the_code_of_one_directory(pool: Pool) -> None:
    first = await pid_of(pool, "a1", "/a")
    assert await pid_of(pool, "a2", "/a") == first
    second = await pid_of(pool, "b1", "/b")
    assert second != first
    assert await pid_of(pool, "b2", "/b") == second
    assert await pid_of(pool, "a3", "/a") != second


async def test_tasks_of_several_directories_at_once_all_find_a_child(tmp_path: Path) -> None:
    async with started(tmp_path, concurrency=2) as pool:
        found = await asyncio.gather(
            *(pid_of(pool, f"t{number}", f"/{number % 3}") for number in range(9))
        )
        by_code = [set(found[code::3]) for code in range(3)]
        assert not by_code[0] & by_code[1]
        assert not by_code[1] & by_code[2]
        assert not by_code[0] & by_code[2]
        await _number_of_children(pool, 2)


async def test_a_task_finds_a_child_also_if_idle_ones_of_other_code_are_too_many(
    pool: Pool,
) -> None:
    first = await pid_of(pool, "a", "/a")
    internal = await pool.run_internal(message("internal", "process_id"))
    # The child that came for it has loaded no code yet, and so suits any.
    assert await pid_of(pool, "b", "/b") == internal.return_value != first
    with anyio.fail_after(60):
        assert await pid_of(pool, "c", "/c") not in (first, internal.return_value)


async def test_what_ran_as_the_lease_ended_says_so_and_the_next_beat_has_new_children(
    pool: Pool, tmp_path: Path
) -> None:
    said, never = tmp_path / "said", tmp_path / "never"
    held = asyncio.ensure_future(run_in(pool, message("held", "hold", str(said), str(never))))
    await eventually_async(anyio.Path(said).exists)
    pool.renew(time.monotonic())
    with pytest.raises(ChildDiedError, match="ended with the lease of its worker"):
        await held
    other = asyncio.ensure_future(pid_of(pool, "other", ""))
    internal = asyncio.ensure_future(pool.run_internal(message("internal", "process_id")))
    # No child starts while there is no lease, and no task fails because of that.
    done, _ = await asyncio.wait({other, internal}, timeout=1.0)
    assert not done
    await _number_of_children(pool, 0)
    pool.renew(time.monotonic() + 600)
    assert (await internal).error is None
    assert await other


async def test_a_hundred_tasks_that_change_all_they_can_find_the_process_as_it_was(
    tmp_path: Path,
) -> None:
    async with started(tmp_path) as pool:
        results = [
            await run_in(pool, message(f"t{number}", "leave_everything_behind"))
            for number in range(100)
        ]
    assert [result.error for result in results if result.is_err] == []
    first, *others = [result.return_value for result in results]
    assert [each for each in others if each != first] == []


async def _number_of_children(pool: Pool, wanted: int) -> None:
    async def there() -> bool:
        return len(fork_server(pool).children()) == wanted

    await eventually_async(there)
