"""Cancelling a task that runs: at once, or when it has had time to end what it watches."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from taskiq import TaskiqResult

from compat_tests.launcher.deaths import is_running
from compat_tests.pools import run_in
from compat_tests.waiting import eventually_async
from compat_tests.worker.test_pool import message, started
from dagster_taskiq.errors import TaskRevokedError
from dagster_taskiq.wire.labels import RUN_LABEL, STEP_LABEL
from dagster_taskiq.worker.cancellation import Cancellation
from dagster_taskiq.worker.pool import Pool

pytestmark = pytest.mark.anyio

#: The labels of a step whose task is not Dagster's.
OF_STEP = {RUN_LABEL: "run", STEP_LABEL: "step"}
#: Longer than any test lasts.
FOR_EVER = 600.0


@dataclass
class Held:
    """A task that runs until a file is there."""

    pool: Pool
    cancellation: Cancellation
    task: "asyncio.Future[TaskiqResult[str]]"
    go: Path


@asynccontextmanager
async def held(directory: Path, **labels: str) -> AsyncIterator[Held]:
    said, go = directory / "said", directory / "go"
    async with started(directory) as pool:
        hold = message("t", "hold", str(said), str(go), **labels)
        task = asyncio.ensure_future(run_in(pool, hold))
        await eventually_async(anyio.Path(said).exists)
        yield Held(pool, Cancellation(pool), task, go)


@pytest.fixture
def seconds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set how long a task has to end what it watches."""
    name = "dagster_taskiq.worker.cancellation.CUSTOM_STEP_SECONDS"
    monkeypatch.setattr(name, getattr(request, "param", FOR_EVER))


@pytest.mark.usefixtures("seconds")
async def test_a_step_of_a_librarys_task_may_end_by_itself(tmp_path: Path) -> None:
    async with held(tmp_path, **OF_STEP) as step:
        step.cancellation.cancel("t", "the run was terminated")
        step.cancellation.cancel("t", "as the answer to a heartbeat repeats")
        step.go.touch()
        assert (await step.task).return_value == "held"


@pytest.mark.parametrize("seconds", [0.2], indirect=True)
@pytest.mark.usefixtures("seconds")
async def test_it_is_stopped_when_it_does_not(tmp_path: Path) -> None:
    async with held(tmp_path, **OF_STEP) as step:
        step.cancellation.cancel("t", "the run was terminated")
        with pytest.raises(TaskRevokedError, match="the run was terminated"):
            await step.task


@pytest.mark.usefixtures("seconds")
async def test_a_task_of_a_users_own_is_stopped_at_once(tmp_path: Path) -> None:
    async with held(tmp_path) as own:
        own.cancellation.cancel("t", "it was revoked")
        with pytest.raises(TaskRevokedError, match="it was revoked"):
            await own.task


@pytest.mark.usefixtures("seconds")
@pytest.mark.parametrize("how", ["killed", "the worker is shut down"])
async def test_a_forced_stop_gives_no_time(how: str, tmp_path: Path) -> None:
    async with held(tmp_path, **OF_STEP) as step:
        step.cancellation.cancel("t", "the run was terminated")
        if how == "killed":
            step.cancellation.cancel("t", "the run was resumed", at_once=True)
        else:
            step.pool.stop_all("the worker was shut down")
        with pytest.raises(TaskRevokedError):
            await step.task


@pytest.mark.usefixtures("seconds")
async def test_when_a_stopped_task_has_ended_its_process_has_too(tmp_path: Path) -> None:
    async with held(tmp_path) as own:
        (row,) = own.pool.running
        own.cancellation.cancel("t", "it was revoked")
        with pytest.raises(TaskRevokedError):
            await own.task
        assert not is_running(row.pid)
