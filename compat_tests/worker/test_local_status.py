"""What a worker says of itself to commands on its own host, which ask no broker for it."""

import asyncio
import json
import logging
import os
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import pytest

from compat_tests.checkout import ROOT
from compat_tests.conftest import StartWorker
from compat_tests.preloaded import run_program
from compat_tests.sending import USER_TASKS, open_sender
from compat_tests.waiting import eventually
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.worker.local_status import client
from dagster_taskiq.worker.local_status.client import ask_local_workers
from dagster_taskiq.worker.local_status.server import LocalStatusServer
from dagster_taskiq.worker.local_status.sockets import LocalStatus, StartedWith, directory

WORDS = StartedWith("shop.app", "celery.yaml")
STATUS = LocalStatus("w1", "pod-1", 7, "busy")

#: Runs a command in a process that shows what it has imported in the end that takes long.
SHOW_IMPORTS = """
import sys
from {module} import main
try:
    main()
finally:
    heavy = {{"aiohttp", "dagster", "pydantic", "sqlalchemy", "taskiq"}}
    print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""


@pytest.fixture(autouse=True)
def temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@contextmanager
def listening(words: StartedWith = WORDS) -> Iterator[Callable[[Callable[[], object]], None]]:
    """Serve in a loop of another thread; yield what calls a function in that loop."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = LocalStatusServer(words, lambda: STATUS)

    def done(work: "Future[None]") -> None:
        work.result(30)

    done(asyncio.run_coroutine_threadsafe(server.start(), loop))
    try:
        yield loop.call_soon_threadsafe
    finally:
        done(asyncio.run_coroutine_threadsafe(server.close(), loop))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_a_worker_is_found_by_the_options_it_was_started_with() -> None:
    with listening():
        assert [each.status for each in ask_local_workers(WORDS)] == [STATUS]
        here = StartedWith("shop.app", str(Path("celery.yaml").absolute()))
        assert [each.status for each in ask_local_workers(here)] == [STATUS]
        assert [each.status for each in ask_local_workers()] == [STATUS]
        assert ask_local_workers(StartedWith("other.app", "celery.yaml")) == []
        assert stat.S_IMODE(directory().stat().st_mode) == 0o700
    assert ask_local_workers(WORDS) == []
    assert not directory().exists()


def test_a_socket_shows_nothing_of_a_url_with_a_password() -> None:
    words = StartedWith(broker="redis://:secret@host")
    with listening(words):
        (path,) = directory().iterdir()
        assert "secret" not in path.name
    assert "secret" not in repr(words)


def test_a_worker_whose_loop_is_blocked_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.5)
    free = threading.Event()
    with listening() as call:
        call(free.wait)
        assert [(each.pid, each.status) for each in ask_local_workers()] == [(os.getpid(), None)]
        free.set()
        monkeypatch.setattr(client, "ANSWER_SECONDS", 30.0)
        assert [each.status for each in ask_local_workers()] == [STATUS]


#: Leaves the socket of a worker behind, as one does that is killed.
BE_KILLED = """
import asyncio, os
from dagster_taskiq.worker.local_status.server import LocalStatusServer
from dagster_taskiq.worker.local_status.sockets import StartedWith

asyncio.run(LocalStatusServer(StartedWith(), lambda: None).start())
os.kill(os.getpid(), 9)
"""


def test_the_socket_of_a_killed_worker_is_removed_by_the_next_command() -> None:
    subprocess.run([sys.executable, "-c", BE_KILLED], cwd=ROOT, check=False)
    (stale,) = directory().iterdir()

    assert ask_local_workers() == []

    assert not stale.exists()


def test_the_socket_of_a_killed_worker_is_removed_by_the_next_worker() -> None:
    subprocess.run([sys.executable, "-c", BE_KILLED], cwd=ROOT, check=False)
    (stale,) = directory().iterdir()

    with listening():
        assert not stale.exists()
        assert [each.status for each in ask_local_workers()] == [STATUS]


def test_a_temporary_directory_may_have_a_long_path(
    temporary_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = temporary_directory / ("d" * 120)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with listening():
        assert [each.status for each in ask_local_workers(WORDS)] == [STATUS]


def test_where_nothing_can_be_written_the_socket_is_in_shared_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_directory() -> str:
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(tempfile, "gettempdir", no_directory)
    assert directory() == Path("/dev/shm") / f"dagster-taskiq-{os.getuid()}"


def test_a_directory_that_others_can_enter_is_not_trusted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    directory().mkdir(mode=0o755)
    with caplog.at_level(logging.WARNING), listening():
        assert ask_local_workers() == []
    (warning,) = caplog.messages
    assert "is not a directory of this user's alone" in warning


def test_a_probe_asks_no_broker_and_imports_nothing_that_takes_long() -> None:
    config = "celery.yaml"
    probes = {
        "dagster_celery._cli.main": ("status", "-A", "shop.app", "-y", config),
        "dagster_taskiq.cli": ("status", "--local", "-A", "shop.app", "-y", config),
    }
    (Path(tempfile.gettempdir()) / config).write_text("execution: {config: {broker: 'no://'}}")
    words = StartedWith("shop.app", str(Path(tempfile.gettempdir()) / config))
    with listening(words):
        for module, arguments in probes.items():
            done = subprocess.run(
                [sys.executable, "-c", SHOW_IMPORTS.format(module=module), *arguments],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                cwd=tempfile.gettempdir(),
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            assert STATUS.name in done.stdout
            assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize("broker_kind", ["embedded"], indirect=True)
def test_status_says_what_the_workers_on_this_host_do(
    start_worker: StartWorker, settings: Settings, tmp_path: Path
) -> None:
    def local(*arguments: str) -> tuple[int, list[str]]:
        done = run_program("dagster_taskiq", ["status", "--local", "--json", *arguments])
        return done.returncode, [each["state"] for each in json.loads(done.stdout)]

    assert local() == (1, [])
    worker = start_worker("-i", USER_TASKS, "-c", "1")
    assert local() == (0, ["idle"])
    assert local("--worker", "w1") == (0, ["idle"])
    assert local("--worker", "another")[0] == 1
    with open_sender(settings) as sender:
        sender.send("hold", str(tmp_path / "started"), str(tmp_path / "go"))
        eventually((tmp_path / "started").exists)
        assert local() == (0, ["busy"])
        worker.process.terminate()
        # A worker that drains lives.
        eventually(lambda: local() == (0, ["draining"]))
        (tmp_path / "go").touch()
        assert worker.wait() == 0
    assert local() == (1, [])
