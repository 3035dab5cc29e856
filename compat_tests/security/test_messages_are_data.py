"""Nothing that comes from a server is unpickled, called or imported: hostile records, real servers.

What the records would have done if somebody had believed them is to make a file.
"""

import asyncio
import json
import os
import pickle
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from dagster import reconstructable
from dagster._grpc.types import ExecuteRunArgs, ExecuteStepArgs
from dagster._serdes import pack_value
from taskiq import TaskiqMessage

from compat_tests.conftest import make_settings
from compat_tests.contract.test_broker import running
from compat_tests.executor.conftest import make_instance
from compat_tests.executor.runs import House
from compat_tests.executor.scratch import Scratch
from compat_tests.security import own_jobs
from compat_tests.waiting import eventually, eventually_async
from compat_tests.workers import running_worker
from dagster_taskiq import app
from dagster_taskiq.client import client_for
from dagster_taskiq.errors import TaskFailedError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.wire.commands import Command, command
from dagster_taskiq.wire.notifications import worker_channel
from dagster_taskiq.wire.records import Task, TaskState
from dagster_taskiq.wire.task_names import EXECUTE_PLAN
from dagster_taskiq.wire.task_request import TaskRequest
from dagster_taskiq.worker.cancellation import Cancellation
from dagster_taskiq.worker.control import Control
from dagster_taskiq.worker.options import PoolOptions
from dagster_taskiq.worker.pool import Pool

pytestmark = pytest.mark.anyio


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mknod, (str(self.path),)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "trace"


def assert_nothing_ran(trace: Path) -> None:
    assert not trace.exists()


@pytest.fixture
async def broker(settings: Settings) -> AsyncIterator[QueueBroker]:
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(opened(settings))


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[QueueBroker]:
    broker = app.make(settings)
    broker.queues = ("q",)
    async with running(broker):
        yield broker


def backend_of(broker: QueueBroker) -> StateBackend:
    assert isinstance(broker.result_backend, StateBackend)
    return broker.result_backend


# -- bodies of messages ------------------------------------------------------------------------


def bodies(trace: Path) -> dict[str, bytes]:
    """Return what other formats would have had a reader do."""
    touch = f"touch {trace}"
    bomb = Bomb(trace)
    return {
        "pickle": pickle.dumps(bomb),
        "pickle-text": pickle.dumps(bomb, 0),
        "yaml": f"!!python/object/apply:os.system ['{touch}']".encode(),
        "jsonpickle": json.dumps({"py/reduce": [{"py/type": "os.system"}, [touch]]}).encode(),
        "python": f"__import__('os').system('{touch}')".encode(),
    }


async def test_a_body_of_another_format_is_set_aside_and_not_believed(
    broker: QueueBroker, trace: Path
) -> None:
    hostile = bodies(trace)
    for name, body in hostile.items():
        await broker.put(name, "q", 0, body)
    await broker.put("good", "q", -1, message("good", "a_task", []))
    listener = broker.listen()
    first = await listener.__anext__()
    assert broker.formatter.loads(first.data).task_id == "good"
    await first.ack()  # type: ignore[misc] # ours can be awaited
    await listener.aclose()

    async def all_aside() -> bool:
        return await broker.rejected() == len(hostile)

    await eventually_async(all_aside)
    assert_nothing_ran(trace)


def message(task_id: str, name: str, args: list[Any]) -> bytes:
    plain = TaskiqMessage(task_id=task_id, task_name=name, labels={}, args=args, kwargs={})
    return plain.model_dump_json().encode()


# -- results -----------------------------------------------------------------------------------


def record(error: dict[str, Any] | None, **more: Any) -> bytes:
    plain = {"is_err": True, "return_value": None, "execution_time": 0.1, "error": error, **more}
    return json.dumps(plain).encode()


def named(module: str | None, kind: str, *arguments: str, **more: Any) -> dict[str, Any]:
    """Return an error as results have it, of any name."""
    return {"exc_module": module, "exc_type": kind, "exc_message": list(arguments), **more}


def results(trace: Path) -> dict[str, bytes]:
    """Return records of ended tasks as they would run a command in whoever reads them."""
    touch = f"touch {trace}"
    return {
        "pickle": pickle.dumps(Bomb(trace)),
        "nothing": b"",
        "no object": b'["is_err"]',
        "wrong fields": record(None, is_err="perhaps", execution_time="long"),
        "function": record(named("os", "system", touch)),
        "function of a function's module": record(named("pathlib", "os.system", touch)),
        "class that is no exception": record(named("subprocess", "Popen", touch)),
        "eval": record(named("builtins", "eval", f"__import__('os').system('{touch}')")),
        "exec": record(named("builtins", "exec", f"__import__('os').system('{touch}')")),
        "cause": record(named("builtins", "OSError", exc_cause=named("os", "system", touch))),
        "context": record(named("builtins", "OSError", exc_context=named("os", "system", touch))),
    }


async def test_a_result_names_no_function_that_its_reader_calls(
    broker: QueueBroker, trace: Path
) -> None:
    backend = backend_of(broker)
    hostile = results(trace)
    for name, stored in hostile.items():
        task = Task(f"id of {name}", worker="w")
        assert await backend.start(task) is None
        assert await backend.finish(task, TaskState.FAILURE, "", stored)
    for name in hostile:
        with pytest.raises(TaskFailedError, match=f"result of task id of {name} cannot be read"):
            await backend.get_result(f"id of {name}")
    assert_nothing_ran(trace)


async def test_an_error_of_a_module_that_is_not_there_is_not_imported(broker: QueueBroker) -> None:
    backend = backend_of(broker)
    task = Task("t", worker="w")
    await backend.start(task)
    stored = record(named("compat_tests.security.hostile", "SomeError", "its text"))
    await backend.finish(task, TaskState.FAILURE, "", stored)
    result = await backend.get_result("t")
    assert type(result.error).__name__ == "SomeError"
    assert result.error is not None
    assert result.error.args == ("its text",)
    assert "compat_tests.security.hostile" not in sys.modules


# -- notifications -------------------------------------------------------------------------------

#: What is no command, in JSON.
NO_COMMANDS: tuple[Any, ...] = (
    [],
    "kill",
    7,
    None,
    {},
    {"command": "os.system", "task": "true"},
    {"command": ["kill"]},
    {"command": "revoke", "task": "t", "after": "soon"},
    {"command": "revoke", "task": {}, "after": [1]},
    {"command": "watch"},
    {"command": "watch", "seconds": "long"},
)


async def test_a_worker_goes_on_obeying_after_what_is_no_command(broker: QueueBroker) -> None:
    backend = backend_of(broker)
    pool = Pool(broker.settings, PoolOptions(concurrency=1, max_runs=1), "w", lambda _: None)
    drained = asyncio.Event()
    control = Control(backend, "w", Cancellation(pool), drained.set, pytest.fail, pytest.fail)
    for body in NO_COMMANDS:
        await backend.post(worker_channel("w"), body)
    await backend.post(worker_channel("w"), command(Command.DRAIN))
    obeying = asyncio.ensure_future(control.run())
    try:
        await asyncio.wait_for(drained.wait(), 60)
    finally:
        obeying.cancel()
        await asyncio.gather(obeying, return_exceptions=True)


# -- the arguments of Dagster's tasks ------------------------------------------------------------


@pytest.fixture(scope="module")
def house(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[House]:
    """A house whose worker believes whom it gets messages from, as far as it has to."""
    directory = tmp_path_factory.mktemp("trusting")
    settings = make_settings("embedded", directory, request)
    with make_instance(directory) as instance, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(directory / "dagster-home"))
        with running_worker(settings, directory, "-c", "1"):
            yield House(settings, instance)


def failure_of(house: House, name: str, kwargs: dict[str, Any], task_id: str) -> str:
    """Send a task that has to fail, and return why."""
    client = client_for(house.settings)
    client.submit(TaskRequest(id=task_id, name=name, kwargs=kwargs, queue="dagster", run_id="r"))
    eventually(lambda: client.tasks([task_id])[task_id].state.is_final, f"{task_id} ends")
    task = client.tasks([task_id])[task_id]
    assert task.state is TaskState.FAILURE, task
    return task.error


def step_of(house: House, scratch: Scratch) -> dict[str, Any]:
    """Return the arguments of a step that would run."""
    outcome = house.create(own_jobs.allowed, scratch)
    recon = reconstructable(own_jobs.allowed)
    args = ExecuteStepArgs(
        recon.get_python_origin(), outcome.run_id, ["note"], house.instance.get_ref()
    )
    packed: Any = pack_value(args)
    return {"execute_step_args_packed": packed, "executable_dict": dict(recon.to_dict())}


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    directory = tmp_path / "notes"
    directory.mkdir()
    return Scratch(directory)


#: What stands where something else should, in JSON.
WRONG: tuple[Any, ...] = (
    None,
    7,
    "text",
    ["a", "list"],
    {"a": "mapping"},
    {"__class__": "Popen", "args": "true"},
    {"__class__": "subprocess.Popen", "args": "true"},
    {"__class__": "JobPythonOrigin"},
    {"__enum__": "RetryMode.NONE_SUCH"},
)
#: Arguments, and fields of packed ones, without which no step can be executed.
FIELDS = ("job_origin", "pipeline_run_id", "instance_ref")


def test_arguments_of_the_wrong_kind_fail_the_task_and_not_the_worker(
    house: House, scratch: Scratch
) -> None:
    """Each thing in each place, in one child: whatever was sent before, the next one is served."""
    good = step_of(house, scratch)
    number = 0
    for wrong in WRONG:
        changed = [{**good, name: wrong} for name in good]
        for field in FIELDS:
            packed = {**good["execute_step_args_packed"], field: wrong}
            changed.append({**good, "execute_step_args_packed": packed})
        for kwargs in changed:
            number += 1
            assert failure_of(house, EXECUTE_PLAN, kwargs, f"wrong-{scratch.directory}-{number}")
    assert scratch.count("ran") == 0
    client = client_for(house.settings)
    run_id = good["execute_step_args_packed"]["pipeline_run_id"]
    client.submit(
        TaskRequest(id=run_id, name=EXECUTE_PLAN, kwargs=good, queue="dagster", run_id=run_id)
    )
    eventually(lambda: scratch.count("ran") == 1, "the step runs")


def test_arguments_of_another_task_are_refused_by_their_class(
    house: House, scratch: Scratch
) -> None:
    good = step_of(house, scratch)
    origin = reconstructable(own_jobs.allowed).get_python_origin()
    other = pack_value(ExecuteRunArgs(origin, "run", house.instance.get_ref()))
    text = failure_of(
        house, EXECUTE_PLAN, {**good, "execute_step_args_packed": other}, f"o-{scratch.directory}"
    )
    assert "ExecuteStepArgs" in text
