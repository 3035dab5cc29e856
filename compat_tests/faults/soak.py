"""A soak: random jobs, cancels, kills, freezes and cuts, and the books of it all at the end.

    python -m compat_tests.faults.soak --broker redis --minutes 30 --seed 1

What is random comes from the seed; what the machine makes of it does not. There are two workers of
two slots each, runs launched onto them, and Dagster's run monitoring, which resumes what died.
Whatever happens, every run must end, one that nobody terminated with success; and no step may be
worked on by two at once, or more often than the log has reasons for, or begin after its run's end.
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import redis
from dagster import DagsterEventType, DagsterRunStatus

from compat_tests.brokers import BROKERS, SQS, SQS_REDIS
from compat_tests.checkout import ROOT
from compat_tests.executor.runs import Outcome
from compat_tests.executor.scratch import Scratch
from compat_tests.faults.soak_jobs import SOAK_JOBS
from compat_tests.launcher.fleet import Fleet, open_fleet, running_code_server
from compat_tests.our_tables import our_tables
from compat_tests.proxy import Proxy, proxy_to
from compat_tests.servers import own_postgres, own_rabbit, own_redis
from compat_tests.sqs_door import SqsDoor, sqs_door
from compat_tests.sqs_servers import REGION, messages_on_sqs, own_sqs
from compat_tests.waiting import eventually
from compat_tests.workers import WorkerProcess, freeze
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.registry import make_backend

#: How many runs are under way at once, and slots to run their steps.
RUNS_AT_ONCE = 4
SLOTS = 2
#: Seconds after which the fleet forgets a task that has ended: what is left on the server at the
#: end of a soak is then what does not go away.
RESULT_TTL = 5.0
#: How long a worker may be silent, in seconds. On RabbitMQ it is the connection's lease as well.
LEASE = {kind: 8.0 if kind == "rabbitmq" else 4.0 for kind in BROKERS}
#: Seconds between two deeds, at least and at most.
PAUSE = (0.2, 1.5)
#: Seconds that all runs together may take to end once nobody harms them any more.
PATIENCE = 240.0
#: How many of the last events of a run are shown that ended as it should not.
TOLD_EVENTS = 40
#: How much is shown of the log of a worker that nobody has ended.
TOLD_LETTERS = 2000
#: How a run says that its process died before it began: of itself, with its worker, by the clock.
STILLBORN = ("was killed", "lease of its worker", "lost its lease", "is lost", "to start")
#: What is done, and how often in proportion.
DEEDS = {
    "kill a child": 6,
    "kill a fork server": 2,
    "terminate a run": 6,
    "kill a worker": 2,
    "freeze a worker": 2,
    "replace a worker": 3,
    "cut all connections": 4,
}


@dataclass
class Server:
    """The server of one soak, which nothing else uses."""

    url: str
    #: The doors before it, and before that of the backend if it is another one; none where there is
    #: no connection to cut.
    doors: Sequence[Proxy | SqsDoor]
    #: Counts everything that is kept there, by name.
    kept: Callable[[], dict[str, int]]
    #: More settings that lead to it.
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Books:
    """What came of a soak."""

    seconds: float = 0.0
    runs: Counter[str] = field(default_factory=Counter)
    deeds: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    #: Each thing that must not be, in a sentence.
    wrongs: list[str] = field(default_factory=list)
    #: Resident MB of the worker that lives longest, and the mean of its children, by the second.
    memory: list[tuple[float, float, float]] = field(default_factory=list)
    #: What was kept on the server before the first run, and what after the last.
    kept: tuple[dict[str, int], dict[str, int]] = field(default_factory=lambda: ({}, {}))

    def report(self) -> str:
        """Return all of it, for people."""
        lines = [f"{sum(self.runs.values())} runs, {self.steps} steps, {self.seconds:.0f} s"]
        lines += [f"  {count} x {name}" for name, count in sorted(self.runs.items())]
        lines += [f"  {count} x {name}" for name, count in sorted(self.deeds.items())]
        lines.append(f"memory: {self.growth()}")
        lines.append(f"on the server: {self.kept[0]} before, {self.kept[1]} after")
        lines += [f"WRONG: {each}" for each in self.wrongs] or ["nothing lost, nothing doubled"]
        return "\n".join(lines)

    def growth(self) -> str:
        """Return what became of memory between the first third of the soak and the last."""
        third = len(self.memory) // 3
        if not third:
            return "too short to say"
        first, last = self.memory[:third], self.memory[-third:]
        parent, child = (
            [statistics.median(each[column] for each in part) for part in (first, last)]
            for column in (1, 2)
        )
        return (
            f"parent {parent[0]:.0f} MB, then {parent[1]:.0f} MB; "
            f"child {child[0]:.0f} MB, then {child[1]:.0f} MB"
        )


class Soak:
    """One soak: what is under way, and what is done to it."""

    def __init__(self, fleet: Fleet, server: Server, directory: Path, seed: int) -> None:
        self.books = Books()
        self._fleet = fleet
        self._server = server
        self._directory = directory
        self._chance = random.Random(seed)
        self._outcomes: list[Outcome] = []
        self._terminated: set[str] = set()
        self._workers: list[WorkerProcess] = []
        self._leaving: list[WorkerProcess] = []
        self._frozen: dict[int, float] = {}
        #: The names of the workers that were ready when they were last looked at.
        self._ready: set[str] = set()
        self._count = 0

    def run(self, seconds: float) -> Books:
        """Do harm for so long, let everything end, and return the books."""
        try:
            for worker in [self._hire(), self._hire()]:
                worker.wait_until_ready()
            before = self._kept_after_one_run()
            began = time.monotonic()
            pause = 0.0
            while (now := time.monotonic() - began) < seconds:
                self._keep_launching()
                self._look_after(now)
                if now > pause:
                    self._do_harm()
                    pause = now + self._chance.uniform(*PAUSE)
                time.sleep(0.1)
            self._thaw(float("inf"))
            self._let_all_end()
            self.books.seconds = time.monotonic() - began
            for outcome in self._outcomes:
                self._audit(outcome)
            self._audit_server(before)
        finally:
            for worker in (*self._workers, *self._leaving):
                worker.end()
        return self.books

    # What is under way.

    def _hire(self) -> WorkerProcess:
        self._count += 1
        name = f"soak-{self._count}"
        options = ("-c", str(SLOTS), "--kill-grace", "2")
        worker = WorkerProcess(self._fleet.settings, self._directory, name, *options)
        self._workers.append(worker)
        return worker

    def _kept_after_one_run(self) -> dict[str, int]:
        """Run one job in peace; return what is on the server once it has gone from there."""
        self._launch(SOAK_JOBS[0].name)
        self._let_all_end()
        eventually(lambda: not self._kept().get("task"), "its tasks are forgotten")
        return self._kept()

    def _kept(self) -> dict[str, int]:
        """Return what is on the server once it has been cleared of what has expired."""
        asyncio.run(sweep(self._fleet.settings))
        return self._server.kept()

    def _living(self) -> list[Outcome]:
        return [each for each in self._outcomes if not each.run.is_finished]

    def _keep_launching(self) -> None:
        for _ in range(RUNS_AT_ONCE - len(self._living())):
            self._launch(self._chance.choice(SOAK_JOBS).name)

    def _launch(self, job: str) -> None:
        notes = self._directory / f"notes-{len(self._outcomes)}"
        notes.mkdir()
        config = {"execution": {"config": {"result_ttl": RESULT_TTL}}}
        self._outcomes.append(self._fleet.launch(job, Scratch(notes), config=config))

    def _look_after(self, now: float) -> None:
        self._thaw(now)
        for error in self._fleet.monitor():
            self.books.wrongs.append(f"run monitoring met an error: {error}")
        for worker in [each for each in self._workers if each.process.poll() is not None]:
            self._workers.remove(worker)
            self.books.wrongs.append(f"{worker.name} ended:\n{worker.output()[-TOLD_LETTERS:]}")
            self._hire()
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self._workers[0].pid)
            children = [each.memory_info().rss / 1e6 for each in self._children(self._workers[0])]
            if children:
                mean = statistics.mean(children)
                self.books.memory.append((now, parent.memory_info().rss / 1e6, mean))

    def _children(self, worker: WorkerProcess) -> list[psutil.Process]:
        """Return the processes that run tasks: what the fork server of a worker has started."""
        return [child for server in self._fork_servers(worker) for child in server.children()]

    def _fork_servers(self, worker: WorkerProcess) -> list[psutil.Process]:
        """Return the fork server of a worker, which has a guard above it; none before it is ready.

        A worker that cannot start its children ends, and whoever has started it starts another.
        """
        if worker.name not in self._ready:
            if "is ready" not in worker.output():
                return []
            self._ready.add(worker.name)
        guards = psutil.Process(worker.pid).children()
        return [server for guard in guards for server in guard.children()]

    def _let_all_end(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while (living := self._living()) and time.monotonic() < deadline:
            self._look_after(time.monotonic())
            time.sleep(0.2)
        for outcome in living:
            told = "\n    ".join(outcome.engine_says[-5:])
            self.books.wrongs.append(f"run {outcome.run_id} hangs: {outcome.status}\n    {told}")

    # What is done to it.

    def _do_harm(self) -> None:
        deeds = [each for each in DEEDS if self._server.doors or "connections" not in each]
        deed = self._chance.choices(deeds, [DEEDS[each] for each in deeds])[0]
        done = {
            "kill a child": self._kill_child,
            "kill a fork server": self._kill_fork_server,
            "terminate a run": self._terminate,
            "kill a worker": self._kill_worker,
            "freeze a worker": self._freeze_worker,
            "replace a worker": self._replace_worker,
            "cut all connections": self._cut,
        }[deed]()
        if done:
            self.books.deeds[deed] += 1

    def _kill_child(self) -> bool:
        return self._kill_one(self._children)

    def _kill_fork_server(self) -> bool:
        return self._kill_one(self._fork_servers)

    def _kill_one(self, of: Callable[[WorkerProcess], list[psutil.Process]]) -> bool:
        try:
            found = [each for worker in self._workers for each in of(worker)]
            if found:
                self._chance.choice(found).kill()
        except psutil.NoSuchProcess:  # in this moment
            return False
        return bool(found)

    def _terminate(self) -> bool:
        living = [each for each in self._living() if each.run_id not in self._terminated]
        if not living:
            return False
        outcome = self._chance.choice(living)
        # It may end by itself in this moment; what was asked for is noted before.
        self._terminated.add(outcome.run_id)
        self._fleet.terminate(outcome)
        return True

    def _victim(self) -> WorkerProcess | None:
        """Return a worker that harm may come to: not the first, whose memory is watched."""
        able = [each for each in self._workers[1:] if each.pid not in self._frozen]
        return self._chance.choice(able) if able else None

    def _kill_worker(self) -> bool:
        victim = self._victim()
        if victim is None:
            return False
        victim.signal(signal.SIGKILL)
        self._part_with(victim)
        self._hire()
        return True

    def _replace_worker(self) -> bool:
        victim = self._victim()
        if victim is None:
            return False
        self._hire()
        victim.signal(signal.SIGTERM)
        self._part_with(victim)
        return True

    def _part_with(self, worker: WorkerProcess) -> None:
        self._workers.remove(worker)
        self._leaving.append(worker)

    def _freeze_worker(self) -> bool:
        victim = self._victim()
        if victim is None:
            return False
        seconds = self._chance.uniform(0.2, 2.0) * self._fleet.settings.lease
        # With the embedded broker's file locked it would stop this process too, which thaws it.
        freeze([psutil.Process(victim.pid)], self._fleet.settings)
        self._frozen[victim.pid] = time.monotonic() + seconds
        return True

    def _thaw(self, now: float) -> None:
        now = time.monotonic() if now != float("inf") else now
        for pid in [pid for pid, until in self._frozen.items() if until <= now]:
            del self._frozen[pid]
            os.kill(pid, signal.SIGCONT)

    def _cut(self) -> bool:
        return sum(door.cut() for door in self._server.doors) > 0

    # What came of it.

    def _audit(self, outcome: Outcome) -> None:
        run, scratch, wrong = outcome.run, outcome.scratch, self.books.wrongs
        name = f"run {run.run_id} ({run.job_name}, {run.status.value})"
        begins = [line.split() for line in scratch.lines("begins")]
        begun, ended = (
            Counter(line.split()[0] for line in scratch.lines(each)) for each in ("begins", "ends")
        )
        self.books.steps += sum(begun.values())
        wanted = {DagsterRunStatus.SUCCESS}
        if run.run_id in self._terminated:
            wanted.add(DagsterRunStatus.CANCELED)
        # A run whose process dies while it is only being loaded has done nothing yet, and says so.
        stillborn = not begins and _says_why(outcome)
        self.books.runs[f"{run.status.value}{' before it began' if stillborn else ''}"] += 1
        if run.status not in wanted and not stillborn:
            expected = " or ".join(each.value for each in wanted)
            wrong.append(f"{name} should be {expected}\n{_last_events(outcome)}")
        wrong += [f"{name}: {each} was worked on by two" for each in scratch.lines("overlaps")]
        tries = Counter(outcome.steps(DagsterEventType.STEP_UP_FOR_RETRY))
        for step, count in begun.items():
            resumed = (f'"{step}" is run again', f'"{step}" is sent anew')
            again = sum(each in text for text in outcome.engine_says for each in resumed)
            if count > 1 + tries[step] + again:
                wrong.append(f"{name}: {step} began {count} times, for {tries[step]} retries")
        if run.status is DagsterRunStatus.SUCCESS:
            wrong += [f"{name}: {step} never ended" for step in outcome.succeeded - set(ended)]
        self._audit_end(name, outcome, begins)

    def _audit_end(self, name: str, outcome: Outcome, begins: list[list[str]]) -> None:
        record = self._fleet.instance.get_run_record_by_id(outcome.run_id)
        if record is None or record.end_time is None:
            return
        # Between a worker's question whether the run is alive and the op's first line, it may end.
        late = [each for each in begins if float(each[1]) > record.end_time + 1.0]
        self.books.wrongs += [f"{name}: {each[0]} began after its end" for each in late]

    def _audit_server(self, before: dict[str, int]) -> None:
        """Wait until nothing is left on the server that was not there in the beginning.

        Of a worker that was killed, and of a run whose process was, some notifications and a name
        stay for a day: as many as there were deeds, however many runs there were. The task of a run
        that it held stays STARTED, for a month, if the run was given up, or if the next worker that
        had it died before it could see to the task of the first. On Redis, one key has the times at
        which such tasks are forgotten. On RabbitMQ each process has an inbox for its notifications,
        as long as it lives.
        """
        harm = sum(self.books.deeds.values())
        deaths = self.books.deeds["kill a worker"] + self.books.deeds["freeze a worker"]
        given_up = sum(each.status is not DagsterRunStatus.SUCCESS for each in self._outcomes)
        processes = 1 + len(self._workers) * (1 + 2 * SLOTS)
        spared = {
            "notifications": harm,
            "retained": harm,
            "worker": harm,
            "task": deaths and deaths + given_up,
            "forget-tasks-at": min(deaths, 1),
            "inbox": processes,
        }

        def is_flat() -> bool:
            after = self._kept()
            self.books.kept = (before, after)
            return all(
                count <= before.get(kind, 0) + spared.get(kind, 0) for kind, count in after.items()
            )

        try:
            eventually(is_flat, "the server is as it was")
        except AssertionError:
            self.books.wrongs.append("there is more on the server than before")


def _last_events(outcome: Outcome) -> str:
    """Return the end of a run's log, in which the cause has to be found."""
    lines = []
    for entry in outcome.instance.all_logs(outcome.run_id)[-TOLD_EVENTS:]:
        event = entry.dagster_event
        error = getattr(event.event_specific_data, "error", None) if event else None
        lines.append(
            f"    {entry.timestamp:.3f} {entry.step_key or ''} "
            f"{event.event_type_value if event else ''} {entry.user_message}"
            f"{f' {error.to_string()}' if error else ''}"
        )
    return "\n".join(lines)


def _says_why(outcome: Outcome) -> bool:
    if outcome.status is not DagsterRunStatus.FAILURE:
        return False
    # Dagster's monitoring may write what it has seen a moment after the worker has: two ends.
    told = [str(event.message) for event in outcome.of(DagsterEventType.RUN_FAILURE)]
    return any(words in text for text in told for words in STILLBORN)


@contextmanager
def server_of(kind: str, directory: Path) -> Iterator[Server]:
    """Start the server of a soak, and the door before it.

    Args:
        kind: one of ``BROKERS``.
        directory: where an embedded broker has its file.
    """
    with ExitStack() as stack:
        if kind == "embedded":
            path = directory / "queue.db"
            yield Server(f"sqlite:///{path}", (), lambda: rows_in(path))
        elif kind == "redis":
            yield _redis(stack)
        elif kind == "postgresql":
            yield _postgresql(stack)
        elif kind in SQS:
            yield _sqs(stack, _redis(stack) if kind == SQS_REDIS else _postgresql(stack))
        else:
            assert kind == "rabbitmq", "Yield a server of this soak's own."
            rabbit = stack.enter_context(own_rabbit())
            door = stack.enter_context(proxy_to(rabbit.port))
            url = f"amqp://guest:guest@127.0.0.1:{door.port}/"
            yield Server(url, (door,), lambda: queues_in(rabbit.ctl))


def _redis(stack: ExitStack) -> Server:
    server = stack.enter_context(own_redis())
    door = stack.enter_context(proxy_to(server.port))
    return Server(f"redis://127.0.0.1:{door.port}/0", (door,), lambda: keys_in(server.url))


def _postgresql(stack: ExitStack) -> Server:
    server = stack.enter_context(own_postgres())
    door = stack.enter_context(proxy_to(server.port))
    url = f"postgresql://postgres@127.0.0.1:{door.port}/postgres"
    return Server(url, (door,), lambda: rows_in_postgresql(server.url))


def _sqs(stack: ExitStack, backend: Server) -> Server:
    server = stack.enter_context(own_sqs())
    door = stack.enter_context(sqs_door(server.url))

    def kept() -> dict[str, int]:
        return {**backend.kept(), "message": sum(messages_on_sqs(server.url, "").values())}

    settings = {"backend": backend.url, "broker_options": {"endpoint_url": door.url}}
    return Server(f"sqs://{REGION}", (*backend.doors, door), kept, settings)


#: What is counted in an SQL database, by kind.
COUNTS = {
    "message": "SELECT count(*) FROM dagster_taskiq_messages",
    "task": "SELECT count(*) FROM dagster_taskiq_tasks",
    "worker": "SELECT count(*) FROM dagster_taskiq_workers",
    "notifications": "SELECT count(DISTINCT channel) FROM dagster_taskiq_notifications",
}


def rows_in(path: Path) -> dict[str, int]:
    """Return how much an embedded broker's file has of each kind."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return {kind: connection.execute(each).fetchone()[0] for kind, each in COUNTS.items()}


def rows_in_postgresql(url: str) -> dict[str, int]:
    """Return how much a PostgreSQL has of each kind."""
    found = {}
    with our_tables(url) as cursor:
        for kind, count in COUNTS.items():
            cursor.execute(count)
            found[kind] = int(cursor.fetchall()[0][0])
    return found


def keys_in(url: str) -> dict[str, int]:
    """Return how many keys of each kind a Redis has."""
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        return dict(Counter(key.decode().split(":")[1] for key in client.scan_iter()))


def queues_in(ctl: Callable[..., str]) -> dict[str, int]:
    """Return how many queues of each kind a RabbitMQ has, and how many messages wait for work."""
    found: Counter[str] = Counter()
    for row in ctl("list_queues", "--no-table-headers", "name", "messages").splitlines():
        name, messages = row.split("\t")
        kind = name.split(":")[1]
        found[kind] += 1
        found["message"] += int(messages) if kind == "queue" else 0
    return dict(found)


async def sweep(settings: Settings) -> None:
    """Do what a worker does now and then: delete what has expired."""
    backend = make_backend(settings)
    backend.home.use_running_loop()
    await backend.startup()
    await backend.sweep()
    await backend.shutdown()


def soak(kind: str, seconds: float, seed: int, directory: Path) -> Books:
    """Soak a fleet on a kind of broker for so many seconds, and return what came of it.

    Args:
        kind: one of ``BROKERS``.
        seconds: how long harm is done.
        seed: of all that is random.
        directory: an empty one, for everything that is written.
    """
    home = directory / "home"
    home.mkdir()
    monitoring = {
        "enabled": True,
        "max_resume_run_attempts": 50,
        "start_timeout_seconds": 30,
        "cancel_timeout_seconds": 30,
    }
    with (
        server_of(kind, directory) as server,
        running_code_server(
            directory, "-m", "compat_tests.faults.soak_jobs", "-d", str(ROOT)
        ) as code,
    ):
        settings = Settings(
            broker=server.url,
            prefix="soak",
            heartbeat_interval=0.5,
            lease=LEASE[kind],
            result_ttl=RESULT_TTL,
            **server.settings,
        )
        with open_fleet(home, settings, code, run_monitoring=monitoring) as fleet:
            return Soak(fleet, server, directory, seed).run(seconds)


def main() -> None:
    """Soak as the command line says; end with code 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--broker", choices=[*LEASE, "sqs"], default="embedded")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, help="keep what is written, in this directory")
    chosen = parser.parse_args()
    with ExitStack() as stack:
        directory = chosen.directory or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        directory.mkdir(parents=True, exist_ok=True)
        kind = SQS_REDIS if chosen.broker == "sqs" else chosen.broker
        books = soak(kind, 60 * chosen.minutes, chosen.seed, directory.resolve())
    print(books.report())
    raise SystemExit(bool(books.wrongs))


if __name__ == "__main__":
    main()
