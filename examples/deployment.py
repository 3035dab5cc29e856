"""A project of this directory, run on this machine by its own files, without container.

Its services are started by the very commands of its compose files, with the environment that stands
there, and runs are launched by ``dagster job launch``. Each file is a host, with a Dagster home of
its own. Servers, which have images of others, are not started: where a project is to use one, its
URL is in the environment that is given here. Without, the broker is that of a Dagster home in which
none is named: the embedded one, which is a file, or the database of the storage.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml
from dagster import DagsterInstance, DagsterRun

from dagster_taskiq.client import client_for
from dagster_taskiq.settings.embedded import EMBEDDED_URL
from dagster_taskiq.settings.env import BACKEND_ENV, BROKER_ENV
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.wire.records import Worker

HERE = Path(__file__).parent
#: The project as users of dagster-celery have it. The URLs in its files say RabbitMQ; these two
#: variables are stronger than files, as they are with Celery.
UNTOUCHED = HERE / "celery_project"
UNTOUCHED_ENVIRONMENT = {"CELERY_BROKER_URL": EMBEDDED_URL, "CELERY_RESULT_BACKEND": "rpc://"}
#: The same project with every name replaced.
RENAMED = HERE / "renamed_project"
RENAMED_ENVIRONMENT = {"BROKER_URL": EMBEDDED_URL}
#: Projects for several hosts: one with its queues in the PostgreSQL of Dagster's storage, one with
#: them on a Redis.
POSTGRESQL_ONLY = HERE / "postgresql_only"
REDIS_FLEET = HERE / "redis_fleet"

#: Variables of whoever runs this, which would name another broker.
OTHERS = frozenset({BROKER_ENV, BACKEND_ENV})

#: Shows the warnings about older names, and changes nothing for others. Python reads this before
#: installed packages can be imported, and so the category goes by the start of its messages.
SHOW_WARNINGS = "default:dagster-celery:DeprecationWarning"
#: How Python prints such a warning: file, line, category, text. Dagster's commands log it, with a
#: time and more before it, and in colours.
_PRINTED = re.compile(
    r"^(?:.* - WARNING - )?(\S.*?):(\d+): \w*DeprecationWarning: dagster-celery: (.+)$",
    re.MULTILINE,
)
_COLOUR = re.compile(r"\x1b\[[\d;]*m")

#: How long all that is waited for may take, in seconds, on a machine that has other things to do.
PATIENCE_SECONDS = 120.0
#: How long a worker may take to leave before it is killed, in seconds.
LEAVE_SECONDS = 20.0
#: How often things that are waited for are looked at, in seconds.
LOOK_SECONDS = 0.1
#: How much of a log is shown when its process did not do what it should, in lines.
LOG_LINES = 30


class DeploymentError(Exception):
    """Something did not come up, did not end, or ended badly; the text has the end of its log."""


@dataclass(frozen=True, order=True)
class OlderName:
    """A place that calls something by its older name, as a warning says it."""

    file: str
    line: int
    #: What it is, and what to write instead.
    text: str


@dataclass(frozen=True)
class Service:
    """A service of a compose file that runs the project's image."""

    name: str
    #: The host of its file: what stands between the dots of ``compose.HOST.yaml``.
    host: str
    command: str
    environment: Mapping[str, str]
    #: What it waits for, and until what is true of that.
    depends_on: Mapping[str, str]
    #: The command that says whether it is healthy.
    healthcheck: str
    stop_signal: signal.Signals

    @property
    def is_worker(self) -> bool:
        """Whether it executes runs and steps."""
        return " worker start " in self.command


def services_of(project: Path) -> list[Service]:
    """Return the services of all compose files of a project, each after those that it waits for.

    The files are in the order of their names: that of the control host before those of workers.
    """
    ordered: dict[str, Service] = {}
    for file in sorted(project.glob("*compose*.yaml")):
        found = {each.name: each for each in _services_in(file)}
        while found:
            ready = [each for each in found.values() if set(each.depends_on) <= set(ordered)]
            ordered.update((each.name, found.pop(each.name)) for each in ready)
    return list(ordered.values())


def _services_in(file: Path) -> Iterator[Service]:
    declared = yaml.safe_load(file.read_text())["services"]
    ours = {name: each for name, each in declared.items() if "build" in each}
    for name, each in ours.items():
        conditions = (each.get("depends_on") or {}).items()
        yield Service(
            name,
            file.name.removesuffix(".yaml").rpartition(".")[2],
            " ".join(each["command"].split()),
            each.get("environment") or {},
            {other: how["condition"] for other, how in conditions if other in ours},
            each.get("healthcheck", {}).get("test", ""),
            signal.Signals[each.get("stop_signal", "SIGTERM")],
        )


class Deployment:
    """The services of a project, and the runs that are launched onto its workers."""

    def __init__(
        self,
        project: Path,
        directory: Path,
        environment: Mapping[str, str],
        look: Callable[[], None] = lambda: None,
        values: Mapping[str, str] | None = None,
    ) -> None:
        """Make Dagster's homes with the project's own ``dagster.yaml``; nothing is started yet.

        Args:
            project: the directory of the project.
            directory: an empty one, for Dagster's homes, the reports, and all logs.
            environment: what is set beside the environment of the compose file.
            look: called again and again while something is waited for; it may raise.
            values: what is replaced in commands, and by what: ports that are taken here.
        """
        self.project = project
        self._look = look
        self.directory = directory
        self.reports = directory / "reports"
        self._values = dict(values or {})
        self.services = {each.name: each for each in services_of(project)}
        hosts = {each.host for each in self.services.values()}
        self._homes = {host: directory / f"home-{host}" for host in hosts}
        for home in self._homes.values():
            home.mkdir()
            shutil.copy(project / "dagster.yaml", home)
        workers = [each for each in self.services.values() if each.is_worker]
        self._home = self._homes[workers[0].host]
        #: The command of each worker, by the name of its service.
        self.commands: dict[str, str] = {each.name: each.command for each in workers}
        mine = {name: each for name, each in os.environ.items() if name not in OTHERS}
        scripts = sysconfig.get_path("scripts")
        # As installed: the modules of a project are in its directory, or in src.
        modules = (str(project / "src"), environment.get("PYTHONPATH", ""))
        self.environment = {
            **mine,
            **workers[0].environment,
            "DAGSTER_HOME": str(self._home),
            "REPORT_DIR": str(self.reports),
            "PATH": os.pathsep.join((scripts, os.environ.get("PATH", ""))),
            "PYTHONWARNINGS": SHOW_WARNINGS,
            **environment,
            "PYTHONPATH": os.pathsep.join(filter(None, modules)),
        }
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        #: Those of them that have been told to end.
        self._told: set[str] = set()

    def instance(self) -> DagsterInstance:
        """Return the project's Dagster instance, to look at its runs."""
        return DagsterInstance.from_config(str(self._home))

    def workers(self) -> list[Worker]:
        """Return the workers that are alive."""
        broker = self.environment.get(BROKER_ENV)
        settings = Settings.from_dict({"broker": broker} if broker else {})
        settings = settings.resolved(str(self._home))
        return [each for each in client_for(settings).workers() if not each.is_lost]

    def start_workers(self) -> None:
        """Start every worker, and wait until all of them are there.

        Raises:
            DeploymentError: one does not come up.
        """
        for name, command in self.commands.items():
            self._start(name, command)
        self._wait_for("workers", lambda: len(self.workers()) == len(self.commands))

    def start(self) -> None:
        """Start all services, each when those that it depends on are as it says.

        Raises:
            DeploymentError: one does not come up, or does not become healthy.
        """
        for service in self.services.values():
            for other, condition in service.depends_on.items():
                if condition == "service_healthy":
                    self._wait_for(f"{other} to be healthy", partial(self.is_healthy, other))
                elif condition == "service_completed_successfully" and other in self._running:
                    self._wait_for_exit(other)
            self._start(service.name, service.command)
        for name, service in self.services.items():
            if service.healthcheck:
                self._wait_for(f"{name} to be healthy", partial(self.is_healthy, name))

    def is_healthy(self, name: str) -> bool:
        """Return what the healthcheck of a service says."""
        service = self.services[name]
        done = subprocess.run(
            ["sh", "-c", self._own(service.healthcheck)],
            check=False,
            capture_output=True,
            cwd=self.directory,
            env=self._environment(service),
        )
        return done.returncode == 0

    def launch(self, runs: Mapping[str, str], module: str = "") -> None:
        """Launch runs onto the workers, side by side.

        Args:
            runs: the id of each, by the name of its job.
            module: where the jobs are. Default: where the project's own are.

        Raises:
            DeploymentError: one cannot be launched.
        """
        target = f" -m {module}" if module else ""
        for job, run_id in runs.items():
            self._start(job, f"dagster job launch --job {job} --run-id {run_id}{target}")
        for job in runs:
            self._wait_for_exit(job)

    def wait_for_end(self, instance: DagsterInstance, run_id: str) -> DagsterRun:
        """Wait until a run has ended, and return it.

        Raises:
            DeploymentError: a worker has gone, or it takes too long.
        """
        self._wait_for(f"run {run_id}", lambda: _run(instance, run_id).is_finished)
        return _run(instance, run_id)

    def stop(self, at_once: bool = False) -> None:
        """End all that was started and wait for it, by force where that takes too long.

        Args:
            at_once: stop what runs, instead of letting it finish.

        Raises:
            DeploymentError: a worker had to be killed, or did not leave with exit code 0.
        """
        for name in self.commands:
            self._tell(name, at_once)
        left = {name: self._wait_to_leave(name) for name in self.commands}
        # What others depend on ends after them, as with compose.
        for name in reversed(list(self._running)):
            self._tell(name, at_once)
            left[name] = self._wait_to_leave(name)
        for name, code in left.items():
            if code and not at_once:
                raise DeploymentError(f"{name} ended with {code}.\n{self._end_of_log(name)}")

    def send_stop(self, name: str, times: int = 1) -> None:
        """Tell a process to end, as compose does; told a second time, a worker stops what it runs.

        Args:
            name: the service, or the job that is being launched.
            times: how often.
        """
        process = self._running.get(name)
        service = self.services.get(name)
        self._told.add(name)
        for _ in range(times if process else 0):
            # Dagster's own command tidies up after Ctrl-C alone.
            process.send_signal(service.stop_signal if service else signal.SIGINT)

    def _tell(self, name: str, at_once: bool) -> None:
        """Tell a process to end, once: one told before may be about to exit."""
        if at_once or name not in self._told:
            self.send_stop(name, 1 + at_once)

    def _wait_to_leave(self, name: str) -> int:
        """Wait until a process that was told to end has gone; return its code."""
        process = self._running.pop(name, None)
        return _leave(process) if process else 0

    def older_names(self) -> list[OlderName]:
        """Return what all processes so far have been warned of, each place once, in order."""
        found = {
            OlderName(self._shown(file), int(line), text)
            for log in self.directory.glob("*.log")
            for file, line, text in _PRINTED.findall(_COLOUR.sub("", _text_of(log)))
        }
        return sorted(found)

    def _shown(self, file: str) -> str:
        """Return a path as the project's author knows it."""
        for root in (self.project, *self._homes.values()):
            with suppress(ValueError):
                return str(Path(file).relative_to(root))
        return file

    def _start(self, name: str, command: str) -> None:
        self._told.discard(name)
        with self._log(name).open("ab") as log:
            # In a session of its own: Ctrl-C is for whoever holds this, who then ends it.
            self._running[name] = subprocess.Popen(
                shlex.split(self._own(command)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.project,
                env=self._environment(self.services.get(name)),
                start_new_session=True,
            )

    def _environment(self, service: Service | None) -> dict[str, str]:
        home = self._home if service is None else self._homes[service.host]
        return {**self.environment, "DAGSTER_HOME": str(home)}

    def _own(self, command: str) -> str:
        for theirs, mine in self._values.items():
            command = command.replace(theirs, mine)
        return command

    def _wait_for(self, what: str, is_so: Callable[[], bool]) -> None:
        """Wait for something as long as all workers are there."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not is_so():
            self._look()
            for name in self.commands:
                if name in self._running and self._running[name].poll() is not None:
                    raise DeploymentError(f"{name} has ended.\n{self._end_of_log(name)}")
            if time.monotonic() > deadline:
                logs = "\n".join(map(self._end_of_log, self._running))
                raise DeploymentError(f"Waited {PATIENCE_SECONDS:.0f} s for {what}.\n{logs}")
            time.sleep(LOOK_SECONDS)

    def _wait_for_exit(self, name: str) -> None:
        process = self._running[name]
        self._wait_for(name, lambda: process.poll() is not None)
        del self._running[name]
        if _leave(process) != 0:
            raise DeploymentError(f"{name} was not launched.\n{self._end_of_log(name)}")

    def _log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def _end_of_log(self, name: str) -> str:
        lines = _text_of(self._log(name)).splitlines()[-LOG_LINES:]
        return "\n".join([f"The last lines of {name}.log:", *(f"  {line}" for line in lines)])


def _text_of(log: Path) -> str:
    return log.read_text(errors="replace")


def _run(instance: DagsterInstance, run_id: str) -> DagsterRun:
    run = instance.get_run_by_id(run_id)
    if run is None:
        raise DeploymentError(f"There is no run {run_id}.")
    return run


def _leave(process: "subprocess.Popen[bytes]") -> int:
    """Wait until a process that was told to end has gone, and what it started; return its code."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(LEAVE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()
