"""Programs in Python that are forked from a process which has imported Dagster before.

A worker imports Dagster in its own process and in its fork server. That takes two seconds of CPU,
which is more than most tests need for all else, so a test forks its workers, and the processes of
its runs, from one that has done so: as the engine forks its children. What such a process does from
then on is what it does if it is started from the command line, and ``test_cli.py``,
``test_newcomer.py`` and the tests of the facade's commands start it from there. With
``DAGSTER_TASKIQ_TEST_START=exec`` all tests do.
"""

import atexit
import os
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

from compat_tests.checkout import ROOT

#: What such a program imports sooner or later.
_MODULES = (
    "dagster._cli",
    "dagster_taskiq.cli.worker",
    "dagster_taskiq.worker.child.preload",
    "dagster_taskiq.worker.fork_server.loop",
    *(f"dagster_taskiq.transport.{kind}.broker" for kind in ("redis", "rabbitmq", "sql")),
    *(f"dagster_taskiq.transport.{kind}.backend" for kind in ("redis", "rabbitmq", "sql")),
)

#: How long it may take until a process is forked, in seconds.
_FORK_SECONDS = 60.0


def starts_new_interpreters() -> bool:
    """Return whether each program is to have an interpreter of its own."""
    return os.environ.get("DAGSTER_TASKIQ_TEST_START") == "exec"


def start_program(
    module: str,
    arguments: Sequence[str],
    log: Path,
    environment: Mapping[str, str] | None = None,
    *,
    code: Path = ROOT,
    prefix: Sequence[str] = (),
) -> "subprocess.Popen[bytes] | Program":
    """Run ``python -m MODULE ARGUMENTS`` in a checkout.

    Args:
        module: the module that is run as ``__main__``.
        arguments: its arguments.
        log: the file that its output is appended to.
        environment: all of its environment variables; by default those of the tests, with the
            import path of the checkout and of this one.
        code: the root of the checkout.
        prefix: a command that runs it.
    """
    if environment is None:
        environment = {**os.environ, "PYTHONPATH": f"{code}{os.pathsep}{ROOT}"}
    is_like_the_tests = _of_python(environment) == _of_python(os.environ)
    if is_like_the_tests and code == ROOT and not prefix and not starts_new_interpreters():
        log.touch()  # the tests may read it at once
        request = _Request(module, [*arguments], str(log), dict(environment))
        return _forking_process().start(request)
    with log.open("ab") as output:
        return subprocess.Popen(
            [*prefix, sys.executable, "-m", module, *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=code,
            env=dict(environment),
        )


def _of_python(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that an interpreter reads when it starts, without its import path.

    The import path is that of the root of the checkout in any case.
    """
    names = [name for name in environment if name.startswith("PYTHON") and name != "PYTHONPATH"]
    return {name: environment[name] for name in names}


@dataclass(frozen=True)
class _Request:
    module: str
    arguments: list[str]
    log: str
    environment: dict[str, str]


class Program:
    """A process that was forked, with the methods of ``subprocess.Popen`` that tests use."""

    def __init__(self, pid: int, parent: "_ForkingProcess") -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._parent = parent

    def poll(self) -> int | None:
        """Return how it has ended; ``None`` if it runs."""
        if self.returncode is None:
            self.returncode = self._parent.exit_code(self.pid, 0)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Return how it has ended, within so many seconds.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        if self.returncode is None:
            self.returncode = self._parent.exit_code(self.pid, timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send it SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send it SIGKILL."""
        self.send_signal(signal.SIGKILL)


class _ForkingProcess:
    """The process that has imported Dagster, as seen from the tests."""

    def __init__(self) -> None:
        ours, theirs = Pipe()
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(number)],
                pass_fds=[number],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        self._connection = ours
        self._exit_codes: dict[int, int] = {}
        self._lock = threading.Lock()
        atexit.register(self._end)

    def start(self, request: _Request) -> Program:
        """Fork a process, and have it run a program."""
        with self._lock:
            self._connection.send(request)
            while True:
                if not self._connection.poll(_FORK_SECONDS):
                    raise AssertionError("The process that others are forked from is stuck.")
                pid = self._read()
                if pid is not None:
                    return Program(pid, self)

    def exit_code(self, pid: int, timeout: float) -> int | None:
        """Return how a process has ended, after ``timeout`` seconds at most; else ``None``."""
        deadline = time.monotonic() + timeout
        while True:
            with self._lock:
                while self._connection.poll():
                    self._read()
                if pid in self._exit_codes:
                    return self._exit_codes.pop(pid)
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            # Without the lock: another thread may read what this one is waiting for.
            wait([self._connection], min(left, 0.05))

    def _read(self) -> int | None:
        """Read one message; return the id of a process that was forked."""
        pid, code = self._connection.recv()
        if code is None:
            return int(pid)
        self._exit_codes[pid] = code
        return None

    def _end(self) -> None:
        self._connection.close()
        self._process.wait(10)


@cache
def _forking_process() -> _ForkingProcess:
    return _ForkingProcess()


# -- in the other process --------------------------------------------------------------------


def _serve(connection: Connection) -> _Request | None:
    """Fork a process for each request, and report how each ends.

    Returns:
        In a forked process, what it is to do; ``None`` when there will be no more requests.
    """
    # Ctrl-C is for the programs, and for the tests.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    reading, writing = os.pipe()
    for each in (reading, writing):
        os.set_blocking(each, False)
    signal.set_wakeup_fd(writing)
    while True:
        ready, _, _ = select.select([connection, reading], [], [])
        if reading in ready:
            os.read(reading, 4096)
            _report_ended(connection)
        if connection in ready:
            try:
                request: _Request = connection.recv()
            except EOFError:
                return None
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                for each in (reading, writing):
                    os.close(each)
                return request
            connection.send((pid, None))


def _report_ended(connection: Connection) -> None:
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            connection.send((pid, os.waitstatus_to_exitcode(status)))


def _run(request: _Request) -> None:
    """Be, from here on, what ``python -m`` with these arguments would be."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request.environment)
    added = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [each for each in added if each and each not in sys.path]
    random.seed()
    output = os.open(request.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    if request.module == "dagster_taskiq" and request.arguments[:2] == ["worker", "start"]:
        _fork_the_fork_server()
    sys.argv = [request.module, *request.arguments]
    runpy.run_module(request.module, run_name="__main__", alter_sys=True)


class _Guard:
    """The guard of a fork server, with the methods of ``subprocess.Popen`` that its client uses."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float = float("inf")) -> int:
        deadline = time.monotonic() + timeout
        while self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("fork server", timeout)
            else:
                time.sleep(0.005)
        return self.returncode


def _fork_the_fork_server() -> None:
    """Fork what ``dagster-taskiq worker start`` starts as a new interpreter."""
    from dagster_taskiq.worker.fork_server import guard, process

    ours, theirs = socket.socketpair()
    pid = os.fork()
    if not pid:
        os.setsid()
        ours.close()
        with Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        guard.main(theirs.detach())
    theirs.close()
    forked: Any = _Guard(pid)
    process._started.append(process.ServerProcess(forked, ours))


def _main(number: int) -> None:
    connection: Connection = Connection(number)
    for name in _MODULES:
        import_module(name)
    assert threading.active_count() == 1, "a process with threads must not fork"
    request = _serve(connection)
    connection.close()
    if request is not None:
        _run(request)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
