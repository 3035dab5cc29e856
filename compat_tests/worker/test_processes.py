"""How children are made, watched and ended: their lease, what they start, signals, exit hooks."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from taskiq import TaskiqMessage, TaskiqResult

from compat_tests.pools import run_in
from compat_tests.sending import USER_TASKS
from compat_tests.waiting import eventually_async
from dagster_taskiq.errors import ChildDiedError, TaskRevokedError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.wire.labels import CODE_LABEL
from dagster_taskiq.worker.options import PoolOptions
from dagster_taskiq.worker.pool import Pool

pytestmark = pytest.mark.anyio

#: A lease that no test waits for.
LONG = 600.0


@pytest.fixture(scope="module")
async def pool(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pool]:
    """A pool with one slot, which tests share, so they leave it as it was."""
    settings = Settings(broker=f"sqlite:///{tmp_path_factory.mktemp('pool') / 'queue.db'}")
    options = PoolOptions(concurrency=1, max_runs=1, include=(USER_TASKS,), kill_grace=0.5)
    pool = Pool(settings, options, "w", lambda message: None)
    await pool.start()
    pool.renew(time.monotonic() + LONG)
    yield pool
    await pool.close()


def run(pool: Pool, name: str, *args: object, code: str = "") -> "asyncio.Task[TaskiqResult[Any]]":
    """Begin to run a task of the user's module; its id is its name."""
    message = TaskiqMessage(
        task_id=name,
        task_name=f"{USER_TASKS}:{name}",
        labels={CODE_LABEL: code},
        args=list(args),
        kwargs={},
    )
    return asyncio.ensure_future(run_in(pool, message))


async def value(task: "asyncio.Task[TaskiqResult[Any]]") -> Any:
    result = await task
    result.raise_for_error()
    return result.return_value


async def reported(path: Path, lines: int = 1) -> list[int]:
    """Wait until tasks have written so many process ids to a file."""

    async def all_there() -> list[int] | None:
        there = anyio.Path(path)
        found = (await there.read_text()).split() if await there.exists() else []
        return [int(each) for each in found] if len(found) >= lines else None

    return await eventually_async(all_there) or []


async def until_gone(pids: list[int]) -> None:
    """Wait until of these processes nothing is left, zombies included."""

    async def gone() -> bool:
        return not any(psutil.pid_exists(each) for each in pids)

    await eventually_async(gone)


def fork_server(pool: Pool) -> psutil.Process:
    assert pool._starter.server is not None
    return psutil.Process(pool._starter.server.pid)


# -- the lease -----------------------------------------------------------------------------------


async def test_code_that_keeps_the_interpreter_beyond_the_lease_is_left_alone(
    pool: Pool,
) -> None:
    keeps = run(pool, "keep_the_interpreter", 4)
    while not keeps.done():
        pool.renew(time.monotonic() + 3.0)
        await asyncio.wait({keeps}, timeout=0.2)
    pool.renew(time.monotonic() + LONG)
    assert await value(keeps) == "kept"


async def test_code_that_keeps_the_interpreter_ends_with_the_lease_and_is_named(
    pool: Pool, tmp_path: Path
) -> None:
    keeps = run(pool, "keep_the_interpreter", 600)
    await until_running(pool, keeps)
    pool.renew(time.monotonic())
    with pytest.raises(ChildDiedError, match="ended with the lease of its worker"):
        await keeps
    pool.renew(time.monotonic() + LONG)
    assert await value(run(pool, "process_id"))


async def test_the_kernel_ends_a_frozen_fork_server_and_its_children_at_the_deadline(
    pool: Pool, tmp_path: Path
) -> None:
    held = run(pool, "start_processes", str(tmp_path / "started"), str(tmp_path / "never"), True)
    (child,) = await reported(tmp_path / "started.all")
    started = await reported(tmp_path / "started", 3)
    server = fork_server(pool)
    pool.renew(time.monotonic() + 2.0)
    # It has read that, and has armed its timer, when it answers what was asked for after it.
    assert pool._starter.server is not None
    other = await pool._starter.server.spawn()
    server.suspend()
    with pytest.raises(ChildDiedError, match="ended with the lease of its worker"):
        await held
    await until_gone([server.pid, child, other.pid, *started])
    pool.renew(time.monotonic() + LONG)
    assert await value(run(pool, "process_id"))


async def test_children_end_with_the_fork_server_and_others_take_their_place(
    pool: Pool, tmp_path: Path
) -> None:
    held = run(pool, "start_processes", str(tmp_path / "started"), str(tmp_path / "never"), True)
    (child,) = await reported(tmp_path / "started.all")
    started = await reported(tmp_path / "started", 3)
    server = fork_server(pool)
    server.kill()
    with pytest.raises(ChildDiedError, match="the process that it was forked from has died"):
        await held
    await until_gone([server.pid, child, *started])
    assert await value(run(pool, "process_id"))
    assert fork_server(pool) != server


async def until_running(pool: Pool, task: "asyncio.Task[Any]") -> int:
    """Wait until a child has a task, and return its process id."""

    async def running() -> int:
        assert not task.done()
        return sum(row.pid for row in pool.running)

    return await eventually_async(running)


# -- what a task starts --------------------------------------------------------------------------


async def test_what_a_task_leaves_behind_has_ended_before_the_next_one_begins(
    pool: Pool, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    go.touch()
    first = await value(run(pool, "start_processes", str(tmp_path / "started"), str(go)))
    started = await reported(tmp_path / "started", 3)
    assert not any(psutil.pid_exists(each) for each in started)
    # What libraries know of such processes would be wrong in the same child.
    assert await value(run(pool, "process_id")) != first
    await until_gone([first])


@pytest.mark.parametrize("end", ["stopped", "deaf and stopped", "killed"])
async def test_what_a_task_has_started_ends_with_it_in_whatever_session_or_group(
    pool: Pool, tmp_path: Path, end: str
) -> None:
    never, deaf = str(tmp_path / "never"), end.startswith("deaf")
    held = run(pool, "start_processes", str(tmp_path / "started"), never, deaf)
    (child,) = await reported(tmp_path / "started.all")
    started = await reported(tmp_path / "started", 3)
    if end == "killed":
        os.kill(child, signal.SIGKILL)
        with pytest.raises(ChildDiedError, match="was killed by SIGKILL"):
            await held
    else:
        pool.stop("start_processes", "enough")
        with pytest.raises(TaskRevokedError, match="enough"):
            await held
    await until_gone([child, *started])


# -- a child is like a new process ---------------------------------------------------------------


async def test_multiprocessing_is_as_in_a_new_interpreter(pool: Pool) -> None:
    found = await value(run(pool, "use_multiprocessing", "fork"))
    assert found == {
        "start_method": None,
        "parent": None,
        "name": "MainProcess",
        "daemon": False,
        "threads": 1,
        "ended": 3,
        "terminated": True,
    }


async def test_exit_hooks_of_a_child_that_is_not_wanted_any_more_are_run(
    pool: Pool, tmp_path: Path
) -> None:
    child = await value(run(pool, "say_at_exit", str(tmp_path / "said"), code="/hooks"))
    # Of other code, so that it needs another child.
    assert await value(run(pool, "process_id", code="/other")) != child
    assert await reported(tmp_path / "said") == [child]
    await until_gone([child])


async def test_a_child_whose_exit_hooks_do_not_end_is_killed(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dagster_taskiq.worker.child_process.EXIT_SECONDS", 0.2)
    child = await value(run(pool, "say_at_exit", str(tmp_path / "said"), 600.0, code="/hooks"))
    await value(run(pool, "process_id", code="/other"))
    await until_gone([child])
    assert not (tmp_path / "said").exists()


# -- signals of other processes ------------------------------------------------------------------


async def test_a_signal_of_another_process_stops_the_task_of_a_child(
    pool: Pool, tmp_path: Path
) -> None:
    held = run(pool, "hold", str(tmp_path / "started"), str(tmp_path / "never"))
    (child,) = await reported(tmp_path / "started")
    os.kill(child, signal.SIGTERM)
    with pytest.raises(TaskRevokedError, match="its process was sent SIGTERM, and not by this"):
        await held


async def test_an_idle_child_that_is_sent_a_signal_is_replaced(pool: Pool) -> None:
    child = await value(run(pool, "process_id"))
    os.kill(child, signal.SIGTERM)
    await until_gone([child])
    assert await value(run(pool, "process_id")) != child
