"""The embedded broker when its file is locked or its disk is full, and a ``DAGSTER_HOME`` at birth.

A disk is filled for a process by the limit on the size of files that the kernel keeps for each
process: it may be set and lifted from outside, and needs no rights. SQLite appends what is written
to a log beside its file, which is made longer than that first; what else the process writes is
shorter.
"""

import json
import multiprocessing
import resource
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
import yaml
from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus
from dagster._core.instance import InstanceRef
from dagster._serdes import serialize_value

from compat_tests.executor.outages import QUICK
from compat_tests.executor.runs import House
from compat_tests.executor.scratch import SCRATCH_TAG, Scratch
from compat_tests.faults import message_jobs, server_jobs
from compat_tests.faults.conftest import Figure
from compat_tests.preloaded import start_program
from compat_tests.waiting import eventually
from compat_tests.workers import WorkerProcess, executor_config, running_worker
from dagster_taskiq.client import client_for
from dagster_taskiq.execution import instances
from dagster_taskiq.runs import servers
from dagster_taskiq.settings.settings import Settings

SUCCESS, FAILURE = DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE


@pytest.fixture
def house(tmp_path: Path, instance: DagsterInstance) -> House:
    """A house on the embedded broker whose lease is longer than what is done to its file."""
    url = f"sqlite:///{tmp_path / 'queue.db'}"
    return House(Settings(broker=url, heartbeat_interval=0.5, lease=120.0), instance)


def file_of(house: House) -> str:
    return house.settings.broker.removeprefix("sqlite:///").partition("?")[0]


@contextmanager
def locked(house: House) -> Iterator[None]:
    """Have somebody else hold the lock for writing on the broker's file."""
    holder = sqlite3.connect(
        file_of(house), timeout=60, isolation_level=None, check_same_thread=False
    )
    with closing(holder):
        holder.execute("BEGIN EXCLUSIVE")
        yield
        holder.execute("ROLLBACK")


def assert_each_once(scratch: Scratch) -> None:
    assert (scratch.count("held-began"), scratch.count("held-ended")) == (2, 2)
    assert sorted(scratch.lines("quick")) == QUICK
    assert sorted(scratch.lines("after")) == server_jobs.AFTER


# -- locked ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("gives_up", [False, True], ids=["waits", "gives up"])
def test_a_file_that_another_program_keeps_locked_delays_a_run(
    house: House, tmp_path: Path, scratch: Scratch, figure: Figure, gives_up: bool
) -> None:
    """For less than a statement waits for its lock, which is 30 s, and for longer than that."""
    if gives_up:
        house = house.changed(broker=f"{house.settings.broker}?timeout=0.5")
    outcome = house.create(server_jobs.two_generations, scratch)
    deeds: list[str] = []
    with running_worker(house.settings, tmp_path, "-c", "2") as worker:

        def lock() -> None:
            if deeds or scratch.count("held-began") < 2:
                return
            deeds.append("locked")
            since = time.monotonic()
            with locked(house):
                # What runs comes to its end meanwhile, and cannot tell; six more want to begin.
                scratch.note("go")
                scratch.wait_for("held-ended", 2)
                if gives_up:
                    eventually(lambda: outcome.says("does not answer"), "the run says it")
                    eventually(
                        lambda: "Cannot send a heartbeat" in worker.output(), "so does the worker"
                    )
                else:
                    time.sleep(5)
            figure("locked for", f"{time.monotonic() - since:.1f} s")

        house.execute(outcome, server_jobs.two_generations, meanwhile=lock)
        output = worker.output()
    assert deeds == ["locked"]
    assert outcome.status is SUCCESS
    assert_each_once(scratch)
    assert "Traceback" not in output
    if gives_up:
        assert outcome.says("database is locked", "no other program keeps it locked")
        assert outcome.says("answer again")
        # Nothing of what was to be written is shown with that.
        assert not outcome.says("INSERT")
        assert "INSERT" not in output
    else:
        assert not outcome.says("does not answer")


def test_a_file_that_stays_locked_fails_the_run_and_nothing_of_it_runs_later(
    house: House, tmp_path: Path, scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "OUTAGE_SECONDS", 1.0)
    house = house.changed(broker=f"{house.settings.broker}?timeout=0.2")
    outcome = house.create(server_jobs.two_generations, scratch)
    with running_worker(house.settings, tmp_path, "-c", "2"), ExitStack() as lock:

        def lock_for_good() -> None:
            if scratch.count("held-began") == 2 and not scratch.count("locked"):
                scratch.note("locked")
                lock.enter_context(locked(house))
                scratch.note("go")  # what runs comes to its end, and more would have to be sent

        house.execute(outcome, server_jobs.two_generations, meanwhile=lock_for_good)
        assert outcome.status is FAILURE
        assert "database is locked" in outcome.run_failure()
        lock.close()
        client = client_for(house.settings)
        eventually(lambda: client.depths() == [], "what waited has been dropped")
        eventually(lambda: not any(each.running for each in client.workers()))
    assert scratch.count("quick") == scratch.count("after") == 0


def test_a_worker_that_finds_its_file_locked_waits_for_it_and_says_so(
    house: House, tmp_path: Path, scratch: Scratch
) -> None:
    house = house.changed(broker=f"{house.settings.broker}?timeout=0.2", connect_timeout=1.0)
    with ExitStack() as stack:
        with closing(sqlite3.connect(file_of(house), isolation_level=None)) as holder:
            holder.execute("BEGIN EXCLUSIVE")
            worker = WorkerProcess(house.settings, tmp_path, "early", "-c", "1")
            stack.callback(worker.end)
            eventually(lambda: "Cannot reach the broker" in worker.output(), "it says so")
        assert house.run(message_jobs.six, scratch).status is SUCCESS
        assert "database is locked" in worker.output()
        assert "Traceback" not in worker.output()


# -- full ------------------------------------------------------------------------------------------


def fill(house: House) -> None:
    """Make the log beside the broker's file longer than anything else that a test writes."""
    rows = [("others", "q", 0, str(number), 0.0, bytes(50_000)) for number in range(50)]
    with closing(sqlite3.connect(file_of(house))) as connection, connection:
        connection.executemany(
            "INSERT INTO dagster_taskiq_messages"
            " (prefix, queue, priority, task_id, created_at, body) VALUES (?, ?, ?, ?, ?, ?)",
            rows,
        )


@contextmanager
def full_for(house: House, *pids: int) -> Iterator[None]:
    """Let processes write no more to the broker's file, as if its disk were full."""
    room = Path(f"{file_of(house)}-wal").stat().st_size
    before = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in pids}
    for pid, (_, hard) in before.items():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        for pid, limits in before.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits other processes")
def test_a_disk_that_is_full_for_a_while_delays_a_run(
    house: House, tmp_path: Path, scratch: Scratch
) -> None:
    with (
        running_worker(house.settings, tmp_path, "-c", "2") as worker,
        house.started(server_jobs.two_generations, scratch) as process,
    ):
        outcome = process.outcome
        fill(house)
        scratch.wait_for("held-began", 2)
        with full_for(house, worker.pid, process.process.pid):
            # What runs comes to its end meanwhile, and cannot tell; six more want to begin.
            scratch.note("go")
            scratch.wait_for("held-ended", 2)
            eventually(lambda: "Cannot store the end of task" in worker.output(), "it says so")
            eventually(lambda: outcome.says("disk I/O error", "room on its disk"), "so the run")
        process.wait()
        output = worker.output()
    assert outcome.status is SUCCESS
    assert_each_once(scratch)
    outcome.assert_sound()
    assert "Traceback" not in output


# -- a DAGSTER_HOME at birth -----------------------------------------------------------------------


def _open_together(homes: list[str], start: Barrier, failures: "Queue[str]") -> None:
    for home in homes:
        start.wait(60)
        try:
            instance = instances.instance_from(serialize_value(InstanceRef.from_dir(home)))
            instance.get_runs(limit=1)
            instance.fetch_run_status_changes(DagsterEventType.RUN_START, limit=1)
        except Exception as error:
            failures.put(f"{home}: {error!r}")


def test_processes_that_open_a_new_instance_at_the_same_moment_all_come_in(tmp_path: Path) -> None:
    """As the children of several workers may, with their first steps."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    homes = [str(tmp_path / f"home{number}") for number in range(2)]
    for home in homes:
        Path(home).mkdir()
    start, failures = context.Barrier(3), context.Queue()
    openers = [
        context.Process(target=_open_together, args=(homes, start, failures)) for _ in range(3)
    ]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join(150)
    assert [opener.exitcode for opener in openers] == [0, 0, 0]
    assert failures.empty(), failures.get()
    # And what they have made together is whole.
    revisions = set()
    for home in homes:
        with DagsterInstance.from_config(home) as instance:
            revisions.add(str(instance.run_storage.alembic_version()))
            revisions.add(str(instance.event_log_storage.alembic_version()))
    assert len(revisions) == 1, revisions


def test_workers_and_a_run_that_start_together_on_a_new_home_meet_in_peace(
    new_dagster_home: Path, tmp_path: Path, scratch: Scratch
) -> None:
    """Neither Dagster's tables are there nor ours. A worker leaves Dagster's to the run."""
    settings = Settings(heartbeat_interval=0.5, lease=30.0)
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump({"execution": {"config": executor_config(settings)}}))
    command = ["job", "execute", "-a", "six", "-c", str(config)]
    command += ["-m", "compat_tests.faults.message_jobs"]
    command += ["--tags", json.dumps({SCRATCH_TAG: str(scratch.directory)})]
    with ExitStack() as stack:
        for name in ("one", "two"):
            worker = WorkerProcess(settings, tmp_path, name, "-c", "2")
            stack.callback(worker.end)
        log = tmp_path / "run.log"
        run = start_program("dagster", command, log)
        stack.callback(run.kill)
        assert run.wait(150) == 0, log.read_text()
    assert sorted(scratch.lines("quick")) == QUICK


def test_a_worker_without_work_leaves_a_new_home_to_others(
    new_dagster_home: Path, tmp_path: Path
) -> None:
    before = set(new_dagster_home.iterdir())
    with running_worker(Settings(heartbeat_interval=0.5), tmp_path, "-c", "1"):
        pass
    assert {each.name for each in set(new_dagster_home.iterdir()) - before} == {"dagster_taskiq"}
