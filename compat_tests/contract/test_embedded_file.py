"""The file of the embedded broker, which one process may have open more than once."""

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path

from compat_tests.checkout import ROOT
from dagster_taskiq.client import client_for
from dagster_taskiq.settings.settings import OnWorkerLost, Settings
from dagster_taskiq.wire.records import Task
from dagster_taskiq.wire.task_request import TaskRequest

#: What another process does with the file: it looks, and goes.
LOOK = """
import sys
from dagster_taskiq.client import client_for
from dagster_taskiq.settings import Settings
print(sum(row.waiting for row in client_for(Settings(broker=sys.argv[1])).depths()))
"""


def seen_by_another_process(url: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", LOOK, url], cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True
    )
    return int(done.stdout)


def test_what_a_process_that_opened_the_file_twice_writes_is_there_for_others(
    tmp_path: Path,
) -> None:
    """As a run does whose executor has other settings than the launcher of its instance."""
    settings = Settings(broker=f"sqlite:///{tmp_path / 'queue.db'}")
    client = client_for(settings)
    client_for(settings.replace(worker_lost=OnWorkerLost.RETRY))
    # The others come and go: whoever takes himself for the last one clears up behind him.
    assert seen_by_another_process(settings.broker) == 0
    client.submit(TaskRequest("t", "add", {}, "queue"))
    assert seen_by_another_process(settings.broker) == 1


def test_a_file_of_an_older_release_gets_what_it_lacks(tmp_path: Path) -> None:
    file = tmp_path / "queue.db"
    settings = Settings(broker=f"sqlite:///{file}")
    task = Task("t", name="own", worker="w1")
    client = client_for(settings)
    client._call(lambda: client.backend.start(task))
    client.close()
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        for column in ("attempt", "progress"):
            connection.execute(f"ALTER TABLE dagster_taskiq_tasks DROP COLUMN {column}")
    newer = client_for(settings.replace(result_ttl=1000.0))
    assert newer._call(lambda: newer.backend.put_back(task, None))
    assert newer.tasks(["t"])["t"].attempt == 1
