"""Measure what a fleet takes: memory of a worker, connections, what waits.

    python -m benchmarks.sizes [--slots N...] [--runs N] [--places PLACE...] [--only PART]

Parts: `memory` is what the processes of a worker hold when each of its slots has run steps, and
when runs wait for their steps in it; `connections` is what a worker, launched runs, a run in a
process of its own, the webserver and the daemon have open to the PostgreSQL of Dagster's storage,
which is the broker too; `waiting` is what a step that waits takes in Redis and PostgreSQL.
`make bench-sizes` makes the environment. It needs Linux.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg2
import redis
import yaml

from benchmarks.sides import BOTH, Driver, Program
from compat_tests.servers import free_port, new_database, own_postgres, own_redis, with_driver
from compat_tests.waiting import eventually
from compat_tests.webserver import Webserver
from dagster_taskiq.client import client_for
from dagster_taskiq.settings.settings import Settings

#: The parts, in the order in which they are measured.
PARTS = ("memory", "connections", "waiting")
#: How many connections the server accepts: more than are needed.
MOST_CONNECTIONS = 300
#: How long connections are watched while everything works, in seconds.
WATCH_SECONDS = 20.0
#: How often they are counted meanwhile, in seconds.
EVERY_SECONDS = 0.2
#: How long a process keeps a connection that it does not use, and a little more, in seconds.
COOL_SECONDS = 8.0
#: How many steps wait when what they take is measured.
WAITING_STEPS = 500
#: How long a step rests that runs wait for, in seconds.
REST_SECONDS = 60.0
MIB = 2**20


class Home:
    """A Dagster instance on a database of its own, and the programs that were started for it."""

    def __init__(self, directory: Path, database: str, broker: str, stack: ExitStack) -> None:
        """Make the instance.

        Args:
            directory: a new one.
            database: the URL of the PostgreSQL of Dagster's storage.
            broker: the URL of the broker.
            stack: ends the programs.
        """
        self.directory = directory
        self.database = database
        self.broker = broker
        #: The broker for those who have no ``dagster.yaml``.
        self.broker_url = database if broker == "dagster-storage:" else broker
        self._stack = stack
        launcher = {"module": "dagster_taskiq", "class": "TaskiqRunLauncher"}
        instance: dict[str, Any] = {
            "storage": {"postgres": {"postgres_url": with_driver(database)}},
            "run_launcher": {**launcher, "config": {"broker": broker}},
            "run_coordinator": {
                "module": "dagster.core.run_coordinator",
                "class": "DefaultRunCoordinator",
            },
            "run_monitoring": {"enabled": True, "start_timeout_seconds": 3600},
            "telemetry": {"enabled": False},
        }
        (directory / "dagster.yaml").write_text(yaml.safe_dump(instance))
        self.environment = {
            **os.environ,
            "DAGSTER_HOME": str(directory),
            "DAGSTER_TASKIQ_BROKER": broker,
            "PYTHONPATH": str(BOTH),
        }

    def start(self, name: str, module: str, *arguments: str) -> Program:
        """Start a program of this environment's Python, with a log of its own."""
        command = [sys.executable, "-m", module, *arguments]
        program = Program(command, self.directory / f"{name}.log", self.environment)
        self._stack.callback(program.end)
        return program

    def start_worker(self, slots: int, runs: int) -> Program:
        arguments = ["-c", str(slots), "--max-runs", str(max(runs, 1))]
        worker = self.start("worker", "dagster_taskiq", "worker", "start", *arguments)
        client = client_for(Settings(broker=self.broker_url))
        eventually(lambda: any(not each.is_lost for each in client.workers()), timeout=120)
        return worker

    def driver(self) -> Driver:
        """Start a process that executes and launches runs."""
        driver = Driver(Path(sys.executable), self.directory / "driver.log", self.environment)
        self._stack.callback(driver.end)
        return driver


@contextmanager
def open_home(place: str) -> Iterator[Home]:
    """Open an instance with its storage in a PostgreSQL, and the broker there or in a Redis."""
    with ExitStack() as stack:
        server = stack.enter_context(own_postgres(MOST_CONNECTIONS))
        database = stack.enter_context(new_database(server.url))
        broker = "dagster-storage:"
        if place == "redis":
            broker = stack.enter_context(own_redis()).url
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        yield Home(directory, database, broker, stack)


def roles(worker: Program) -> dict[int, str]:
    """Return what each process of a worker is, by its id."""
    found = {worker.pid: "worker's first process"}
    for each in psutil.Process(worker.pid).children(recursive=True):
        parents = [parent.pid for parent in each.parents()]
        depth = parents.index(worker.pid)
        found[each.pid] = ("guard", "fork server")[depth] if depth < 2 else "child"
    return found


def measure_memory(place: str, slots: int, runs: int) -> None:
    """Print what the processes of a warm worker hold."""
    with open_home(place) as home:
        worker = home.start_worker(slots, runs)
        driver = home.driver()
        driver.ask("execute", **order("many_naps"))
        time.sleep(COOL_SECONDS)
        show_memory(f"{place}, {slots} slots, warm", worker)
        rest = {"rest": {"config": {"seconds": REST_SECONDS}}}
        driver.ask("launch_many", **order("resting", ops=rest), count=runs)
        eventually(lambda: orchestrating(home) == runs, timeout=120)
        show_memory(f"{place}, {slots} slots, {runs} runs wait for their steps", worker)


def order(job: str, ops: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what a driver is told of a run: where its job is, and its config."""
    return {"module": "taskiq_jobs", "job": job, "config": {"ops": ops} if ops else {}}


def orchestrating(home: Home) -> int:
    workers = client_for(Settings(broker=home.broker_url)).workers()
    return sum(each.orchestrating for worker in workers for each in worker.running)


def show_memory(title: str, worker: Program) -> None:
    held: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for pid, role in roles(worker).items():
        with suppress(psutil.NoSuchProcess):
            memory = psutil.Process(pid).memory_full_info()
            held[role].append((memory.rss, memory.pss, memory.uss))
    print(f"\n{title}")
    print("| process | how many | RSS, MiB | PSS, MiB | alone (USS), MiB |")
    print("|---|---|---|---|---|")
    total = [0.0, 0.0, 0.0]
    for role, rows in held.items():
        medians = [statistics.median(each) / MIB for each in zip(*rows, strict=True)]
        total = [
            had + sum(each) / MIB for had, each in zip(total, zip(*rows, strict=True), strict=True)
        ]
        print(f"| {role} | {len(rows)} | {' | '.join(f'{each:.0f}' for each in medians)} |")
    print(
        f"| all | {sum(map(len, held.values()))} | {' | '.join(f'{each:.0f}' for each in total)} |"
    )


class Counted:
    """Connections to a database, by the process at the other end."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg2.connect(url)
        self._connection.autocommit = True
        self._database = urlsplit(url).path.lstrip("/")

    def close(self) -> None:
        self._connection.close()

    def by_process(self) -> Counter[int]:
        """Return how many connections each process has open, by its id."""
        with self._connection.cursor() as cursor:
            cursor.execute(
                "SELECT client_port FROM pg_stat_activity"
                " WHERE datname = %s AND pid <> pg_backend_pid()",
                (self._database,),
            )
            ports = {row[0] for row in cursor.fetchall()}
        found: Counter[int] = Counter()
        for each in psutil.net_connections("tcp"):
            if each.pid is not None and each.laddr and each.laddr.port in ports:
                found[each.pid] += 1
        return found


def watch(counted: Counted, of: Callable[[], Mapping[int, str]], seconds: float) -> None:
    """Print the most connections that the processes of each role had at once, and their sum."""
    most: Counter[str] = Counter()
    of_one: Counter[str] = Counter()
    total = 0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        names = of()
        now: Counter[str] = Counter()
        for pid, number in counted.by_process().items():
            role = names.get(pid, "others")
            now[role] += number
            of_one[role] = max(of_one[role], number)
        for role, number in now.items():
            most[role] = max(most[role], number)
        total = max(total, sum(now.values()))
        time.sleep(EVERY_SECONDS)
    print("| process | most at once | of one process |")
    print("|---|---|---|")
    for role, number in sorted(most.items()):
        print(f"| {role} | {number} | {of_one[role]} |")
    print(f"| all | {total} | |")


def measure_connections(place: str, slots: int, runs: int) -> None:
    """Print the connections of a worker that is idle, and that works; and of all else."""
    with open_home(place) as home:
        worker = home.start_worker(slots, runs)
        driver = home.driver()
        driver.ask("execute", **order("chain_5"))
        counted = Counted(home.database)
        time.sleep(COOL_SECONDS)
        print(f"\n{place}: a worker with {slots} slots, idle")
        watch(counted, lambda: roles(worker), 3)
        driver.ask("launch_many", **order("many_naps"), count=runs)
        driver.end()
        print(f"\n{place}: the same with {runs} launched runs, all slots at work")
        watch(counted, lambda: roles(worker), WATCH_SECONDS)
        eventually(lambda: orchestrating(home) == 0, timeout=300)
        time.sleep(COOL_SECONDS)
        print(f"\n{place}: the same when they have ended")
        watch(counted, lambda: roles(worker), 3)
        alone = home.driver()
        alone.order("execute", **order("many_naps"))
        print(f"\n{place}: a run in a process of its own")
        watch(counted, lambda: {**roles(worker), **named(alone, "run")}, WATCH_SECONDS)
        alone.end()
        port = free_port()
        arguments = ["-m", "taskiq_jobs", "-p", str(port)]
        web = home.start("webserver", "dagster_webserver", *arguments)
        server = Webserver(f"http://127.0.0.1:{port}")
        eventually(server.is_up, timeout=120)
        daemon = home.start("daemon", "dagster", "daemon", "run", "-m", "taskiq_jobs")
        time.sleep(15)

        def of() -> dict[int, str]:
            server.ask("{ runsOrError(limit: 20) { ... on Runs { results { id status } } } }")
            return {**roles(worker), **named(web, "webserver"), **named(daemon, "daemon")}

        print(f"\n{place}: webserver and daemon, with a query every {EVERY_SECONDS} s")
        watch(counted, of, 40)
        counted.close()


def named(program: Program, name: str) -> dict[int, str]:
    """Return a program's processes: itself by its name, what it has started by another."""
    found = {each.pid: f"{name}: a process it has started" for each in program.processes()}
    return {**found, program.pid: name}


def measure_waiting(place: str) -> None:
    """Print what steps that wait take on the server, and what a run's record takes beside them."""
    with open_home(place) as home:
        client = client_for(Settings(broker=home.broker_url))
        home.start_worker(1, 1).end()
        before = taken(home)
        begun = home.driver()
        begun.order("execute", **order("fan_500"))
        eventually(
            lambda: sum(each.waiting for each in client.depths()) >= WAITING_STEPS, timeout=120
        )
        time.sleep(2)
        after = taken(home)
        begun.end()
        each = (after - before) / WAITING_STEPS / 1024
        print(f"\n{place}: {WAITING_STEPS} steps wait: {each:.2f} KiB each")


def taken(home: Home) -> int:
    """Return how many bytes broker and backend take."""
    if home.broker.startswith("redis"):
        return int(redis.Redis.from_url(home.broker).info("memory")["used_memory"])
    with psycopg2.connect(home.database) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r'"
            " AND relnamespace = 'dagster_taskiq'::regnamespace"
        )
        row = cursor.fetchone()
    return int(row[0]) if row else 0


def main() -> None:
    """Measure the parts that are asked for, and print tables in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slots", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--places", nargs="+", default=["postgresql", "redis"])
    arguments = parser.parse_args()
    for part in arguments.only or PARTS:
        for place in arguments.places:
            if part == "waiting":
                measure_waiting(place)
                continue
            for slots in arguments.slots:
                (measure_memory if part == "memory" else measure_connections)(
                    place, slots, arguments.runs
                )


if __name__ == "__main__":
    main()
