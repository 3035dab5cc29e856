"""Running the tests of dagster-celery and of libraries on it, in a pytest of their own."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from compat_tests.checkout import ROOT
from legacy_tests.sdists import Sdist, unpack

HERE = Path(__file__).parent
#: How long one test may take, in seconds, before it is ended and counts as failed.
PATIENCE = 240
#: How long all of them may take, in seconds. One that cannot be ended, because its threads wait for
#: each other, would otherwise stay for ever.
LIMIT = 1500
#: How long what the tests have started may take to end after them, in seconds.
LINGERING = 60
#: What of the environment is not handed on: the settings of other tests, and of other workers.
NOT_THEIRS = ("CELERY_", "COV_", "DAGSTER_", "PYTEST_", "PYTHONPATH")


@dataclass(frozen=True)
class Seen:
    """What came of it."""

    exit_code: int
    #: All that pytest has printed: failures in full, then a summary.
    output: str
    #: How long it took, in seconds.
    seconds: float
    #: The tests that were found.
    collected: list[str]
    #: How each of them ended, as pytest calls it.
    outcomes: dict[str, str]
    #: The modules of dagster-celery, Celery and kombu that were imported, and their files.
    modules: dict[str, str]
    #: The command lines of processes that were still there a while after the tests.
    left_behind: list[list[str]]


@dataclass(frozen=True)
class Side:
    """Whose ``dagster_celery`` is tested, and by which interpreter."""

    python: str
    #: The directories of modules that the tests may import.
    path: tuple[Path, ...]


#: This project's, without Celery.
OURS = Side(sys.executable, (HERE / "absent", HERE / "beside", ROOT))


def run(
    sdist: Sdist,
    variables: Mapping[str, str],
    side: Side = OURS,
    plugins: Sequence[str] = (),
) -> Seen:
    """Run the tests of one release.

    They lie in a directory with no other package of dagster-celery. With ``OURS``, Celery and kombu
    cannot be imported, in no process that the tests start.

    Args:
        sdist: the release; of a library on dagster-celery, its package is unpacked as well.
        variables: more for the environment, which has no settings of Celery or Dagster in it.
        side: what they run against.
        plugins: more modules of ``beside`` that pytest loads.

    Raises:
        RuntimeError: The tests can not be had, or pytest does not get as far as to run them.
    """
    package = sdist.project.replace("-", "_")
    tests = f"{package}_tests"
    # Sockets lie below it, and their paths may not be long.
    with tempfile.TemporaryDirectory(prefix="legacy-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        unpack(sdist, tests, directory)
        if package != "dagster_celery":
            unpack(sdist, package, directory)
            unpack(sdist, "conftest.py", directory)
        # Here ends pytest's search for its configuration.
        (directory / "pytest.ini").write_text("[pytest]\n")
        (directory / "tmp").mkdir()
        seen, log = directory / "seen.json", directory / "output.log"
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(NOT_THEIRS)},
            "PATH": f"{Path(side.python).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(map(str, (directory, *side.path))),
            "TMPDIR": str(directory / "tmp"),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "SEEN": str(seen),
            **variables,
        }
        with _nothing_left_of(environment) as left_behind:
            command = _command(side.python, tests, plugins)
            exit_code = _run_pytest(command, directory, log, environment)
        output = log.read_text(errors="replace")
        if not seen.exists():
            raise RuntimeError(f"pytest ended with exit code {exit_code}:\n{output}")
        found = json.loads(seen.read_text())
        return Seen(exit_code, output, left_behind=left_behind, **found)


def _command(python: str, tests: str, plugins: Sequence[str]) -> list[str]:
    loaded = ("observing", "pytest_timeout", *plugins, "no:cacheprovider")
    options = [word for each in loaded for word in ("-p", each)]
    return [python, "-m", "pytest", *options, f"--timeout={PATIENCE}", "-v", "-ra", tests]


def _run_pytest(
    command: Sequence[str], directory: Path, log: Path, environment: Mapping[str, str]
) -> int:
    # A file and no pipe: a worker that is left behind would hold its other end.
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # The tests interrupt themselves, and are not to interrupt these.
            start_new_session=True,
        )
        try:
            return process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            # pytest writes down, on this signal, what every thread is doing.
            process.send_signal(signal.SIGABRT)
            return process.wait(LINGERING)
        finally:
            process.kill()
            process.wait()


@contextmanager
def _nothing_left_of(environment: Mapping[str, str]) -> Iterator[list[list[str]]]:
    """Yield a list which is filled, at the end, with the processes that had to be killed.

    Whatever the tests start, in whichever session, has inherited their environment.
    """
    left_behind: list[list[str]] = []
    deadline = time.monotonic()
    try:
        yield left_behind
        deadline = time.monotonic() + LINGERING
    finally:
        while (processes := _started_by(environment)) and time.monotonic() < deadline:
            time.sleep(0.2)
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                left_behind.append(process.cmdline())
                process.kill()


def _started_by(environment: Mapping[str, str]) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SEEN") == environment["SEEN"]:
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
    return found
