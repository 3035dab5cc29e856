"""A password is nowhere but where its owner has written it: not in ``ps``, logs, events, files.

A worker in the background, a launched run and one that is executed beside it, a step that fails,
commands, and an outage in the middle, so that everyone has something to complain of; then whatever
they have written anywhere is searched.
"""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import psutil
import pytest
import yaml
from dagster import DagsterInstance, DagsterRunStatus, reconstructable
from dagster._core.launcher import LaunchRunContext
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import serialize_value

from compat_tests.checkout import ROOT
from compat_tests.executor.runs import Outcome
from compat_tests.executor.scratch import SCRATCH_TAG, Scratch
from compat_tests.proxy import Proxy, proxy_to
from compat_tests.security import secret_jobs
from compat_tests.servers import own_rabbit, own_redis
from compat_tests.waiting import eventually

#: What is in no other text on this machine, and its place in a password that has to be encoded.
MARK = f"Zq7hushX{os.getpid()}w"
PASSWORD = f"p@{MARK}/:?#%"


@dataclass
class Place:
    """A server behind a door that can be shut, and how it is configured."""

    proxy: Proxy
    #: The process of the server itself, whose command line is its owner's business.
    server: int
    #: Where the server keeps what it is sent.
    kept: Path
    #: What stands in the environment of everybody.
    environment: dict[str, str]
    #: The fields of executor, launcher and worker.
    config: dict[str, Any]


@contextmanager
def a_redis(_directory: Path) -> Iterator[Place]:
    """Yield one whose password is in the URL of the broker and in the options of the backend."""
    with own_redis("--requirepass", PASSWORD) as server, proxy_to(server.port) as proxy:
        assert server.process is not None
        here = f"127.0.0.1:{proxy.port}/0"
        yield Place(
            proxy,
            server.process.pid,
            server.directory,
            {
                "SECRET_BROKER": f"redis://:{quote(PASSWORD, safe='')}@{here}",
                "SECRET_BACKEND": f"redis://{here}",
                "SECRET_WORD": PASSWORD,
            },
            {"backend_options": {"password": {"env": "SECRET_WORD"}}},
        )


@contextmanager
def a_rabbit(directory: Path) -> Iterator[Place]:
    """Yield one whose password is in both URLs."""
    path = directory / "definitions.json"
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    content = {
        "users": [{"name": "user", "password": PASSWORD, "tags": ""}],
        "vhosts": [{"name": "/"}],
        "permissions": [{"user": "user", "vhost": "/", **everything}],
    }
    path.write_text(json.dumps(content))
    with own_rabbit(f'{{load_definitions, "{path}"}}') as server, proxy_to(server.port) as proxy:
        assert server.process is not None
        url = f"amqp://user:{quote(PASSWORD, safe='')}@127.0.0.1:{proxy.port}/"
        environment = {"SECRET_BROKER": url, "SECRET_BACKEND": url}
        yield Place(proxy, server.process.pid, server.directory, environment, {})


SERVERS = {"redis": a_redis, "rabbitmq": a_rabbit}


class Deployment:
    """A home, a directory for temporary files, and whatever was said by whom."""

    def __init__(
        self, place: Place, directory: Path, temporary: Path, environment: Mapping[str, str]
    ) -> None:
        self.place = place
        self.directory = directory
        self.home = directory / "home"
        self.temporary = temporary
        self.said = directory / "said"
        for each in (self.home, self.said):
            each.mkdir()
        self.environment = {
            **environment,
            **place.environment,
            "DAGSTER_HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "PYTHONPATH": str(ROOT),
        }
        self.config = {
            "broker": {"env": "SECRET_BROKER"},
            "backend": {"env": "SECRET_BACKEND"},
            "heartbeat_interval": 0.5,
            # Longer than the outage, however slow the commands are in it.
            "lease": 120.0,
            **place.config,
        }
        launcher = {"module": "dagster_taskiq", "class": "TaskiqRunLauncher", "config": self.config}
        document = {"telemetry": {"enabled": False}, "run_launcher": launcher}
        (self.home / "dagster.yaml").write_text(yaml.safe_dump(document))
        self.worker_yaml = directory / "home" / "worker.yaml"
        self.worker_yaml.write_text(yaml.safe_dump(self.config))
        self._commands = 0

    def start(self, *command: str) -> "subprocess.Popen[bytes]":
        self._commands += 1
        with (self.said / f"{self._commands}.log").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=ROOT,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def run(self, *command: str) -> int:
        return self.start(*command).wait(120)

    def output(self) -> str:
        """Return what all have said by now, the worker in its log among them."""
        files = [*self.said.iterdir(), *self.home.glob("dagster_taskiq/logs/*")]
        return "".join(file.read_text(errors="replace") for file in files)

    def create(self, instance: DagsterInstance, scratch: Scratch, **config: Any) -> Outcome:
        recon = reconstructable(secret_jobs.held_and_failing)
        run = instance.create_run_for_job(
            recon.get_definition(),
            run_config={"execution": {"config": config}},
            tags={SCRATCH_TAG: str(scratch.directory)},
            job_code_origin=recon.get_python_origin(),
        )
        return Outcome(instance, run.run_id, scratch)


@pytest.mark.timeout(420)
@pytest.mark.parametrize("kind", SERVERS)
def test_a_password_is_nowhere(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "server").mkdir()
    notes = [Scratch(tmp_path / name) for name in ("launched", "executed")]
    for each in notes:
        each.directory.mkdir()
    # Sockets lie in it, whose paths may not be long.
    with TemporaryDirectory() as temporary, SERVERS[kind](tmp_path / "server") as place:
        deployment = Deployment(place, tmp_path, Path(temporary), os.environ)
        for name, value in deployment.environment.items():
            monkeypatch.setenv(name, value)
        # The file says where the secrets are; the command line has them once, in the open.
        given = ["-y", str(deployment.worker_yaml), "-b", place.environment["SECRET_BROKER"]]
        given += ["--backend", place.environment["SECRET_BACKEND"]]
        background = ["-d", "-n", "w", "-c", "3", "-l", "debug"]
        worker = ("dagster_taskiq", "worker", "start", *given, *background)
        assert deployment.run(*worker) == 0, deployment.output()
        try:
            with DagsterInstance.get() as instance:
                outcomes = all_of_it(deployment, instance, notes)
                for outcome in outcomes:
                    assert outcome.status is DagsterRunStatus.FAILURE
                    assert outcome.failed == {"fails"}
                    assert outcome.succeeded == {"is_held"}
                    told = [
                        *map(serialize_value, instance.all_logs(outcome.run_id)),
                        serialize_value(outcome.run),
                    ]
                    assert [text for text in told if MARK in text] == []
        finally:
            place.proxy.accept()
            listed = ("-y", str(deployment.worker_yaml))
            assert deployment.run("dagster_taskiq", "worker", "terminate", "--all", *listed) == 0
        said = deployment.output()
        assert "***" in said, "nobody has named the server, so nothing could have been shown"
        assert MARK not in said
        written = (deployment.home, deployment.temporary, deployment.said)
        # Messages among it: what dagster.yaml reads from the environment goes with none of them.
        assert files_with_the_mark(*written, place.kept) == []


def all_of_it(
    deployment: Deployment, instance: DagsterInstance, notes: list[Scratch]
) -> list[Outcome]:
    """Launch a run and execute another, shut the door while both are under way, open it again."""
    launched = deployment.create(instance, notes[0])
    instance.run_launcher.launch_run(LaunchRunContext(launched.run, workspace=None))
    notes[0].wait_for("is_held")
    executed = deployment.create(instance, notes[1], **deployment.config)
    origin = executed.run.job_code_origin
    assert origin is not None
    args = ExecuteRunArgs(origin, executed.run_id, instance.get_ref())
    process = deployment.start("dagster", "api", "execute_run", serialize_value(args))
    notes[1].wait_for("is_held")
    options = ("-y", str(deployment.worker_yaml))
    for command in (("worker", "list"), ("status", "--json")):
        assert deployment.run("dagster_taskiq", *command, *options) == 0
    assert processes_with_the_mark(deployment.place.server) == []
    deployment.place.proxy.refuse()
    eventually(lambda: "does not answer" in deployment.output(), "the worker misses its server")
    assert deployment.run("dagster_taskiq", "status", *options) == 2
    assert not instance.run_launcher.terminate(launched.run_id)
    assert processes_with_the_mark(deployment.place.server) == []
    deployment.place.proxy.accept()
    eventually(lambda: "answers again" in deployment.output(), "the worker has its server again")
    for each in notes:
        each.note("release")
    process.wait(120)
    eventually(lambda: launched.run.is_finished, "the launched run ends", 120)
    return [launched, executed]


def processes_with_the_mark(but: int) -> list[list[str]]:
    """Return the command lines that everyone on this machine can read it in."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if process.pid != but and any(MARK in word for word in words):
            found.append(words)
    return found


def files_with_the_mark(*directories: Path) -> list[str]:
    """Return the files that it is in, each with its mode."""
    return [
        f"{path} {stat.S_IMODE(path.stat().st_mode):o}"
        for directory in directories
        for path in sorted(directory.rglob("*"))
        if path.is_file() and MARK.encode() in path.read_bytes()
    ]
