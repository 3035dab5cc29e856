"""Measure what a monitor costs: itself, the servers that it asks, and the runs that it shows.

    python -m benchmarks.monitor [--rounds N] [--places PLACES]

One worker with two slots is warm. A chain and a fan of steps that do nothing are run, round by
round: without a monitor; with one that nobody looks at; and with one whose page is open, so that
workers report each start and end. Of each, the best round counts. Then nothing runs, and what
counts is the CPU time of the monitor, and what the server is asked per second more than by the
worker alone. `make bench-monitor` makes the environment.
"""

import argparse
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse

from benchmarks.report import Figures
from benchmarks.sides import EMBEDDED, OUR_VENV, REDIS, Fleet, Program, ours
from benchmarks.stage import Stage, open_stage
from benchmarks.storage import POSTGRES, SQLITE
from compat_tests.servers import free_port
from compat_tests.waiting import eventually

#: Where broker, backend and Dagster's storage are, with the storage of each.
PLACES = {"redis": (REDIS, SQLITE), "postgresql": (EMBEDDED, POSTGRES)}
#: The jobs, and what they are called.
JOBS = {"chain_20": "a chain of 20 steps", "fan_100": "100 independent steps"}
#: Without a monitor, and with one.
ALONE, ATTACHED, WATCHED = WAYS = ("no monitor", "a monitor", "a monitor whose page is open")
#: How long what has nothing to do is watched, in seconds.
IDLE_SECONDS = 30.0
#: How long the worker and Dagster's storage have before that to come to rest, in seconds.
REST_SECONDS = 15.0


@dataclass
class Place:
    """What was measured in one place."""

    name: str
    #: Seconds of each run, by job and way, and the CPU time of its loop, worker and monitor.
    seconds: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    spent: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    #: Of each way: what the server was asked per second, and the monitor's share of a core.
    asked: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """Yield it as lines of a table in Markdown."""
        yield f"| {self.name} | {' | '.join(WAYS)} |"
        yield f"|---|{'---|' * len(WAYS)}"
        for job, title in JOBS.items():
            for what, found in ((title, self.seconds), (f"{title}: CPU time", self.spent)):
                best = [min(found[job, way]) for way in WAYS]
                ratios = "".join(f" | {each:.2f} s (x {each / best[0]:.2f})" for each in best[1:])
                yield f"| {what} | {best[0]:.2f} s{ratios} |"
        asked = [f"{self.asked[way]:.1f}/s" for way in WAYS]
        yield f"| nothing runs: the server is asked | {' | '.join(asked)} |"
        yield f"| the monitor, of a core | - | {self.cpu[ATTACHED]:.2%} | {self.cpu[WATCHED]:.2%} |"


def measure(name: str, rounds: int) -> Place:
    """Measure one place."""
    place, storage = PLACES[name]
    found = Place(name)
    with open_stage([place], rounds, Figures(rounds, storage), {}) as stage:
        url = stage.urls.get(place, "")
        with stage.alone(ours(place, url, storage)) as fleet:
            stage.start_worker(fleet)
            fleet.run("naps")
            broker = ["-b", url] if url else []
            for number in range(rounds):
                # No way is always the first.
                for way in (*WAYS[number % len(WAYS) :], *WAYS[: number % len(WAYS)]):
                    with monitoring(fleet, broker, way) as monitor:
                        programs = [each for each in (fleet.worker, monitor) if each]
                        for job in JOBS:
                            before = sum(each.cpu_seconds() for each in programs)
                            done = fleet.run(job)
                            spent = sum(each.cpu_seconds() for each in programs) - before
                            found.seconds[job, way].append(done["seconds"])
                            found.spent[job, way].append(spent + done["cpu"])
            count = counter(stage, fleet)
            time.sleep(REST_SECONDS)
            for way in WAYS:
                with monitoring(fleet, broker, way) as monitor:
                    before, cpu = count(), monitor.cpu_seconds() if monitor else 0.0
                    began = time.monotonic()
                    time.sleep(IDLE_SECONDS)
                    passed = time.monotonic() - began
                    found.cpu[way] = (monitor.cpu_seconds() - cpu if monitor else 0.0) / passed
                    found.asked[way] = (count() - before) / passed
    return found


def counter(stage: Stage, fleet: Fleet) -> Callable[[], int]:
    """Return what counts the commands, or transactions, that a fleet's server has been sent."""
    if stage.storage is not None and fleet.database is not None:
        storage, database = stage.storage, fleet.database
        return lambda: storage.count_transactions(database)
    return lambda: stage.commands(REDIS) or 0


@contextmanager
def monitoring(fleet: Fleet, broker: list[str], way: str) -> Iterator[Program | None]:
    """Have a monitor run, or one whose page is open, or none; yield it when it has looked."""
    if way == ALONE:
        yield None
        return
    port = free_port()
    monitor = fleet.start("monitor", [*broker, "--port", str(port)], f"monitor-{port}")
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        eventually(lambda: has_looked(port), "the monitor has looked")
        if way == WATCHED:
            connection.request("GET", "/events")
            page = connection.getresponse()
            threading.Thread(target=read_all, args=(page,), daemon=True).start()
        yield monitor
    finally:
        monitor.end()
        connection.close()


def read_all(page: HTTPResponse) -> None:
    """Read what comes until the other side ends, as a browser does."""
    with suppress(HTTPException, OSError, ValueError):
        page.read()


def has_looked(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/api/workers")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8, help="how often (8)")
    parser.add_argument("--places", default=",".join(PLACES), help=f"{','.join(PLACES)}")
    arguments = parser.parse_args()
    if not (OUR_VENV / "bin" / "python").exists():
        sys.exit(f"{OUR_VENV} is not there: `make bench-monitor` makes it.")
    for name in arguments.places.split(","):
        print("\n".join(measure(name, arguments.rounds).lines()), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
