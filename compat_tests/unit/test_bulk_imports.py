"""What the process of a run imports, and what becomes of the rest of the process meanwhile."""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dagster_taskiq.bulk_imports import bulk_imports

#: Executes a run whose broker does not answer, which is found out when all has been imported.
RUN = """
import json, sys
from dagster import DagsterInstance, job, op, reconstructable
from dagster import execute_job
from dagster_taskiq import taskiq_executor

@op
def nothing(): ...

@job(executor_def=taskiq_executor)
def lonely():
    nothing()

if __name__ == "__main__":
    config = {"broker": sys.argv[1], "connect_timeout": 1}
    with DagsterInstance.get() as instance:
        result = execute_job(
            reconstructable(lonely),
            instance,
            run_config={"execution": {"config": config}},
            raise_on_error=False,
        )
        errors = [
            event.event_specific_data.error.cls_name
            for event in result.all_events
            if event.is_run_failure
        ]
    json.dump([errors, sorted(sys.modules)], sys.stdout)
"""

#: What the loop of a run has no use for, and what takes long to import.
UNUSED = {
    *("aiohttp", "fastapi", "uvloop", "prometheus_client", "psycopg2", "boto3", "celery"),
    *("dagster_taskiq.worker", "dagster_taskiq.cli", "dagster_taskiq.monitor"),
    "dagster_taskiq.execution.perform",
    "dagster_taskiq.execution.run_tasks",  # imports all of Dagster's command line
    "dagster_taskiq.execution.step_task",
}


def run_code(code: str, *arguments: str, **environment: str) -> str:
    """Run a program in a new interpreter, and return what it has printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("url", "used", "of_others"),
    [
        pytest.param("redis://127.0.0.1:1", "redis", "aiormq", id="redis"),
        pytest.param("amqp://127.0.0.1:1", "aiormq", "redis", id="rabbitmq"),
    ],
)
def test_the_process_of_a_run_imports_only_what_its_loop_uses(
    tmp_path: Path, url: str, used: str, of_others: str
) -> None:
    project = tmp_path / "lonely_job.py"
    project.write_text(RUN)
    done = subprocess.run(
        [sys.executable, str(project), url],
        env={**os.environ, "DAGSTER_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        check=True,
    )
    errors, names = json.loads(done.stdout)
    modules = set(names)
    assert errors == ["ServerUnavailableError"]
    assert {"dagster_taskiq.runs.run_loop", "taskiq", used} <= modules
    assert sorted({*UNUSED, of_others} & modules) == []


def test_what_taskiq_imports_late_is_there_when_it_is_used() -> None:
    run_code(
        "import sys\n"
        "from dagster_taskiq.bulk_imports import bulk_imports\n"
        "with bulk_imports():\n"
        "    import taskiq\n"
        "assert 'aiohttp' not in sys.modules\n"
        "from taskiq.middlewares import TaskiqAdminMiddleware\n"
        "middleware = TaskiqAdminMiddleware('http://127.0.0.1:1', 'token')\n"
        "import asyncio\n"
        "async def use():\n"
        "    session = middleware._get_client()\n"
        "    import aiohttp\n"
        "    assert type(session) is aiohttp.ClientSession\n"
        "    await session.close()\n"
        "asyncio.run(use())\n"
    )


def test_dependencies_of_fastapi_are_known_though_it_is_imported_late() -> None:
    run_code(
        "import sys\n"
        "from dagster_taskiq.bulk_imports import bulk_imports\n"
        "with bulk_imports():\n"
        "    import taskiq\n"
        "assert 'fastapi' not in sys.modules and 'fastapi.params' not in sys.modules\n"
        "from taskiq_dependencies import DependencyGraph\n"
        "def plain(number=3): ...\n"
        "assert not DependencyGraph(plain).dependencies\n"
        "from fastapi import Depends\n"
        "def seven(): return 7\n"
        "def task(number=Depends(seven)): ...\n"
        "with DependencyGraph(task).sync_ctx() as context:\n"
        "    assert context.resolve_kwargs() == {'number': 7}\n"
    )


def test_fastapi_may_be_imported_beside_taskiq() -> None:
    run_code(
        "from dagster_taskiq.bulk_imports import bulk_imports\n"
        "with bulk_imports():\n"
        "    import fastapi\n"
        "    from fastapi import Depends\n"
        "    import taskiq\n"
        "import fastapi.params\n"
        "assert isinstance(Depends(print), fastapi.params.Depends)\n"
    )


def test_a_thread_gets_the_whole_of_what_taskiq_imports_late() -> None:
    run_code(
        "from dagster_taskiq.bulk_imports import bulk_imports\n"
        "with bulk_imports():\n"
        "    from aiohttp import web\n"
        "    import aiohttp.web_exceptions\n"
        "    class Session(aiohttp.ClientSession): ...\n"
        "import aiohttp as after\n"
        "assert after.web is web and Session.__base__ is after.ClientSession\n"
        "assert after.web_exceptions.HTTPException\n"
    )


@pytest.mark.parametrize("collects", [True, False])
def test_the_garbage_collector_is_as_it_was_after_imports(collects: bool) -> None:
    was_on = gc.isenabled()
    try:
        (gc.enable if collects else gc.disable)()
        with bulk_imports():
            assert not gc.isenabled()
        assert gc.isenabled() is collects
        with pytest.raises(ImportError), bulk_imports():
            raise ImportError
        assert gc.isenabled() is collects
    finally:
        (gc.enable if was_on else gc.disable)()


def test_objects_that_a_process_has_frozen_stay_so_after_imports() -> None:
    frozen = run_code(
        "import gc\n"
        "from dagster_taskiq.bulk_imports import bulk_imports\n"
        "with bulk_imports():\n"
        "    import taskiq\n"
        "print(gc.get_freeze_count())\n"
        "gc.freeze()\n"
        "frozen = gc.get_freeze_count()\n"
        "with bulk_imports():\n"
        "    import redis\n"
        "print(0 < gc.get_freeze_count() <= frozen)\n"
    )
    assert frozen.split() == ["0", "True"]
