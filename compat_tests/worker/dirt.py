"""What a task may leave behind in its process, kind by kind, and how the next one would see it."""

import asyncio
import contextvars
import decimal
import faulthandler
import gc
import locale
import logging
import multiprocessing
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

#: The value that tasks leave behind if any value will do.
MARK = "left behind"

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")


@dataclass(frozen=True)
class Dirt:
    """One thing that a task may leave behind."""

    leave: Callable[[], object]
    #: What a task sees of it; the same in each clean process.
    see: Callable[[], object]


def _delete_directory() -> None:
    directory = tempfile.mkdtemp()
    os.chdir(directory)
    shutil.rmtree(directory)


def _directory() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return "deleted"


def _change_environment() -> None:
    os.environ["DIRT"] = MARK
    os.environ["HOME"] = MARK
    os.environ.pop("PATH", None)


def _replace_environment() -> None:
    os.environ = {"DIRT": MARK}  # type: ignore[assignment] # noqa: B003


def _environment() -> object:
    is_there = type(os.environ) is os._Environ
    return [is_there, *(os.environ.get(name) for name in ("DIRT", "HOME", "PATH"))]


def _change_time_zone() -> None:
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()


def _umask() -> int:
    found = os.umask(0o077)
    os.umask(found)
    return found


def _close_loop() -> None:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.close()


def _leave_no_loop() -> None:
    asyncio.run(asyncio.sleep(0))


def _loop_answers() -> object:
    with warnings.catch_warnings(record=True):
        try:
            loop = asyncio.get_event_loop()
            return loop.run_until_complete(asyncio.sleep(0, "answers"))
        except RuntimeError as error:
            return str(error)


def _number_of_threads() -> int:
    """Count the threads of this process; the timer of ``faulthandler`` is one.

    One that is about to end may be there for a moment longer.
    """
    deadline = time.monotonic() + 2
    while (number := psutil.Process().num_threads()) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    return number


def _timers() -> list[bool]:
    numbers = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
    return [signal.getitimer(number) == (0.0, 0.0) for number in numbers]


def _set_timers() -> None:
    signal.alarm(3600)
    signal.setitimer(signal.ITIMER_PROF, 3600)


def _ignore_children() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def _exit_code() -> int:
    return subprocess.run(["sh", "-c", "exit 3"], check=False).returncode


#: The last one is a real-time signal if the system has these.
_SIGNALS = (
    *(signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM, signal.SIGINT),
    max(signal.valid_signals()),
)


def _handlers() -> list[str]:
    return [str(signal.getsignal(number)).partition(" at ")[0] for number in _SIGNALS]


def _handle_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _wake_by_signals() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    os.close(reading)


def _wakeup() -> int:
    found = signal.set_wakeup_fd(-1)
    if found != -1:
        signal.set_wakeup_fd(found)
    return min(found, 0)


def _switch_fault_handler() -> None:
    if faulthandler.is_enabled():
        faulthandler.disable()
    else:
        faulthandler.enable()


def _change_warnings() -> None:
    warnings.simplefilter("ignore")
    logging.captureWarnings(True)


def _warns() -> int:
    """Return how often a warning is shown that is shown once in a process."""
    shown: list[object] = []
    before, warnings.showwarning = warnings.showwarning, lambda *warning: shown.append(warning)
    try:
        warnings.warn_explicit("once", UserWarning, "f", 1, registry=_registry)
    finally:
        warnings.showwarning = before
    return len(shown)


_registry: dict[str, object] = {}


def _warnings() -> list[object]:
    return [warnings.filters[0][0], len(warnings.filters), warnings.showwarning.__module__]


def _decimals() -> list[object]:
    context = decimal.getcontext()
    return [context.prec, context.rounding, bool(context.traps[decimal.Inexact])]


def _change_decimals() -> None:
    context = decimal.getcontext()
    context.prec, context.rounding = 3, decimal.ROUND_UP
    context.traps[decimal.Inexact] = True


def _change_loggers() -> None:
    logging.getLogger().setLevel(logging.CRITICAL)
    logging.getLogger().addHandler(logging.StreamHandler(sys.stdout))
    logging.getLogger("dagster").disabled = True
    logging.getLogger("of.a.step").addFilter(lambda record: False)
    logging.getLogger("of.a.step").propagate = False
    logging.disable(logging.ERROR)


def _loggers() -> list[object]:
    root, other = logging.getLogger(), logging.getLogger("of.a.step")
    looked_at = (root, logging.getLogger("dagster"), other)
    config = [[each.level, each.disabled, each.propagate] for each in looked_at]
    return [*config, len(root.handlers), len(other.filters), root.manager.disable]


def _change_path() -> None:
    sys.path.insert(0, f"/{MARK}")
    sys.path = [*sys.path, MARK]
    sys.meta_path = sys.meta_path[1:]
    sys.argv = [MARK]


def _path() -> list[object]:
    marked = [each for each in sys.path if MARK in each]
    return [marked, len(sys.path), len(sys.meta_path), sys.argv]


def _hook(*_: object, **__: object) -> Any:
    return None


def _set_hooks() -> None:
    sys.excepthook = sys.unraisablehook = sys.displayhook = threading.excepthook = _hook
    sys.settrace(_hook)
    sys.setprofile(_hook)
    threading.settrace(_hook)
    threading.setprofile(_hook)
    tempfile.tempdir = f"/{MARK}"


def _hooks() -> list[bool]:
    hooks = (sys.excepthook, sys.unraisablehook, sys.displayhook, threading.excepthook)
    others = (sys.gettrace(), sys.getprofile(), threading.gettrace(), threading.getprofile())
    return [each is _hook for each in (*hooks, *others)] + [tempfile.gettempdir() == f"/{MARK}"]


def _change_interpreter() -> None:
    sys.setrecursionlimit(sys.getrecursionlimit() + 1000)
    sys.setswitchinterval(0.004)
    threading.stack_size(1 << 20)
    socket.setdefaulttimeout(0.001)
    gc.disable()
    gc.set_threshold(5, 5, 5)


def _interpreter() -> list[object]:
    found = [sys.getrecursionlimit(), sys.getswitchinterval(), threading.stack_size()]
    return [*found, socket.getdefaulttimeout(), gc.isenabled(), gc.get_threshold()]


def _choose_start_method() -> None:
    multiprocessing.set_start_method("spawn", force=True)


def _start_method() -> str | None:
    return multiprocessing.get_start_method(allow_none=True)


def _lower_limits() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    if sys.platform == "linux":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def _limits() -> list[object]:
    cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
    return [resource.getrlimit(resource.RLIMIT_NOFILE), cores]


def _replace_streams() -> None:
    sys.stdout.reconfigure(encoding="ascii", errors="replace")  # type: ignore[union-attr]
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    sys.stdout.close()
    sys.stderr = None  # type: ignore[assignment] # as some programs do


def _streams() -> list[object]:
    ours = (sys.stdin, sys.stdout, sys.stderr)
    files = [getattr(each, "name", "") for each in ours]
    return [files, getattr(sys.stdout, "encoding", ""), getattr(sys.stdout, "closed", None)]


def _close_descriptors() -> None:
    os.close(1)
    other = os.open(os.devnull, os.O_RDWR)
    os.dup2(other, 0)
    os.dup2(other, 2)
    if other != 1:
        os.close(other)


def _descriptors() -> list[object]:
    found: list[object] = []
    for number in range(3):
        try:
            status = os.fstat(number)
            found.append([status.st_dev, status.st_ino, os.get_inheritable(number)])
        except OSError as error:
            found.append(error.errno)
    return found


def _look_at_locale() -> str:
    return locale.setlocale(locale.LC_ALL)


def _change_locale() -> None:
    other = "C.UTF-8" if locale.setlocale(locale.LC_CTYPE) in ("C", "POSIX") else "C"
    locale.setlocale(locale.LC_ALL, other)


def _seed() -> None:
    random.seed(7)


def _draws_seven() -> bool:
    """Whether the next number is the first one of the seed 7."""
    return random.random() == random.Random(7).random()


#: By their names.
DIRT: dict[str, Dirt] = {
    "working directory": Dirt(lambda: os.chdir("/usr"), _directory),
    "deleted working directory": Dirt(_delete_directory, _directory),
    "environment": Dirt(_change_environment, _environment),
    "another object as environment": Dirt(_replace_environment, _environment),
    "time zone": Dirt(_change_time_zone, lambda: time.tzname),
    "umask": Dirt(lambda: os.umask(0o027), _umask),
    "context variable": Dirt(lambda: variable.set(MARK), variable.get),
    "decimal context": Dirt(_change_decimals, _decimals),
    "closed event loop": Dirt(_close_loop, _loop_answers),
    "no event loop": Dirt(_leave_no_loop, _loop_answers),
    "timers": Dirt(_set_timers, _timers),
    "ignored children": Dirt(_ignore_children, _exit_code),
    "signal handlers": Dirt(_handle_signals, _handlers),
    "wake-up descriptor of signals": Dirt(_wake_by_signals, _wakeup),
    "signal mask": Dirt(
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]),
        lambda: sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    ),
    "fault handler": Dirt(_switch_fault_handler, faulthandler.is_enabled),
    "fault handler's timer": Dirt(
        lambda: faulthandler.dump_traceback_later(3600), _number_of_threads
    ),
    "shown warnings": Dirt(_warns, _warns),
    "warnings": Dirt(_change_warnings, _warnings),
    "loggers": Dirt(_change_loggers, _loggers),
    "paths": Dirt(_change_path, _path),
    "hooks": Dirt(_set_hooks, _hooks),
    "interpreter": Dirt(_change_interpreter, _interpreter),
    "start method": Dirt(_choose_start_method, _start_method),
    "limits": Dirt(_lower_limits, _limits),
    "locale": Dirt(_change_locale, _look_at_locale),
    "streams": Dirt(_replace_streams, _streams),
    "descriptors": Dirt(_close_descriptors, _descriptors),
    "random seed": Dirt(_seed, _draws_seven),
}
