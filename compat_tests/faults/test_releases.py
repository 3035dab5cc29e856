"""Fleets that are restarted worker by worker, and fleets of two releases at once."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import serialize_value

from compat_tests.checkout import ROOT
from compat_tests.executor.runs import House, Outcome
from compat_tests.executor.scratch import Scratch
from compat_tests.faults import releases_jobs
from compat_tests.faults.conftest import Figure
from compat_tests.faults.releases_jobs import MIXED, ROW
from compat_tests.launcher.fleet import write_dagster_yaml
from compat_tests.waiting import PATIENCE_SECONDS, eventually
from compat_tests.workers import WorkerProcess, running_worker
from dagster_taskiq.client import client_for
from dagster_taskiq.runs.step_requests import StepRequests
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.registry import make_backend
from dagster_taskiq.transport.sql.tables import metadata
from dagster_taskiq.wire.notifications import run_channel, worker_channel
from dagster_taskiq.wire.task_request import TaskRequest

SUCCESS = DagsterRunStatus.SUCCESS
STARTING = DagsterEventType.STEP_WORKER_STARTING

#: The release before this one, as a commit of this repository: what a fleet that is being upgraded
#: still runs. At each release it is moved to the one that has been released before.
PREVIOUS = "25fb4efc9768e2f8d8b3caf5431c3b6e8ef911e0"

#: How many workers are replaced, and how many runs there are at any time meanwhile.
WORKERS, AT_ONCE = 2, 2
SHIFT = sorted([f"above_{each}" for each in range(ROW)] + [f"below_{each}" for each in range(ROW)])


def steps_of(outcome: Outcome, what: str) -> list[str]:
    """Return the steps of a run that noted this, as often as they did, by name."""
    return sorted(line.split()[0] for line in outcome.scratch.lines(f"{what}-{outcome.run_id}"))


def assert_each_once(outcome: Outcome, steps: list[str]) -> None:
    assert outcome.status is SUCCESS
    assert (steps_of(outcome, "began"), steps_of(outcome, "ended")) == (steps, steps)
    outcome.assert_sound()


# -- a rolling restart -------------------------------------------------------------------------


@pytest.fixture
def launching(settings: Settings, tmp_path: Path, dagster_home: Path) -> Iterator[House]:
    """A house whose runs are executed by workers too, and which has none yet."""
    # Nobody dies here; on a machine with more to do than it can, nobody is to be taken for dead.
    settings = settings.replace(lease=60.0)
    write_dagster_yaml(dagster_home, settings)
    with DagsterInstance.get() as instance:
        yield House(settings, instance)


@dataclass
class Load:
    """Runs that are launched, so many at a time, for as long as something is waited for."""

    house: House
    scratch: Scratch
    outcomes: list[Outcome] = field(default_factory=list)
    going: list[Outcome] = field(default_factory=list)

    def until(self, holds: Callable[[], Any], what: str) -> None:
        """Keep runs going until something holds."""

        def look() -> Any:
            self._top_up()
            return holds()

        eventually(look, what, 2 * PATIENCE_SECONDS)

    @property
    def ended(self) -> int:
        """How many had ended at the last look."""
        return len(self.outcomes) - len(self.going)

    def _top_up(self) -> None:
        self.going = [each for each in self.going if not each.run.is_finished]
        while len(self.going) < AT_ONCE:
            outcome = self.house.create(releases_jobs.shift, self.scratch)
            self.house.instance.launch_run(outcome.run_id, None)
            self.outcomes.append(outcome)
            self.going.append(outcome)


@pytest.mark.timeout(400)
def test_workers_that_are_replaced_under_load_lose_fail_and_repeat_nothing(
    launching: House, scratch: Scratch, tmp_path: Path, figure: Figure
) -> None:
    load = Load(launching, scratch)
    client = client_for(launching.settings)

    def is_up(worker: WorkerProcess) -> bool:
        assert worker.process.poll() is None, worker.output()
        return any(each.name == worker.name for each in client.workers())

    def is_busy(worker: WorkerProcess) -> bool:
        return any(each.name == worker.name and each.running for each in client.workers())

    with ExitStack() as stack:

        def start(name: str) -> WorkerProcess:
            worker = WorkerProcess(launching.settings, tmp_path, name, "-c", "2")
            stack.callback(worker.end)
            return worker

        first = [start(f"old-{number}") for number in range(WORKERS)]
        load.until(lambda: all(map(is_up, first)), "the first workers are there")
        began, before = time.monotonic(), load.ended
        for number, worker in enumerate(first):
            load.until(lambda worker=worker: is_busy(worker), "it works")
            worker.signal(signal.SIGTERM)
            successor = start(f"new-{number}")
            load.until(lambda worker=worker: worker.process.poll() == 0, "it has ended")
            load.until(lambda successor=successor: is_busy(successor), "the next one works")
        seconds, through = time.monotonic() - began, load.ended - before
        for outcome in load.outcomes:
            eventually(lambda outcome=outcome: outcome.run.is_finished, "all runs end")
        names = {each.name for each in client.workers()}
    figure("runs that ended while the workers were replaced", f"{through} in {seconds:.0f} s")
    assert names == {f"new-{number}" for number in range(WORKERS)}
    for outcome in load.outcomes:
        assert_each_once(outcome, SHIFT)
    assert launching.waiting() == 0


# -- two releases ------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the engine and the facade of the previous release."""
    if not (ROOT / ".git").exists():
        pytest.skip("the previous release is in the repository's history: test a git clone of it")
    if _git("rev-parse", "--is-shallow-repository").strip() == b"true":
        there = subprocess.run(
            ["git", "cat-file", "-e", PREVIOUS], cwd=ROOT, check=False, capture_output=True
        )
        if there.returncode:
            pytest.skip("the previous release is not in this shallow clone: git fetch --unshallow")
    directory = tmp_path_factory.mktemp("previous")
    archive = _git("archive", PREVIOUS, "dagster_taskiq", "dagster_celery")
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        packed.extractall(directory, filter="data")
    return directory


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout


#: Runs ``dagster`` of the previous release, and prints the file of the loop that it uses.
LOOP = (
    "import dagster_taskiq.runs.run_loop as loop; print('loop of', loop.__file__, flush=True); "
    "from dagster._cli import main; main()"
)


@contextmanager
def older_loop(house: House, outcome: Outcome, code: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Execute a run as ``dagster api`` does, with the engine in the directory ``code``."""
    origin = outcome.run.job_code_origin
    assert origin is not None
    args = serialize_value(ExecuteRunArgs(origin, outcome.run_id, house.instance.get_ref()))
    log = outcome.scratch.directory / "older-loop.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", LOOP, "api", "execute_run", args],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=code,
            env={**os.environ, "PYTHONPATH": f"{code}{os.pathsep}{ROOT}"},
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE_SECONDS)
    assert f"loop of {code}" in log.read_text()


def engines_of(outcome: Outcome) -> Counter[Path]:
    """Return the directories of the engines that ran the run's steps, with how many each ran."""
    rows = [line.split() for line in outcome.scratch.lines(f"began-{outcome.run_id}")]
    return Counter(Path(file).parent.parent for _, _, file in rows)


def let_go_when_both_work(outcome: Outcome) -> None:
    if len(engines_of(outcome)) == 2 and not outcome.scratch.count("go"):
        outcome.scratch.note("go")


@pytest.mark.parametrize("broker_kind", ["embedded", "redis", "rabbitmq"], indirect=True)
def test_a_worker_and_a_run_loop_of_the_previous_release_work_with_these(
    own: House, previous: Path, dagster_home: Path, tmp_path: Path
) -> None:
    first, second = (Scratch(tmp_path / name) for name in ("first", "second"))
    for each in (first, second):
        each.directory.mkdir()
    steps = [f"step_{number}" for number in range(MIXED)]
    ours = own.create(releases_jobs.mixed, first)
    theirs = own.create(releases_jobs.mixed, second)

    def worker(name: str, code: Path) -> Any:
        return running_worker(own.settings, tmp_path, "-c", "2", name=name, code=code)

    # The first to open the broker is of the previous release: what it makes there, this one finds.
    with older_loop(own, theirs, previous) as process:
        eventually(lambda: len(theirs.steps(STARTING)) == MIXED, "it has sent its steps")
        with worker("this", ROOT), worker("previous", previous):
            eventually(lambda: len(engines_of(theirs)) == 2, "each has begun some of its steps")
            second.note("go")
            assert process.wait(2 * PATIENCE_SECONDS) == 0
            own.execute(ours, releases_jobs.mixed, meanwhile=lambda: let_go_when_both_work(ours))
    for outcome in (theirs, ours):
        assert_each_once(outcome, steps)
        assert engines_of(outcome).keys() == {previous, ROOT}
    assert own.waiting() == 0


# -- what the next release may add -------------------------------------------------------------


def test_what_a_newer_release_sends_beside_is_left_aside(
    fleet: House, scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = StepRequests.make

    def make_newer(*args: Any) -> TaskRequest:
        request = make(*args)
        return replace(
            request,
            kwargs={**request.kwargs, "newer_hint": {"some": "thing"}},
            labels={**request.labels, "newer_label": "some"},
        )

    monkeypatch.setattr(StepRequests, "make", make_newer)
    outcome = fleet.create(releases_jobs.mixed, scratch)
    (worker,) = (each for each in client_for(fleet.settings).workers() if not each.is_lost)

    async def send_what_nobody_knows() -> None:
        backend = make_backend(fleet.settings)
        backend.home.use_running_loop()
        await backend.startup()
        await backend.post(run_channel(outcome.run_id), {"newer": "notification"})
        await backend.post(worker_channel(worker.id), {"command": "newer"})
        await backend.shutdown()

    def post_then_let_go() -> None:
        if outcome.scratch.total("began-") and not scratch.count("go"):
            asyncio.run(send_what_nobody_knows())
            scratch.note("go")

    fleet.execute(outcome, releases_jobs.mixed, meanwhile=post_then_let_go)
    assert_each_once(outcome, [f"step_{number}" for number in range(MIXED)])


def test_columns_that_the_previous_release_does_not_know_may_be_left_out_by_it(
    previous: Path,
) -> None:
    shown = "from dagster_taskiq.transport.sql.tables import metadata as m; import json; "
    shown += "print(json.dumps({t.name: [c.name for c in t.columns] for t in m.sorted_tables}))"
    answer = subprocess.run(
        [sys.executable, "-c", shown], cwd=previous, check=True, stdout=subprocess.PIPE
    )
    for name, known in json.loads(answer.stdout).items():
        for column in metadata.tables[name].columns:
            may_be_left_out = column.nullable or column.server_default is not None
            assert column.name in known or may_be_left_out, f"{name}.{column.name}"
