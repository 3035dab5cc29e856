"""What the first process of a worker imports: it runs no code of users, and none of Dagster."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from compat_tests.waiting import eventually

#: Runs a command line; tells what it has imported when there is a line on its standard input.
PROGRAM = """
import json, sys, threading
from importlib import import_module

def tell():
    sys.stdin.readline()
    print(json.dumps(sorted(sys.modules)), flush=True)

threading.Thread(target=tell, daemon=True).start()
module = sys.argv.pop(1)
sys.argv[0] = module
import_module(module).main()
"""

#: The file with the config of the older command.
CONFIG = "worker.yaml"

#: What only the processes that execute tasks need, or a server of HTTP.
UNUSED = {
    *("dagster", "alembic", "aiohttp", "prometheus_client"),
    *("dagster_taskiq.runs", "dagster_taskiq.execution.step_task", "dagster_taskiq.monitor"),
}


@pytest.mark.parametrize(
    ("module", "options"),
    [
        pytest.param("dagster_taskiq.cli", ["-b", "embedded://"], id="dagster-taskiq"),
        pytest.param(
            "dagster_celery.cli", ["-A", "dagster_celery.app", "-y", CONFIG], id="dagster-celery"
        ),
    ],
)
def test_the_first_process_of_a_worker_does_without_dagster(
    tmp_path: Path, module: str, options: list[str]
) -> None:
    config = tmp_path / CONFIG
    config.write_text("execution: {config: {broker: 'embedded://', backend: 'embedded://'}}\n")
    log = tmp_path / "worker.log"
    command = [sys.executable, "-c", PROGRAM, module, "worker", "start", *options]
    with log.open("wb") as output:
        worker = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, "DAGSTER_HOME": str(tmp_path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        )
    try:
        eventually(lambda: " is ready: " in log.read_text(), "The worker does not start.")
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
        modules = set(json.loads(worker.stdout.readline()))
    finally:
        worker.terminate()
        worker.communicate()
    assert {"taskiq", "dagster_taskiq.worker.service"} <= modules
    assert sorted(UNUSED & modules) == []
