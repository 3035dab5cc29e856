"""Programs in Python that are forked from a process which has imported Dagster before.

A program that imports Dagster takes two seconds of CPU for that, which is more than most tests need
for all else, so a test forks its workers, the processes of its runs, its containers and Dagster's
own commands from one process that has done so: as the engine forks its children. What such a
process does from then on is what it does if it is started from the command line, and
``test_cli.py``, ``test_newcomer.py`` and ``test_demo_ui.py`` start it from there. With
``DAGSTER_TASKIQ_TEST_START=exec`` all tests do.

All tests of a session, and what they start, use one such process
(:mod:`compat_tests.forking_process`). The first that needs it starts it; it ends by itself when
none of them is left.
"""

import atexit
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from multiprocessing.connection import Connection, wait
from pathlib import Path

from compat_tests.checkout import ROOT
from compat_tests.forking_process import Request

#: The directory with the socket of the process that forks.
DIRECTORY_ENV = "DAGSTER_TASKIQ_TEST_FORKS"

#: How long it may take until a process is forked, in seconds.
_FORK_SECONDS = 60.0


def share_programs() -> Path:
    """Have all that this process starts from now on use one process that forks.

    Returns:
        The directory that leads to it. It goes with the process that was the first to need it.
    """
    if DIRECTORY_ENV not in os.environ:
        os.environ[DIRECTORY_ENV] = tempfile.mkdtemp(prefix="forks-")
        atexit.register(shutil.rmtree, os.environ[DIRECTORY_ENV], ignore_errors=True)
    return Path(os.environ[DIRECTORY_ENV])


def starts_new_interpreters() -> bool:
    """Return whether each program is to have an interpreter of its own."""
    return os.environ.get("DAGSTER_TASKIQ_TEST_START") == "exec"


def start_program(
    module: str,
    arguments: Sequence[str],
    log: Path,
    environment: Mapping[str, str] | None = None,
    *,
    errors: Path | None = None,
    directory: Path | None = None,
    new_session: bool = False,
    code: Path = ROOT,
    prefix: Sequence[str] = (),
) -> "subprocess.Popen[bytes] | Program":
    """Run ``python -m MODULE ARGUMENTS``.

    Args:
        module: the module that is run as ``__main__``.
        arguments: its arguments.
        log: the file that its output is appended to.
        environment: all of its environment variables; by default those of the tests, with the
            import path of the checkout and of this one.
        errors: the file that its standard error is appended to, if that is another one.
        directory: its working directory, by default the root of the checkout.
        new_session: whether it leads a session, and so a process group, of its own.
        code: the root of the checkout.
        prefix: a command that runs it.
    """
    if environment is None:
        environment = {**os.environ, "PYTHONPATH": f"{code}{os.pathsep}{ROOT}"}
    errors, directory = errors or log, directory or code
    is_like_the_tests = _of_python(environment) == _of_python(os.environ)
    if is_like_the_tests and code == ROOT and not prefix and not starts_new_interpreters():
        for file in (log, errors):
            file.touch()  # the tests may read it at once
        files = (str(log.absolute()), str(errors.absolute()))
        environment = dict(environment)
        return _forking_process().start(
            Request(module, [*arguments], *files, str(directory), new_session, environment)
        )
    with log.open("ab") as output, errors.open("ab") as error_output:
        return subprocess.Popen(
            [*prefix, sys.executable, "-m", module, *arguments],
            stdout=output,
            stderr=error_output,
            cwd=directory,
            start_new_session=new_session,
            env=dict(environment),
        )


def run_program(
    module: str,
    arguments: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    directory: Path | None = None,
    timeout: float = 120.0,
) -> "subprocess.CompletedProcess[str]":
    """Run ``python -m MODULE ARGUMENTS`` to its end, as ``subprocess.run`` does.

    Args:
        module: the module that is run as ``__main__``.
        arguments: its arguments.
        environment: as for :func:`start_program`.
        directory: its working directory, by default the root of the checkout.
        timeout: how long it may take, in seconds.

    Raises:
        subprocess.TimeoutExpired: it took longer; it was killed.
    """
    with tempfile.TemporaryDirectory() as place:
        output, errors = Path(place) / "stdout", Path(place) / "stderr"
        process = start_program(
            module, arguments, output, environment, errors=errors, directory=directory
        )
        try:
            code = process.wait(timeout)
        finally:
            if process.poll() is None:
                process.kill()
        texts = (file.read_text(errors="replace") for file in (output, errors))
        return subprocess.CompletedProcess([module, *arguments], code, *texts)


def _of_python(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that an interpreter reads when it starts, without its import path.

    The import path is that of the root of the checkout in any case.
    """
    names = [name for name in environment if name.startswith("PYTHON") and name != "PYTHONPATH"]
    return {name: environment[name] for name in names}


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

    def wait(self, timeout: float | None = None) -> int:
        """Return how it has ended, within so many seconds.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        timeout = float("inf") if timeout is None else timeout
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
    """The process that has imported Dagster, as seen from one of those that use it."""

    def __init__(self) -> None:
        self._connection = _connect(share_programs())
        self._exit_codes: dict[int, int] = {}
        self._lock = threading.Lock()

    def start(self, request: Request) -> Program:
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


@cache
def _forking_process() -> _ForkingProcess:
    return _ForkingProcess()


# A fork of the tests must not read the answers to another process.
os.register_at_fork(after_in_child=_forking_process.cache_clear)


def _connect(directory: Path) -> Connection:
    """Return a connection to the process that forks, which is started if there is none."""
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(str(directory / "socket"))
        except OSError:
            _start(directory / "socket")
            client.connect(str(directory / "socket"))
        return Connection(client.detach())


def _start(path: Path) -> None:
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(64)
        # It is not ended with the test that was the first to need it.
        subprocess.Popen(
            [sys.executable, "-m", "compat_tests.forking_process", str(server.fileno())],
            pass_fds=[server.fileno()],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
