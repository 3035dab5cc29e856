"""``dagster-taskiq demo --ui``: Dagster's webserver and daemon, a worker, and the run launcher.

All of it is one user's: everything listens on this machine alone, lives in one directory, and ends
with the command.
"""

import json
import os
import shlex
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http.client import HTTPException
from typing import Any

import click
import yaml
from dagster import DagsterInstance
from dagster._core.errors import DagsterUserCodeUnreachableError

from dagster_taskiq.client import client_for
from dagster_taskiq.demo.home import (
    LOOK_SECONDS,
    MODULE,
    SLOTS,
    DemoHome,
    DemoProcess,
    demo_home,
    end_signals,
    is_installed,
    start_worker,
    typed,
    worker_beats,
)
from dagster_taskiq.demo.progress import show_line, showing
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.env import BROKER_ENV
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.settings.urls import redact

HOST = "127.0.0.1"
#: What Dagster calls the place that the example project is loaded from.
LOCATION = "example"
#: The job that is launched, so that there is something to see.
JOB = "ship_parcels"
#: The job with time to press "Terminate".
LONG_JOB = "count_stock"

#: How long the worker may take to finish what it runs before that is stopped, in seconds. The jobs
#: of the example project take some seconds each.
DRAIN_SECONDS = 60.0
#: How long a process may take to end otherwise, before it is killed, in seconds; more than the
#: grace that the demo's worker has for what it stops.
STOP_SECONDS = 15.0
#: Within what time the webserver must answer a question, in seconds.
ANSWER_SECONDS = 30.0

#: The ``dagster.yaml``: what a user writes there to launch runs onto workers, with polls that are
#: short enough to watch.
DAGSTER_YAML = {
    "run_coordinator": {
        "module": "dagster.core.run_coordinator",
        "class": "QueuedRunCoordinator",
        "config": {"dequeue_interval_seconds": 1},
    },
    "run_monitoring": {
        "enabled": True,
        "poll_interval_seconds": 5,
        "max_resume_run_attempts": 2,
        "start_timeout_seconds": 180,
    },
}

_LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on Error { message }
  }
}
"""
_DAEMONS = "{ instance { daemonHealth { allDaemonStatuses { required healthy } } } }"


class _Interrupted(Exception):
    """The demo is to end."""


class _Interrupts:
    """Counts the signals to end the demo, and interrupts nothing.

    They are checked between two steps, so that every process that was started is known.
    """

    def __init__(self) -> None:
        self.count = 0
        for number in end_signals():
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        del number, frame
        self.count += 1

    def check(self) -> None:
        """Check that none has come.

        Raises:
            _Interrupted: one has.
        """
        if self.count:
            raise _Interrupted


def run_ui(broker: str, backend: str | None, port: int, keep: bool) -> None:
    """Start everything, launch a run, and stay until a signal comes or a process ends.

    Args:
        broker: URL of the broker.
        backend: URL of the backend; ``None`` as for a demo without the UI.
        port: the webserver's, unless it is taken.
        keep: leave the directory there.

    Raises:
        ConfigError: there is no webserver to start.
        click.ClickException: something did not come up, or ended early.
        SystemExit: a signal came before everything was up.
    """
    if not is_installed("dagster_webserver"):
        raise ConfigError(
            "The UI is Dagster's webserver, which is not installed here: "
            "pip install 'dagster-taskiq[ui]'"
        )
    interrupts = _Interrupts()
    is_up = False
    with demo_home(broker, backend, keep) as home:
        processes: list[DemoProcess] = []
        try:
            _start(home, port, processes, interrupts)
            is_up = True
            _stay(processes, interrupts)
        except _Interrupted:
            _stop(processes, lambda: interrupts.count > 1)
        finally:
            _stop(processes, lambda: interrupts.count > 0)
    show_line("Stopped.")
    if not is_up:
        sys.exit(130)


def _start(
    home: DemoHome, port: int, processes: list[DemoProcess], interrupts: _Interrupts
) -> None:
    """Start everything, and show what there is to see.

    Args:
        home: the Dagster home.
        port: the webserver's, unless it is taken.
        processes: to which what is started is added, in the order in which it is to be stopped.
        interrupts: ends the waiting.

    Raises:
        _Interrupted: a signal has come.
        click.ClickException: something did not come up.
    """

    def look() -> None:
        interrupts.check()
        for process in processes:
            process.check()

    launcher = {"module": "dagster_taskiq", "class": "TaskiqRunLauncher"}
    config = {"broker": {"env": BROKER_ENV}, **home.config}
    home.configure({"run_launcher": {**launcher, "config": config}, **DAGSTER_YAML})
    # Calls to this machine do not go through the proxy that the environment may name.
    os.environ["no_grpc_proxy"] = f"{HOST},localhost"  # noqa: SIM112 - gRPC's own spelling
    client = client_for(Settings.from_dict(home.config).resolved())
    show_line(f"Example project {MODULE} on {redact(home.broker)}\n")
    # Made by one process, before several of them do it at the same time.
    with (
        showing("Making Dagster's storage, in a temporary directory"),
        DagsterInstance.get() as instance,
    ):
        _make_tables(instance)
    worker = start_worker(home)
    processes.append(worker)
    # One for webserver and daemon, which would start one each.
    code_port = _free_port()
    address_options = ["--host", HOST, "--port", str(code_port), "--location-name", LOCATION]
    arguments = ["dagster", "api", "grpc", "-m", MODULE, *address_options]
    code_server = DemoProcess(home, "code server", arguments)
    processes.append(code_server)
    with showing(f"Starting a worker with {SLOTS} slots, and a code server"):
        code_server.wait_until(lambda: _serves_code(code_port), look)
    workspace = home.path / "workspace.yaml"
    address = {"host": HOST, "port": code_port, "location_name": LOCATION}
    workspace.write_text(yaml.safe_dump({"load_from": [{"grpc_server": address}]}))

    chosen = port if _is_free(port) else _free_port()
    if chosen != port:
        show_line(f"Port {port} is taken.")
    webserver_arguments = ["--host", HOST, "--port", str(chosen), "-w", str(workspace)]
    webserver = DemoProcess(home, "webserver", ["dagster_webserver", *webserver_arguments])
    processes.append(webserver)
    daemon = DemoProcess(home, "daemon", ["dagster._daemon", "run", "-w", str(workspace)])
    processes.append(daemon)
    url = f"http://{HOST}:{chosen}"
    with showing("Starting Dagster's webserver and daemon"):
        worker.wait_until(lambda: worker_beats(client), look)
        webserver.wait_until(lambda: _answers(url), look)
        daemon.wait_until(lambda: _daemons_beat(url), look)
    run_id = _launch(url)
    _show_what_to_see(home, url, run_id, processes)


def _show_what_to_see(
    home: DemoHome, url: str, run_id: str, processes: Sequence[DemoProcess]
) -> None:
    jobs = f"{url}/locations/{LOCATION}/jobs"
    show_line(f"\nDagster is at {url}\n")
    for what, url_of_it, more in (
        (
            "A run on the worker",
            f"{url}/runs/{run_id}",
            "One step loses its process, one asks for a retry, one is skipped; it succeeds.",
        ),
        (
            "One to terminate",
            f"{jobs}/{LONG_JOB}/playground",
            '"Launch Run"; it takes a minute, so that there is time for "Terminate" on its page.',
        ),
        ("Assets", f"{url}/assets", '"Materialize", for a partition: north, south.'),
        (
            "Daemons",
            f"{url}/deployment/daemons",
            "Run monitoring among them, which resumes runs whose worker is lost.",
        ),
    ):
        show_line(f"  {what + ':':<21}{url_of_it}")
        show_line(f"  {'':<21}{more}")
    show_line("\nIn another terminal: the worker; all of it, live; and the logs:\n")
    config = f"-y {shlex.quote(str(home.worker_config))}"
    for command in (f"worker list {config}", f"monitor {config} --dagster-url {url}"):
        show_line(f"  {home.environment} {typed('dagster-taskiq')} {command}")
    show_line(f"  tail -f {' '.join(shlex.quote(str(process.log)) for process in processes)}")
    show_line(
        "\nCtrl-C stops it all once running tasks have ended. A second Ctrl-C stops those too."
    )


def _stay(processes: Sequence[DemoProcess], interrupts: _Interrupts) -> None:
    """Wait until a signal comes, or a process ends.

    Raises:
        _Interrupted: a signal has come.
        click.ClickException: a process has ended.
    """
    while True:
        interrupts.check()
        for process in processes:
            process.check()
        time.sleep(LOOK_SECONDS)


def _stop(processes: Sequence[DemoProcess], is_urgent: Callable[[], bool]) -> None:
    """End all processes: the worker first, while the others show what it finishes."""
    going = [process for process in processes if process.exit_code is None]
    if not going:
        return
    show_line("")
    with showing(f"Stopping: {', '.join(process.name for process in going)}"):
        workers = [process for process in going if process.name == "worker"]
        _end(workers, DRAIN_SECONDS, STOP_SECONDS, is_urgent)
        others = [process for process in going if process not in workers]
        _end(others, STOP_SECONDS, 0.0, is_urgent)


def _end(
    processes: Sequence[DemoProcess],
    gently: float,
    firmly: float,
    is_urgent: Callable[[], bool],
) -> None:
    """Send processes SIGTERM, send it again, and kill them."""
    for seconds, may_be_cut in ((gently, True), (firmly, False)):
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + seconds
        while any(process.exit_code is None for process in processes):
            if time.monotonic() > deadline or (may_be_cut and is_urgent()):
                break
            time.sleep(LOOK_SECONDS)
    for process in processes:
        if process.exit_code is None:
            show_line(f"The {process.name} does not end; killing it.")
            process.kill()


def _make_tables(instance: DagsterInstance) -> None:
    """Make the tables of a new instance, which some of its storages do when they are first used."""
    instance.get_runs_count()
    instance.all_asset_keys()
    instance.all_instigator_state()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: a port that was in use a moment ago is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _serves_code(port: int) -> bool:
    # Imported here: it is slow, and nothing else needs it.
    from dagster._grpc.client import DagsterGrpcClient  # noqa: PLC0415

    with suppress(DagsterUserCodeUnreachableError):
        DagsterGrpcClient(port=port, host=HOST).ping("")
        return True
    return False


def _answers(url: str) -> bool:
    with suppress(OSError, HTTPException):
        return bool(_get(f"{url}/server_info"))
    return False


def _daemons_beat(url: str) -> bool:
    instance = _ask(url, _DAEMONS)["instance"]
    statuses = instance["daemonHealth"]["allDaemonStatuses"]
    return all(each["healthy"] for each in statuses if each["required"])


def _launch(url: str) -> str:
    """Launch a run as a click in the UI does; return its id.

    Raises:
        click.ClickException: Dagster does not.
    """
    selector = {
        "repositoryLocationName": LOCATION,
        "repositoryName": "__repository__",
        "jobName": JOB,
    }
    params = {"selector": selector, "runConfigData": {}, "mode": "default"}
    answer = _ask(url, _LAUNCH, {"params": params})["launchRun"]
    if answer["__typename"] != "LaunchRunSuccess":
        raise click.ClickException(f"{JOB} could not be launched: {answer}")
    return str(answer["run"]["runId"])


def _ask(url: str, query: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what the webserver answers to a GraphQL query.

    Raises:
        click.ClickException: it does not answer, or with an error.
    """
    body = json.dumps({"query": query, "variables": variables or {}}).encode()
    try:
        answer = json.loads(_get(f"{url}/graphql", body))
    except (OSError, HTTPException, ValueError) as error:
        raise click.ClickException(f"The webserver does not answer as it should: {error}") from None
    if "errors" in answer:
        raise click.ClickException(f"The webserver answered with an error: {answer['errors']}")
    return dict(answer["data"])


def _get(url: str, body: bytes | None = None) -> bytes:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    # Without the proxy that the environment may name.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=ANSWER_SECONDS) as response:
        return bytes(response.read())
