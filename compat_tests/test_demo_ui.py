"""``dagster-taskiq demo --ui`` as its users meet it: one command, a browser, and Ctrl-C."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner
from dagster import DagsterInstance, DagsterRunStatus

from compat_tests.checkout import ROOT
from compat_tests.servers import own_redis
from compat_tests.waiting import eventually
from compat_tests.webserver import Webserver
from dagster_taskiq.cli.commands import cli
from dagster_taskiq.demo.home import WORKER_NAME
from dagster_taskiq.settings.env import BROKER_ENV
from dagster_taskiq.tags import TASK_ID_TAG

#: Four processes import Dagster at the same time, and there may be others on the machine.
pytestmark = pytest.mark.timeout(300)
PATIENCE = 150.0

PASSWORD = "s3cr3t-w0rd"


class RunningDemo:
    """One ``dagster-taskiq demo --ui``, its output, and its webserver."""

    def __init__(self, directory: Path, *arguments: str, path: str = str(ROOT)) -> None:
        #: Where temporary files go; not under the test's own, since sockets are made there, whose
        #: paths must not be long.
        self.place = Path(tempfile.mkdtemp(prefix="demo-ui-"))
        self.log = directory / "output"
        environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(self.place)}
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dagster_taskiq", "demo", "--ui", *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env=environment,
            )
        #: All processes that were ever seen under it.
        self.seen: set[psutil.Process] = set()

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def home(self) -> Path:
        (home,) = self.homes
        return home

    @property
    def homes(self) -> list[Path]:
        """The demo's directories; Dagster has temporary files of its own beside them."""
        return list(self.place.glob("dagster-taskiq-demo-*"))

    @property
    def url(self) -> str:
        return self.wait_for(r"Dagster is at (http://127\.0\.0\.1:\d+)")

    def wait_for(self, pattern: str) -> str:
        """Wait for something in the output; return its first group, or all of it."""

        def find() -> re.Match[str] | None:
            assert self.process.poll() is None or re.search(pattern, self.output), self.output
            return re.search(pattern, self.output)

        found = eventually(find, timeout=PATIENCE)
        assert found is not None
        return found[found.re.groups and 1]

    def family(self) -> set[psutil.Process]:
        """Return what runs under it now."""
        self.seen.update(psutil.Process(self.process.pid).children(recursive=True))
        return {each for each in self.seen if _is_there(each)}

    def find(self, *words: str) -> psutil.Process:
        """Return the process of its own with these words on its command line."""
        self.family()
        direct = psutil.Process(self.process.pid).children()
        (found,) = (each for each in direct if set(words) <= set(each.cmdline()))
        return found

    @property
    def webserver(self) -> Webserver:
        return Webserver(self.url)

    def launch(self, job: str, **more: Any) -> str:
        """Launch a run as the UI does, with no config; return its id."""
        return self.webserver.launch(job, "example", **more)

    def wait_for_status(self, run_id: str, status: str) -> Any:
        return self.webserver.wait_for_status(run_id, status, PATIENCE)

    def messages(self, run_id: str) -> Sequence[str]:
        return self.webserver.messages(run_id)

    def wait(self) -> int:
        return self.process.wait(PATIENCE)

    def nothing_is_left(self) -> bool:
        """Wait until every process that was seen has gone."""
        return eventually(lambda: not any(map(_is_there, self.seen)))


def _is_there(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@contextmanager
def running_demo(directory: Path, *arguments: str) -> Iterator[RunningDemo]:
    demo = RunningDemo(directory, *arguments)
    try:
        yield demo
    except BaseException:
        sys.stdout.write(demo.output)  # pytest shows it
        raise
    finally:
        with suppress(psutil.NoSuchProcess):
            demo.family()
        if demo.process.poll() is None:
            demo.process.kill()
            demo.process.wait(30)
        for each in filter(_is_there, demo.seen):
            with suppress(psutil.NoSuchProcess):
                each.kill()
        shutil.rmtree(demo.place, ignore_errors=True)


def test_runs_are_launched_onto_the_worker_and_ctrl_c_stops_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BROKER_ENV, "embedded://")
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with running_demo(tmp_path, "--keep", "--port", str(taken)) as demo:
            assert not demo.url.endswith(f":{taken}")
            assert f"Port {taken} is taken." in demo.output

            # The one that was launched for its user to see, with its killed process.
            first = demo.wait_for(rf"{demo.url}/runs/(\S+)")
            run = demo.wait_for_status(first, "SUCCESS")
            assert {"key": TASK_ID_TAG, "value": first} in run["tags"]
            steps = {each["stepKey"]: each["status"] for each in run["stepStats"]}
            assert (steps["weigh_parcel[drums]"], steps["drive"]) == ("SUCCESS", "SUCCESS")
            again = 'Started re-execution (attempt # 2) of step "weigh_parcel[drums]".'
            assert again in demo.messages(first)

            # What one clicks next: the other job, and "Materialize".
            tags = {"tags": [{"key": "dagster/partition", "value": "north"}]}
            assets = [{"path": [name]} for name in ("orders", "price")]
            checks = [{"assetKey": {"path": ["orders"]}, "name": "every_region_orders"}]
            chosen = {"assetSelection": assets, "assetCheckSelection": checks}
            launched = {
                demo.launch("shop_assets", executionMetadata=tags): {"shop", "revenue"},
                demo.launch("__ASSET_JOB", selector=chosen): {"shop"},
            }
            for run_id, wanted in launched.items():
                run = demo.wait_for_status(run_id, "SUCCESS")
                assert {"key": TASK_ID_TAG, "value": run_id} in run["tags"]
                for step in wanted:
                    said = f'Worker {WORKER_NAME} started step "{step}".'
                    assert said in demo.messages(run_id)

            # There is time to press "Terminate".
            long = demo.launch("count_stock")
            eventually(lambda: any("Counting for" in each for each in demo.messages(long)))
            demo.webserver.terminate(long)
            demo.wait_for_status(long, "CANCELED")
            assert any("Stopped after" in each for each in demo.messages(long))

            # Commands can be pasted.
            (command,) = re.findall(r"^  (DAGSTER_HOME=.* worker list .*)$", demo.output, re.M)
            shown = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
            assert WORKER_NAME in shown.stdout

            last = demo.launch("ship_parcels")
            demo.wait_for_status(last, "STARTED")
            assert len(demo.family()) >= 4
            demo.process.send_signal(signal.SIGINT)
            assert demo.wait() == 0, demo.output
            assert demo.nothing_is_left()
            assert f"Kept: {demo.home}" in demo.output
            assert "Traceback" not in demo.output
            # What runs may finish: Ctrl-C is not "Terminate".
            with DagsterInstance.from_config(str(demo.home)) as instance:
                drained = instance.get_run_by_id(last)
                assert not instance.nux_enabled  # nothing covers the page
            assert drained is not None
            assert drained.status is DagsterRunStatus.SUCCESS


@pytest.mark.test_all("the first test of the demo, and security/test_secrets.py")
def test_it_keeps_a_password_to_itself_and_ends_when_a_process_is_killed(tmp_path: Path) -> None:
    with own_redis("--requirepass", PASSWORD) as server:
        url = server.url.replace("://", f"://:{PASSWORD}@")
        with running_demo(tmp_path, "--broker", url) as demo:
            first = demo.wait_for(rf"{demo.url}/runs/(\S+)")
            demo.wait_for_status(first, "SUCCESS")
            words = [word for each in demo.family() for word in each.cmdline()]
            files = [path for path in demo.home.rglob("*") if path.is_file()]
            assert {"dagster.yaml", "worker.log"} <= {path.name for path in files}
            for text in (*words, demo.output, *map(_text_of, files)):
                assert PASSWORD not in text

            demo.wait_for_status(demo.launch("ship_parcels"), "STARTED")
            worker = demo.find("worker", "start")
            demo.family()
            worker.kill()
            assert demo.wait() == 1, demo.output
            # What they are depends: they may be the stack trace of a step that asks for a retry.
            said = "Error: The worker was ended by SIGKILL.\nThe last lines of its log:\n  "
            assert said in demo.output
            assert demo.nothing_is_left()
            assert demo.homes == []


def _text_of(path: Path) -> str:
    with suppress(FileNotFoundError):  # SQLite's journals come and go
        return path.read_bytes().decode(errors="replace")
    return ""


@pytest.mark.test_all("the first test of the demo, which ends it by one signal")
def test_a_second_signal_stops_what_does_not_end_by_itself(tmp_path: Path) -> None:
    with running_demo(tmp_path) as demo:
        demo.wait_for("Starting a worker")
        worker = eventually(lambda: demo.find("worker", "start"))
        worker.suspend()
        demo.process.send_signal(signal.SIGTERM)
        demo.wait_for("Stopping: worker")
        demo.family()
        demo.process.send_signal(signal.SIGINT)
        assert demo.wait() == 130, demo.output
        assert "The worker does not end; killing it." in demo.output
        assert demo.nothing_is_left()
        assert demo.homes == []


def test_without_a_webserver_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Without:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'dagster_webserver':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Without())\n"
    )
    demo = RunningDemo(tmp_path, path=f"{tmp_path}{os.pathsep}{ROOT}")
    assert demo.wait() == 2
    *_, line = demo.output.splitlines()
    assert "Traceback" not in demo.output
    assert line.startswith("Error: ")
    assert "pip install 'dagster-taskiq[ui]'" in line
    assert demo.homes == []


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--ui", "--broker", "memory://"), "has no workers"),
        (("--port", "3001"), "--ui"),
        (("--ui", "--port", "70000"), "70000"),
    ],
)
def test_wrong_options_are_refused(arguments: tuple[str, ...], problem: str) -> None:
    done = CliRunner().invoke(cli, ["demo", *arguments])
    assert done.exit_code == 2
    assert problem in done.output
