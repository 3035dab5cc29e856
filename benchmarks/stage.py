"""Where contenders are measured: their servers, and which of them are up at a moment."""

import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import redis

from benchmarks.report import Figures
from benchmarks.sides import (
    IN_PROCESS,
    MULTIPROCESS,
    RABBITMQ,
    REDIS,
    SLOTS,
    Contender,
    Fleet,
    Program,
    original,
    ours,
)
from benchmarks.storage import POSTGRES, PostgresStorage, open_postgres
from compat_tests.servers import Guard, RedisServer, any_rabbit, any_redis, redis_binary

#: Commands of the question itself: it, and a greeting in which the client says what it is.
ASKING_COMMANDS = 2
#: How often it is looked how much memory a server has, in seconds.
MEMORY_LOOK_SECONDS = 0.2


@dataclass
class Stage:
    """What a measure is given."""

    contenders: list[Contender]
    rounds: int
    figures: Figures
    directory: Path
    guard: Guard
    #: URLs of the servers, by place.
    urls: Mapping[str, str]
    #: Where Dagster's storage is; ``None`` for SQLite.
    storage: PostgresStorage | None
    _together: dict[Contender, Fleet] = field(default_factory=dict)
    _up: list[Fleet] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)

    def distributed(self) -> list[Contender]:
        """Return those who have workers."""
        return [each for each in self.contenders if each.place]

    def together(self, contenders: list[Contender]) -> list[Fleet]:
        """Return fleets that are all up, warm, and stay so for the next measure."""
        for contender in contenders:
            if contender not in self._together:
                fleet = self._start(contender)
                self._together[contender] = fleet
                if contender.place:
                    self.start_worker(fleet)
                    # Enough steps that take their time for every slot to have imported the code.
                    fleet.run("naps")
        return [self._together[contender] for contender in contenders]

    @contextmanager
    def alone(self, contender: Contender) -> Iterator[Fleet]:
        """Yield a new fleet without a worker yet, while no other is up."""
        self.end_all()
        fleet = self._start(contender)
        try:
            yield fleet
        finally:
            self.end_all()

    def each_alone(self) -> Iterator[Fleet]:
        """Yield, round by round, a new fleet of each who has workers, while no other is up."""
        for _ in range(self.rounds):
            for contender in self.distributed():
                with self.alone(contender) as fleet:
                    yield fleet

    def start_worker(self, fleet: Fleet, slots: int = SLOTS) -> None:
        fleet.start_worker(slots)
        self._tell_guard()

    def commands(self, place: str) -> int | None:
        """Return how many commands a place's server has been sent; only Redis counts them."""
        if place != REDIS:
            return None
        with redis.Redis.from_url(self.urls[REDIS]) as client:
            return int(client.info("stats")["total_commands_processed"])

    def sent_since(self, place: str, before: int) -> int:
        """Return how many commands a server has been sent since it was asked, by others."""
        now = self.commands(place)
        assert now is not None
        return now - before - ASKING_COMMANDS

    def received_bytes(self, place: str) -> int | None:
        """Return how many bytes a place's server has received; only Redis counts them."""
        if place != REDIS:
            return None
        with redis.Redis.from_url(self.urls[REDIS]) as client:
            return int(client.info("stats")["total_net_input_bytes"])

    @contextmanager
    def peak_memory(self, place: str) -> Iterator[list[int]]:
        """Yield a list that has the most memory that a place's server had in the block, in bytes.

        It is empty if the server does not tell that; only Redis does.
        """
        peak: list[int] = []
        if place != REDIS:
            yield peak
            return
        ended = threading.Event()

        def watch() -> None:
            with redis.Redis.from_url(self.urls[REDIS]) as client:
                while True:
                    peak[:] = [max(*peak, 0, int(client.info("memory")["used_memory"]))]
                    if ended.wait(MEMORY_LOOK_SECONDS):
                        return

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            yield peak
        finally:
            ended.set()
            watching.join()

    def sessions(self, fleet: Fleet) -> int | None:
        """Return how many connections a fleet has opened to Dagster's database, if it has one."""
        if self.storage is None or fleet.database is None:
            return None
        return self.storage.count_sessions(fleet.database)

    def end_all(self) -> None:
        self._together.clear()
        while self._up:
            self._up[-1].end()
            self._up.pop()
        self._tell_guard()

    def _start(self, contender: Contender) -> Fleet:
        directory = self.directory / f"{next(self._numbers)}-{contender.who.replace(' ', '-')}"
        directory.mkdir()
        database = self.storage.new_database() if self.storage is not None else None
        fleet = Fleet(contender, directory, database)
        self._up.append(fleet)
        self._tell_guard()
        # Not before it has imported Dagster: what follows may look at the clock.
        self.figures.versions[contender.who] = fleet.driver.ask("versions")
        return fleet

    def _tell_guard(self) -> None:
        programs = [each for fleet in self._up for each in (fleet.driver, *fleet.workers)]
        self.guard.watch([each.pid for each in programs])


@contextmanager
def open_stage(
    places: list[str], rounds: int, figures: Figures, given: Mapping[str, str | None]
) -> Iterator[Stage]:
    """Start servers, and in the end stop all that was started, whatever happens.

    Args:
        places: where work may wait.
        rounds: how often each thing is measured.
        figures: where measures write.
        given: URLs of servers that are there already, by place.
    """
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="dagster-taskiq-bench-"))
        guard = Guard(directory)
        stack.callback(_dismiss, guard)
        urls: dict[str, str] = {}
        if REDIS in places:
            urls[REDIS] = given.get(REDIS) or stack.enter_context(_redis(directory))
        if RABBITMQ in places:
            urls[RABBITMQ] = given.get(RABBITMQ) or stack.enter_context(any_rabbit(directory))
        contenders = [original(place, url) for place, url in urls.items()]
        contenders += [ours(place, urls.get(place, ""), figures.storage) for place in places]
        contenders += [IN_PROCESS, MULTIPROCESS]
        storage = stack.enter_context(open_postgres()) if figures.storage == POSTGRES else None
        stage = Stage(contenders, rounds, figures, directory, guard, urls, storage)
        stack.callback(stage.end_all)
        yield stage


@contextmanager
def _redis(directory: Path) -> Iterator[str]:
    """Yield the URL of a Redis that keeps all in memory: the tests' own waits for the disk."""
    binary = redis_binary()
    if binary is None:
        with any_redis() as url:
            yield url
        return
    mine = directory / "redis"
    mine.mkdir()
    server, guard = RedisServer(binary, mine), Guard(mine)
    command = [binary, "--port", str(server.port), "--bind", "127.0.0.1", "--save", ""]
    program = Program(command, mine / "output.log", os.environ)
    try:
        guard.watch([program.pid])
        server.process = program.process
        server.wait_until_ready()
        yield server.url
    finally:
        program.end()
        _dismiss(guard)


def _dismiss(guard: Guard) -> None:
    """Let the guard end, which removes the directory."""
    with suppress(BrokenPipeError):
        guard.watch([])
    guard.let_go()
    guard.process.wait(30)
