"""Who is measured: dagster-celery with Celery, this project, and Dagster's own executors."""

import json
import os
import re
import select
import signal
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.storage import POSTGRES

#: The directory whose modules both sides import, and nothing else of the checkout.
BOTH = Path(__file__).parent / "both"
ROOT = Path(__file__).parent.parent
#: The virtual environments, as `make bench` makes them.
ORIGINAL_VENV = ROOT / ".venv-original"
OUR_VENV = ROOT / ".venv-bench"

#: Where work may wait.
EMBEDDED, REDIS, RABBITMQ = PLACES = ("embedded", "redis", "rabbitmq")
#: Slots of a worker, and processes at once of Dagster's multiprocess executor.
SLOTS = 2

#: Jobs that stand in a file of their own.
HEAVY_JOBS = frozenset({"diamond", "dynamic", "fan_200", "fan_2000"})

#: How long one order to a driver may take, in seconds.
PATIENCE_SECONDS = 900.0
#: How long processes may take to end by themselves, in seconds.
LEAVE_SECONDS = 5.0
#: A line of Python's option ``-X importtime``, with microseconds.
_IMPORT = re.compile(r"import time: +(?P<own>\d+) \| +\d+ \| *(?P<name>\S+)$")
#: How much of a log is shown where something failed, in lines.
LOG_LINES = 30

#: What the environment of whoever runs this may say of brokers, and must not say here.
FOREIGN = ("CELERY_", "DAGSTER_", "PYTHON", "VIRTUAL_ENV")


class BenchmarkError(Exception):
    """A run failed, or a process did not do what it should; the text has the ends of the logs."""


@dataclass(frozen=True, eq=False)
class Contender:
    """One way to run a job.

    Dagster's own executors have no place, and no worker.
    """

    who: str
    place: str
    venv: Path
    #: What the modules of its jobs are called before ``jobs``.
    prefix: str
    #: Config of its executor.
    executor: Mapping[str, Any]
    #: The launcher of its ``dagster.yaml``: module, class and config.
    launcher: Mapping[str, Any] | None = None
    #: What its place is called, if not by its name.
    shown: str = ""

    def __str__(self) -> str:
        return f"{self.who} ({self.shown or self.place})" if self.place else self.who

    def module(self, job: str) -> str:
        return f"{'heavy_' if job in HEAVY_JOBS else ''}{self.prefix}jobs"

    def run_config(self, ops: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return {"execution": {"config": dict(self.executor)}, "ops": dict(ops or {})}

    def worker_command(self, config: Path, slots: int) -> list[str]:
        scripts = self.venv / "bin"
        if self.place == EMBEDDED:
            return [str(scripts / "dagster-taskiq"), "worker", "start", "-c", str(slots)]
        command = [str(scripts / "dagster-celery"), "worker", "start", "-A", "dagster_celery.app"]
        return [*command, "-y", str(config), "--", "--concurrency", str(slots)]


def place_name(place: str, storage: str) -> str:
    """Return what a place is called: the default broker is a file, or Dagster's own database."""
    return "dagster-storage" if place == EMBEDDED and storage == POSTGRES else place


def on_a_server(who: str, venv: Path, place: str, url: str) -> Contender:
    """Return a side that is used as dagster-celery is, with a server as its broker."""
    urls = {"broker": url, "backend": url if place == REDIS else "rpc://"}
    launcher = {"module": "dagster_celery.launcher", "class": "CeleryRunLauncher", "config": urls}
    return Contender(who, place, venv, "", urls, launcher)


def original(place: str, url: str) -> Contender:
    return on_a_server("original", ORIGINAL_VENV, place, url)


def ours(place: str, url: str, storage: str) -> Contender:
    """Return this project: by the older names on a server, by its own if no broker is named."""
    if place == EMBEDDED:
        launcher = {"module": "dagster_taskiq", "class": "TaskiqRunLauncher", "config": {}}
        shown = place_name(EMBEDDED, storage)
        return Contender("ours", EMBEDDED, OUR_VENV, "taskiq_", {}, launcher, shown)
    return on_a_server("ours", OUR_VENV, place, url)


IN_PROCESS = Contender("in process", "", OUR_VENV, "plain_", {"in_process": {}})
MULTIPROCESS = Contender(
    "multiprocess", "", OUR_VENV, "plain_", {"multiprocess": {"max_concurrent": SLOTS}}
)


class Program:
    """A process that was started for the benchmarks, and whatever it has started itself."""

    def __init__(
        self, command: list[str], log: Path, environment: Mapping[str, str], **popen: Any
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            # In a session of its own: Ctrl-C is for whoever holds this, who then ends it.
            self.process = subprocess.Popen(
                command,
                stderr=output,
                cwd=BOTH,
                env=dict(environment),
                start_new_session=True,
                **{"stdout": output, "stdin": subprocess.DEVNULL, **popen},
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def processes(self) -> list[psutil.Process]:
        """Return it, its descendants, and what else is in its session."""
        found: dict[int, psutil.Process] = {}
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.pid)
            found = {each.pid: each for each in (root, *root.children(recursive=True))}
        for each in psutil.process_iter():
            with suppress(OSError):
                if os.getsid(each.pid) == self.pid:
                    found[each.pid] = each
        return list(found.values())

    def cpu_seconds(self) -> float:
        """Return the CPU time of all its processes, with those that have ended and been reaped."""
        total = 0.0
        for each in self.processes():
            with suppress(psutil.NoSuchProcess):
                total += sum(each.cpu_times()[:4])
        return total

    def memory_bytes(self) -> int:
        """Return what its processes hold; what several share counts once.

        Where the system does not tell shares (macOS), what is shared does not count at all.
        """
        total = 0
        for each in self.processes():
            with suppress(psutil.NoSuchProcess):
                memory = each.memory_full_info()
                total += getattr(memory, "pss", None) or memory.uss
        return total

    def end(self) -> None:
        """Leave nothing of it running."""
        left = self.processes()
        with suppress(ProcessLookupError):
            # The command of the original does not pass a signal on to the Celery it has started.
            os.killpg(self.pid, signal.SIGTERM)
        _, stuck = psutil.wait_procs(left, LEAVE_SECONDS)
        for each in {*stuck, *self.processes()}:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        self.process.wait()

    def end_of_log(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return "\n".join([f"The last lines of {self.log.name}:", *(f"  {line}" for line in lines)])


class Driver(Program):
    """A process of ``both/driver.py``, which does what it is asked for."""

    def __init__(self, python: Path, log: Path, environment: Mapping[str, str]) -> None:
        command = [str(python), str(BOTH / "driver.py")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        super().__init__(command, log, environment, **pipes)

    def ask(self, order: str, **arguments: Any) -> Any:
        """Give an order, and return the answer to it.

        Raises:
            BenchmarkError: it fails, or takes too long.
        """
        self.order(order, **arguments)
        return self.answer()

    def order(self, order: str, **arguments: Any) -> None:
        """Give an order; :meth:`answer` has to be called before the next one."""
        orders = self.process.stdin
        assert orders is not None
        with suppress(BrokenPipeError):  # there will be no answer, and that is told
            orders.write(json.dumps({"do": order, **arguments}) + "\n")
            orders.flush()

    def answer(self) -> Any:
        """Return the answer to the last order.

        Raises:
            BenchmarkError: the order failed, or takes too long.
        """
        answers = self.process.stdout
        assert answers is not None
        ready, _, _ = select.select([answers], [], [], PATIENCE_SECONDS)
        line = answers.readline() if ready else ""
        answer = json.loads(line) if line else {"error": "there is no answer"}
        if "error" in answer:
            raise BenchmarkError(f"{answer['error']}\n{self.end_of_log()}")
        return answer["answer"]


class Fleet:
    """A contender at work: a Dagster home, a driver, and workers once they are started."""

    def __init__(self, contender: Contender, directory: Path, database: str | None) -> None:
        """Make an instance, and start the driver.

        Args:
            contender: whose it is.
            directory: an empty one, for the instance and the logs.
            database: the URL of a PostgreSQL database for Dagster's storage; ``None`` for SQLite.
        """
        self.contender = contender
        self.directory = directory
        self.database = database
        self.workers: list[Program] = []
        self._fresh = count()
        home = directory / "home"
        home.mkdir()
        document: dict[str, Any] = {"telemetry": {"enabled": False}}
        if database is not None:
            document["storage"] = {"postgres": {"postgres_url": database}}
        if contender.launcher is not None:
            document["run_launcher"] = _plain(contender.launcher)
        (home / "dagster.yaml").write_text(yaml.safe_dump(document))
        self._config = directory / "worker.yaml"
        self._config.write_text(
            yaml.safe_dump({"execution": {"config": _plain(contender.executor)}})
        )
        scripts = contender.venv / "bin"
        mine = {name: each for name, each in os.environ.items() if not name.startswith(FOREIGN)}
        self._environment = {
            **mine,
            "DAGSTER_HOME": str(home),
            "PYTHONPATH": str(BOTH),
            "PATH": os.pathsep.join((str(scripts), os.environ.get("PATH", ""))),
        }
        self.driver = Driver(scripts / "python", directory / "driver.log", self._environment)

    @property
    def worker(self) -> Program | None:
        """The worker, of a fleet that has one."""
        return self.workers[0] if self.workers else None

    def start_worker(self, slots: int = SLOTS) -> None:
        command = self.contender.worker_command(self._config, slots)
        log = self.directory / f"worker-{len(self.workers)}.log"
        self.workers.append(Program(command, log, self._environment))

    def start(self, command: str, arguments: list[str], name: str) -> Program:
        """Start a command of ``dagster-taskiq`` in the fleet's environment; its caller ends it."""
        program = str(self.contender.venv / "bin" / "dagster-taskiq")
        log = self.directory / f"{name}.log"
        return Program([program, command, *arguments], log, self._environment)

    def run(self, job: str, ops: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Execute a run with its loop in the driver; return what the driver tells of it.

        Raises:
            BenchmarkError: it fails.
        """
        module, config = self.contender.module(job), self.contender.run_config(ops)
        done: dict[str, Any] = self.driver.ask("execute", module=module, job=job, config=config)
        self.check(done["run_id"], done["success"])
        return done

    def run_fresh(self, job: str, profiled: bool = False) -> dict[str, Any]:
        """Execute a run with its loop in a new process, which has imported the job alone.

        Args:
            job: the name of the job.
            profiled: whether that process tells what it imports, which slows it down.

        Returns:
            What the process tells of the run; ``imports`` is what each module took, in seconds,
            without what it has imported itself.

        Raises:
            BenchmarkError: it fails.
        """
        log = self.directory / f"fresh-{next(self._fresh)}.log"
        environment = dict(self._environment)
        if profiled:
            environment["PYTHONPROFILEIMPORTTIME"] = "1"
        module, config = self.contender.module(job), self.contender.run_config()
        # If this process dies, it ends by itself, since nothing is asked of it any more.
        driver = Driver(self.contender.venv / "bin" / "python", log, environment)
        try:
            driver.ask("import_jobs", module=module)
            done: dict[str, Any] = driver.ask("execute", module=module, job=job, config=config)
        finally:
            driver.end()
        self.check(done["run_id"], done["success"])
        lines = map(_IMPORT.match, log.read_text(errors="replace").splitlines())
        imports = {line["name"]: int(line["own"]) / 1e6 for line in lines if line is not None}
        return {**done, "imports": imports}

    def check(self, run_id: str, success: bool) -> None:
        """Raise an error with all that is known of a run, unless it succeeded."""
        if not success:
            said = self.driver.ask("errors", run_id=run_id)
            raise BenchmarkError(f"A run of {self.contender} failed.\n{said}\n{self.logs()}")

    def logs(self) -> str:
        return "\n".join(each.end_of_log() for each in (self.driver, *self.workers))

    def end(self) -> None:
        with ExitStack() as stack:
            for program in (self.driver, *self.workers):
                stack.callback(program.end)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy that YAML writes without references between its parts."""
    copy: dict[str, Any] = json.loads(json.dumps(dict(config)))
    return copy
