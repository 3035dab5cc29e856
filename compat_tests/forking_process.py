"""The process that has imported Dagster, and forks the programs of :mod:`compat_tests.preloaded`.

It has no threads, since a process with threads must not fork, and waits for everything at once: for
those that connect to it, for what they want to have started, and for the ends of the programs.
"""

import gc
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
import traceback
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

#: What such a program imports sooner or later.
_MODULES = (
    "compat_tests.forking_process",
    "dagster._cli",
    "dagster_taskiq.cli.worker",
    "dagster_taskiq.client",
    "dagster_taskiq.worker.child.preload",
    "dagster_taskiq.worker.fork_server.loop",
    *(f"dagster_taskiq.transport.{kind}.broker" for kind in ("redis", "rabbitmq", "sql")),
    *(f"dagster_taskiq.transport.{kind}.backend" for kind in ("redis", "rabbitmq", "sql")),
)

#: How long it stays when nobody is connected, in seconds: until the next test connects.
_IDLE_SECONDS = 20.0


@dataclass(frozen=True)
class Request:
    """A program that is to be started, as :func:`compat_tests.preloaded.start_program` has it."""

    module: str
    arguments: list[str]
    log: str
    errors: str
    directory: str
    new_session: bool
    environment: dict[str, str]


class _Server:
    """Forks a process for each request, and reports how each ends to those that asked for it."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._connections: list[Connection] = []
        self._owners: dict[int, Connection] = {}
        self._wakeups = os.pipe()

    def serve(self) -> Request | None:
        """Serve until nobody is connected any more.

        Returns:
            In a forked process, what it is to do; ``None`` in the process itself, at the end.
        """
        # Ctrl-C is for the programs, and for the tests.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        for each in self._wakeups:
            os.set_blocking(each, False)
        signal.set_wakeup_fd(self._wakeups[1])
        while True:
            waited_for = [self._listener, self._wakeups[0], *self._connections]
            timeout = None if self._connections else _IDLE_SECONDS
            ready, _, _ = select.select(waited_for, [], [], timeout)
            if not ready:
                return None
            if self._wakeups[0] in ready:
                os.read(self._wakeups[0], 4096)
                self._report_ended()
            if self._listener in ready:
                client, _ = self._listener.accept()
                self._connections.append(Connection(client.detach()))
            for connection in [each for each in self._connections if each in ready]:
                request = self._read(connection)
                if request is not None:
                    return request

    def _read(self, connection: Connection) -> Request | None:
        """Fork for a request; return it in the process that was forked."""
        try:
            request: Request = connection.recv()
        except (EOFError, OSError):
            self._connections.remove(connection)
            connection.close()
            return None
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            self._listener.close()
            for each in self._wakeups:
                os.close(each)
            for other in self._connections:
                other.close()
            return request
        self._owners[pid] = connection
        self._send(connection, pid, None)
        return None

    def _report_ended(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                self._send(self._owners.pop(pid), pid, os.waitstatus_to_exitcode(status))

    def _send(self, connection: Connection, pid: int, code: int | None) -> None:
        with suppress(OSError):  # it has gone
            connection.send((pid, code))


def _run(request: Request) -> NoReturn:
    """Be, from here on, what ``python -m`` with these arguments would be."""
    from dagster_taskiq.worker.fork_server.process_exit import exit_process

    code: Any = 0
    try:
        _become(request)
        runpy.run_module(request.module, run_name="__main__", alter_sys=True)
    except SystemExit as exit_:
        code = exit_.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    exit_process(code or 0)


def _become(request: Request) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request.new_session:
        os.setsid()
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.directory)
    sys.path[0] = request.directory
    added = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [each for each in added if each and each not in sys.path]
    random.seed()
    for number, file in ((1, request.log), (2, request.errors)):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(opened, number)
        os.close(opened)
    commands = ("dagster_taskiq", "dagster_celery")
    if request.module in commands and request.arguments[:2] == ["worker", "start"]:
        _fork_the_fork_server()
    sys.argv = [request.module, *request.arguments]


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
    gc.disable()  # while so much is imported it would find nothing, again and again
    for name in _MODULES:
        import_module(name)
    # What is there now is never looked through, nor copied for that, in what is forked.
    gc.collect()
    gc.freeze()
    gc.enable()
    assert threading.active_count() == 1, "a process with threads must not fork"
    request = _Server(socket.socket(fileno=number)).serve()
    if request is not None:
        _run(request)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
