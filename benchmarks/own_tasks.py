"""Measure what a user's own task costs here, with Celery, and with taskiq-redis, in one run.

    python -m benchmarks.own_tasks [--tasks N] [--rounds N] [--places PLACES] [--kinds KINDS]
        [--venv DIR] [--celery-venv DIR] [--taskiq-redis-venv DIR]

A worker with two slots is warm, and both slots are held, while tasks that do nothing are sent:
plain functions, then coroutines. Then the slots are let go, and what counts is the time until the
last task is executed, and what CPU that took: of the server, of the worker's first process, and of
all its other processes. The sides take turns; of each, the best round counts. `make bench-own`
makes the environments.

On Redis and RabbitMQ there is Celery with its prefork pool, which has plain functions only. On
Redis there is also the ``ListQueueBroker`` of taskiq-redis with `taskiq worker`. On the embedded
broker there is nothing to compare with.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

import psutil

from benchmarks.sides import (
    BOTH,
    EMBEDDED,
    FOREIGN,
    ORIGINAL_VENV,
    OUR_VENV,
    PATIENCE_SECONDS,
    RABBITMQ,
    REDIS,
    ROOT,
    SLOTS,
    BenchmarkError,
    Program,
)
from compat_tests.servers import RedisServer, own_rabbit, redis_binary

#: After what part of the tasks the server's CPU time is looked at.
PARTS = 5
#: How many tasks warm a worker up.
WARM_UP = 100
#: How often a file is looked at, in seconds.
LOOK_SECONDS = 0.02
#: Has taskiq-redis.
TASKIQ_REDIS_VENV = ROOT / ".venv-taskiq-redis"
#: The kinds of tasks, each with the name by which the sender knows it.
PLAIN, ASYNC = "plain", "async"
KINDS = {PLAIN: "nothing", ASYNC: "async"}


@dataclass(frozen=True)
class Side:
    """Whose worker and client are measured."""

    who: str
    venv: Path
    module: str
    worker: tuple[str, ...]

    def environment(self, url: str, place: str, home: Path) -> dict[str, str]:
        mine = {name: each for name, each in os.environ.items() if not name.startswith(FOREIGN)}
        mine |= {"DAGSTER_HOME": str(home), "PYTHONPATH": str(BOTH)}
        if place == EMBEDDED:
            return mine
        backend = url if place == REDIS else "rpc://"
        if self.who == TASKIQ_REDIS:
            return {**mine, "OWN_TASKIQ_REDIS": url}
        if self.who == CELERY:
            return {**mine, "OWN_BROKER": url, "OWN_BACKEND": backend}
        return {**mine, "DAGSTER_TASKIQ_BROKER": url, "DAGSTER_TASKIQ_BACKEND": backend}


OURS, CELERY, TASKIQ_REDIS = "ours", "Celery", "taskiq-redis"
WORKERS = {
    OURS: ("own_taskiq", "dagster-taskiq worker start --include own_taskiq --concurrency"),
    CELERY: ("own_celery", "celery -A own_celery worker --pool prefork --concurrency"),
    # Two processes, as the others have; each runs one task after the other.
    TASKIQ_REDIS: (
        "own_taskiq",
        "taskiq worker own_taskiq:broker --max-async-tasks 1 --max-threadpool-threads 1 --workers",
    ),
}


def side(who: str, venv: Path) -> Side:
    module, command = WORKERS[who]
    program, *arguments = command.split()
    return Side(who, venv, module, (str(venv.absolute() / "bin" / program), *arguments, str(SLOTS)))


@dataclass(frozen=True)
class Round:
    """What one round has shown. Times are milliseconds per task."""

    wall: float
    server: float
    parent: float
    children: float
    #: The server's CPU time in each part of the tasks.
    parts: tuple[float, ...]
    send_wall: float
    send_cpu: float
    send_server: float

    @property
    def cpu(self) -> float:
        return self.server + self.parent + self.children


def measure(each: Side, place: str, tasks: int, kind: str = PLAIN) -> Round:
    """Measure one side once, with a server, a worker and a sender of its own.

    Args:
        each: the side.
        place: where its tasks wait.
        tasks: how many there are.
        kind: of ``KINDS``.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="own-tasks-")))
        url, server = stack.enter_context(_server(place, directory))
        environment = each.environment(url, place, directory)
        worker = Program(list(each.worker), directory / "worker.log", environment)
        stack.callback(worker.end)
        python = each.venv.absolute() / "bin" / "python"
        sender = subprocess.Popen(
            [str(python), str(BOTH / "own_sender.py"), each.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=BOTH,
            text=True,
        )
        stack.callback(sender.wait)
        stack.callback(sender.kill)

        def send(*orders: tuple[object, ...]) -> dict[str, float]:
            assert sender.stdin is not None
            assert sender.stdout is not None
            sender.stdin.write(json.dumps(orders) + "\n")
            sender.stdin.flush()
            answer: dict[str, float] = json.loads(sender.stdout.readline() or "{}")
            if not answer:
                raise BenchmarkError(f"The sender of {each.who} has failed.")
            return answer

        def lines(path: Path, wanted: int) -> list[float]:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while True:
                with suppress(FileNotFoundError):
                    found = path.read_text().splitlines()
                    if len(found) >= wanted:
                        return [float(line) for line in found]
                if time.monotonic() > deadline or worker.process.poll() is not None:
                    raise BenchmarkError(f"{each.who} did not end.\n{worker.end_of_log()}")
                time.sleep(LOOK_SECONDS)

        nothing = KINDS[kind]
        send((nothing, WARM_UP), ("mark", 1, str(directory / "warm")))
        lines(directory / "warm", 1)
        go, marks = directory / "go", directory / "marks"
        before_sending = _cpu(server)
        send(("hold", SLOTS, str(go)))
        part = (nothing, tasks // PARTS), ("mark", 1, str(marks))
        sent = send(*part * PARTS)
        send_server = _cpu(server) - before_sending
        cpu = [_cpu(server)]
        before = _cpu_of(worker)
        go.touch()
        begun = time.time()
        for number in range(1, PARTS + 1):
            ended = lines(marks, number)[-1]
            cpu.append(_cpu(server))
        parent, children = (b - a for a, b in zip(before, _cpu_of(worker), strict=True))
        per_task = 1000 / tasks
        return Round(
            (ended - begun) * per_task,
            (cpu[-1] - cpu[0]) * per_task,
            parent * per_task,
            children * per_task,
            tuple((b - a) * per_task * PARTS for a, b in pairwise(cpu)),
            sent["seconds"] * per_task,
            sent["cpu"] * per_task,
            send_server * per_task,
        )


def _cpu(process: psutil.Process | None) -> float:
    """Return the CPU time of a process; none if there is no server."""
    return 0.0 if process is None else float(sum(process.cpu_times()[:2]))


def _cpu_of(worker: Program) -> tuple[float, float]:
    """Return the CPU time of a worker's first process, and of all others."""
    first = _cpu(psutil.Process(worker.pid))
    return first, worker.cpu_seconds() - sum(psutil.Process(worker.pid).cpu_times()[:4])


@contextmanager
def _server(place: str, directory: Path) -> Iterator[tuple[str, psutil.Process | None]]:
    """Yield the URL and the process of a server that nothing else uses; none if embedded."""
    if place == EMBEDDED:
        yield "", None
        return
    if place == RABBITMQ:
        with own_rabbit() as rabbit:
            assert rabbit.process is not None
            yield rabbit.url, psutil.Process(rabbit.process.pid)
        return
    binary = redis_binary()
    if binary is None:
        raise BenchmarkError("There is no redis-server on this machine.")
    # As it is by default, all in memory: the tests' own waits for the disk.
    redis = RedisServer(binary, directory, ("--appendonly", "no"))
    redis.start()
    try:
        assert redis.process is not None
        yield redis.url, psutil.Process(redis.process.pid)
    finally:
        redis.stop()


def table(place: str, kind: str, tasks: int, found: dict[str, list[Round]]) -> str:
    best = {who: min(rounds, key=lambda each: each.wall) for who, rounds in found.items()}
    rows = [
        f"{place}, {tasks} {kind} tasks, {SLOTS} slots; milliseconds per task, best of each by "
        "wall time",
        f"{'':14}{'wall':>7}{'CPU':>7}{'server':>8}{'parent':>8}{'others':>8}"
        f"{'send':>7}{'its CPU':>9}{'server':>8}   server, part by part",
    ]
    for who, each in best.items():
        parts = " ".join(f"{part:.2f}" for part in each.parts)
        rows.append(
            f"{who:14}{each.wall:7.2f}{each.cpu:7.2f}{each.server:8.2f}{each.parent:8.2f}"
            f"{each.children:8.2f}{each.send_wall:7.2f}{each.send_cpu:9.2f}{each.send_server:8.2f}"
            f"   {parts}"
        )
    ours = best.get(OURS)
    for who, each in best.items():
        if ours is not None and who != OURS:
            cheapest = {name: min(round_.cpu for round_ in found[name]) for name in (OURS, who)}
            rows.append(
                f"Ours per second, as a multiple of {who}: executed "
                f"{_verdict(each.wall / ours.wall, who)}; by the CPU of all, "
                f"{_verdict(cheapest[who] / cheapest[OURS], who)}; sent, "
                f"{_verdict(each.send_wall / ours.send_wall, who)}"
            )
    return "\n".join(rows)


def _verdict(ratio: float, who: str) -> str:
    """Return a ratio with who wins by it."""
    return f"{ratio:.2f} ({OURS if ratio >= 1 else who} wins)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=2000, help="how many (2000)")
    parser.add_argument("--rounds", type=int, default=3, help="how often (3)")
    places = ",".join((EMBEDDED, REDIS, RABBITMQ))
    parser.add_argument("--places", default=places, help=f"of {places}")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {','.join(KINDS)}")
    parser.add_argument("--only", help="one side alone")
    parser.add_argument("--venv", type=Path, default=OUR_VENV, help="environment of ours")
    parser.add_argument("--celery-venv", type=Path, default=ORIGINAL_VENV, help="of Celery")
    parser.add_argument("--taskiq-redis-venv", type=Path, default=TASKIQ_REDIS_VENV, help="of that")
    arguments = parser.parse_args()
    for place, kind in product(arguments.places.split(","), arguments.kinds.split(",")):
        sides = [side(OURS, arguments.venv)]
        if place != EMBEDDED and kind == PLAIN:
            sides.append(side(CELERY, arguments.celery_venv))
        if place == REDIS:
            sides.append(side(TASKIQ_REDIS, arguments.taskiq_redis_venv))
        sides = [each for each in sides if arguments.only in (None, each.who)]
        found: dict[str, list[Round]] = {each.who: [] for each in sides}
        for number in range(arguments.rounds):
            # Whoever comes second may find a busier machine: they take turns in that too.
            for each in sides if number % 2 == 0 else sides[::-1]:
                round_ = measure(each, place, arguments.tasks, kind)
                found[each.who].append(round_)
                print(f"{place} {kind} {each.who}: {round_}", file=sys.stderr, flush=True)
        if sides:
            print(table(place, kind, arguments.tasks, found), flush=True)


if __name__ == "__main__":
    main()
