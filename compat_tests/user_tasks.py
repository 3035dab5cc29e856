"""Tasks as a user writes them, for workers started with ``--include compat_tests.user_tasks``.

Tests see what a task does by the files it writes, and let it go on by a file they write.
"""

import asyncio
import atexit
import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Annotated

from taskiq import Context, TaskiqDepends

from compat_tests.worker.dirt import DIRT
from dagster_taskiq.app import broker
from dagster_taskiq.client import client_for
from dagster_taskiq.execution.task_context import current_context
from dagster_taskiq.settings.worker_fleet import process_settings
from dagster_taskiq.wire.notifications import FROM_START

#: What tasks keep between each other, since a child is used again.
kept: list[bytearray] = []


def settings_of_the_project() -> dict[str, int]:
    return {"factor": 3}


def say(path: str, text: object) -> None:
    """Add one line to a file, in one write, so that lines of several processes never mix."""
    with Path(path).open("a") as file:
        file.write(f"{text}\n")


@broker.task
def add(a: int, b: int) -> int:
    return a + b


@broker.task
async def add_async(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


@broker.task
async def multiply(
    a: int,
    settings: Annotated[dict[str, int], TaskiqDepends(settings_of_the_project)],
    context: Annotated[Context, TaskiqDepends()],
) -> list[object]:
    return [a * settings["factor"], context.message.task_id]


@broker.task
def echo(value: object) -> object:
    return value


@broker.task
def fail(text: str) -> None:
    raise LookupError(text)


@broker.task
def return_an_object() -> object:
    return object()


@broker.task
async def send_another(a: int, b: int) -> str:
    sent = await add.kiq(a, b)
    return sent.task_id


@broker.task
def run_a_loop_of_its_own() -> int:
    return asyncio.run(add_async.original_func(1, 2))


@broker.task
def note(path: str) -> int:
    say(path, os.getpid())
    return os.getpid()


@broker.task
def hold(started: str, go: str, ended: str = "", deaf: bool = False) -> str:
    """Say the process id, and wait for a file; when stopped, say so, unless ``deaf``."""
    if deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say(started, os.getpid())
    try:
        while not Path(go).exists():
            time.sleep(0.02)
    finally:
        if ended:
            say(ended, "ended")
    return "held"


@broker.task
def wait_for_notification(started: str, channel: str) -> object:
    """Say the process id, and wait on the worker's backend as the loop of a run does."""
    client = client_for(process_settings())
    say(started, os.getpid())
    (notification,) = client.wait(channel, FROM_START, 100.0, interrupted=lambda: False)
    return notification.body


@broker.task
def process_id() -> int:
    return os.getpid()


@broker.task
def orchestrate(started: str, go: str) -> None:
    """Say that it only waits for its own steps, as the loop of a run does; then wait for a file."""
    current_context().orchestrating()
    hold.original_func(started, go)


@broker.task
def be_killed(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


@broker.task
def leave(code: int) -> None:
    os._exit(code)


@broker.task
def start_a_process(started: str, go: str) -> None:
    """Start a process that does nothing, say its id, and wait."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    say(started, process.pid)
    while not Path(go).exists():
        time.sleep(0.02)


@broker.task
def start_processes(started: str, go: str, deaf: bool = False) -> int:
    """Start processes that leave the group of this one, say their ids, and wait for a file."""
    in_a_session = subprocess.Popen(["sleep", "600"], start_new_session=True)
    say(started, in_a_session.pid)
    # With job control, the shell makes a group for each of its jobs; this one becomes an orphan.
    job = f"set -m; sleep 600 & echo $! >> '{started}'"
    subprocess.run(["bash", "-c", job], check=True)
    first = os.fork()
    if first == 0:  # as programs do that become daemons
        os.setsid()
        if os.fork() == 0:
            say(started, os.getpid())
            time.sleep(600)
        os._exit(0)
    os.waitpid(first, 0)
    hold.original_func(f"{started}.all", go, deaf=deaf)
    return os.getpid()


@broker.task
def keep_the_interpreter(seconds: int) -> str:
    """Do something in native code that lets no other thread of this process run meanwhile."""
    ctypes.PyDLL(None).sleep(seconds)
    return "kept"


@broker.task
def say_at_exit(path: str, more_seconds: float = 0.0) -> int:
    """Have something done when this process ends, which takes so long."""
    atexit.register(lambda: (time.sleep(more_seconds), say(path, os.getpid())))
    return os.getpid()


@broker.task
def use_multiprocessing(method: str) -> dict[str, object]:
    """Tell in what state multiprocessing is found, and use it as modules of users do."""
    current = multiprocessing.current_process()
    found: dict[str, object] = {
        "start_method": multiprocessing.get_start_method(allow_none=True),
        "parent": multiprocessing.parent_process(),
        "name": current.name,
        "daemon": current.daemon,
        "threads": threading.active_count(),
    }
    multiprocessing.set_start_method(method)
    ended = multiprocessing.Process(target=lambda: sys.exit(3))
    ended.start()
    ended.join()
    here, there = multiprocessing.Pipe()
    terminated = multiprocessing.Process(target=lambda: (there.send("up"), time.sleep(600)))
    terminated.start()
    here.recv()
    terminated.terminate()
    terminated.join()
    return {**found, "ended": ended.exitcode, "terminated": terminated.exitcode != 0}


@broker.task
def fork_and_leave(started: str, code: int) -> None:
    """Leave behind a process that has everything this one had open."""
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
        os._exit(0)
    say(started, pid)
    os._exit(code)


@broker.task
def grow(megabytes: int) -> int:
    kept.append(bytearray(os.urandom(1)) * (megabytes << 20))
    return os.getpid()


@broker.task
def leave_everything_behind() -> list[object]:
    """Return this process's id and what is found in it, and leave all there that can be left."""
    found = {name: dirt.see() for name, dirt in DIRT.items()}
    for dirt in DIRT.values():
        dirt.leave()
    return [os.getpid(), found]
