"""Programs that a project runs beside its workers: a web application, and taskiq's own command."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from compat_tests.checkout import ROOT
from compat_tests.sending import open_sender
from compat_tests.servers import free_port
from compat_tests.waiting import eventually
from compat_tests.workers import running_worker
from dagster_taskiq.settings.settings import Settings

BIN = Path(sys.executable).parent


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The standard settings, but for the file: programs are told the broker alone."""
    return Settings(broker=f"sqlite:///{tmp_path / 'queue.db'}")


@contextmanager
def program(
    settings: Settings, command: Sequence[str], directory: Path, log: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program of a project until the block ends."""
    environment = {**os.environ, "DAGSTER_TASKIQ_BROKER": settings.broker}
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=directory, env=environment, stdout=output, stderr=output
        )
    try:
        yield process
    except BaseException:
        print(log.read_text())  # what a failure is about
        raise
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)


def get(port: int, path: str, **query: object) -> Any:
    url = f"http://127.0.0.1:{port}/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=90) as answer:
        return json.load(answer)


def test_a_web_application_of_two_processes_sends_tasks_and_waits(
    settings: Settings, tmp_path: Path
) -> None:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "compat_tests.web_app:app", "--workers", "2"]
    command += ["--port", str(port)]
    log = tmp_path / "uvicorn.log"

    def answers() -> bool:
        try:
            return bool(get(port, "openapi.json"))
        except urllib.error.URLError:
            return False

    with (
        running_worker(settings, tmp_path, "-i", "compat_tests.web_app", "-c", "2"),
        program(settings, command, ROOT, log) as web,
    ):
        eventually(answers)
        assert [get(port, "add", a=each, b=1) for each in range(6)] == [1, 2, 3, 4, 5, 6]
        assert [get(port, "add-in-a-thread", a=each, b=1) for each in range(6)] == [
            *(1, 2, 3, 4, 5, 6)
        ]
        # The task has the request of FastAPI's that taskiq-fastapi makes for it.
        assert [get(port, "greet", name=each) for each in "ab"] == ["hello a", "hello b"]
        web.send_signal(signal.SIGTERM)
        web.wait(60)
        assert "Traceback" not in log.read_text()


TASKS = """
import json, time
from datetime import date
from pathlib import Path
from taskiq.abc.serializer import TaskiqSerializer
from dagster_taskiq.app import broker

def restored(value):
    return date.fromisoformat(value["date"]) if "date" in value else value

class WithDates(TaskiqSerializer):
    def dumpb(self, value):
        return json.dumps(value).encode()

    def loadb(self, value):
        return json.loads(value, object_hook=restored)

broker.with_serializer(WithDates())

@broker.task
def year(of):
    return of.year

@broker.task
def version():
    return 1

@broker.task
def hold(started, go):
    Path(started).touch()
    while not Path(go).exists():
        time.sleep(0.02)
    return "held"
"""


@pytest.mark.test_all("taskiq's own command in contract/test_worker.py")
def test_taskiqs_command_reloads_changed_code_and_loses_no_task(
    settings: Settings, tmp_path: Path
) -> None:
    project, log = tmp_path / "project", tmp_path / "taskiq.log"
    project.mkdir()
    module = project / "changing_tasks.py"
    module.write_text(TASKS)
    started, go = tmp_path / "started", tmp_path / "go"
    # As users type it: the directory of the project is in no import path.
    command = [str(BIN / "taskiq"), "worker", "--workers", "1", "--reload"]
    command += ["dagster_taskiq.app:broker", "changing_tasks"]
    with program(settings, command, project, log), open_sender(settings) as sender:
        assert sender.value(sender.send("changing_tasks:version")) == 1
        # The worker's parent reads the message as well, and leaves it to the child to restore it.
        assert sender.value(sender.send("changing_tasks:year", {"date": "2026-11-29"})) == 2026
        held = sender.send("changing_tasks:hold", str(started), str(go))
        eventually(started.exists)
        module.write_text(TASKS.replace("return 1", "return 2"))
        eventually(lambda: "Scheduled workers reload" in log.read_text())
        waiting = [sender.send("changing_tasks:version") for _ in range(10)]
        go.touch()
        assert sender.value(held) == "held"
        assert {sender.value(each) for each in waiting} <= {1, 2}
        eventually(lambda: sender.value(sender.send("changing_tasks:version")) == 2)
