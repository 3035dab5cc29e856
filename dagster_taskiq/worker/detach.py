"""Starting a worker in the background, and waiting until it reports that it is ready."""

import os
import re
import select
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.env import read_home

#: The directory with the output of background workers, under ``$DAGSTER_HOME``.
LOG_DIRECTORY = Path("dagster_taskiq") / "logs"
#: The variable with the number of the open file to which a worker reports that it is ready.
READY_ENV = "DAGSTER_TASKIQ_READY_FILE"
#: How long the process that has started a worker waits until it is ready, in seconds.
READY_SECONDS = 60.0
#: How many lines of its log are shown of a worker that has ended before it was ready.
LAST_LINES = 15


def start_detached(arguments: Sequence[str], environment: Mapping[str, str], label: str) -> str:
    """Start a worker that outlives this process and its terminal, with its output in a file.

    This returns when the backend has the worker's first heartbeat, so that commands which come
    after it find the worker.

    Args:
        arguments: the command.
        environment: its environment.
        label: goes into the name of the log, under ``$DAGSTER_HOME/dagster_taskiq/logs``; only the
            worker's owner can read it.

    Returns:
        A sentence with its process id and its log.

    Raises:
        ConfigError: ``$DAGSTER_HOME`` is not set, no directory that exists, or one where no log can
            be written; or the worker has ended before it was ready.
    """
    home = read_home()
    if home is None:
        raise ConfigError("A background worker logs under $DAGSTER_HOME, which is not set.")
    directory = home / LOG_DIRECTORY
    name = re.sub(r"[^\w.@-]", "_", label)
    log = directory / f"worker-{name}-{os.getpid()}.log"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        output_file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    except OSError as error:
        raise ConfigError(
            f"Cannot write the log of a background worker, {log}: {error.strerror}. Make "
            "$DAGSTER_HOME writable, or start the worker in the foreground."
        ) from None
    ready, report = os.pipe()
    try:
        with os.fdopen(output_file, "ab") as output:
            process = subprocess.Popen(
                arguments,
                env={**environment, READY_ENV: str(report)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(report,),
            )
    finally:
        os.close(report)
    with os.fdopen(ready, "rb", buffering=0) as file:
        if not select.select([file], [], [], READY_SECONDS)[0]:
            return f"Worker pid {process.pid} is still starting in the background, log {log}"
        if not file.read(1):
            last = "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:])
            raise ConfigError(f"The worker has ended as it started. Its log, {log}, ends:\n{last}")
    return f"Started worker in the background: pid {process.pid}, log {log}"


def report_ready() -> None:
    """Report to the process that has started this worker that it is ready; once."""
    file = os.environ.pop(READY_ENV, "")
    if file.isdigit():
        # The other process may wait no longer.
        with suppress(OSError), os.fdopen(int(file), "wb", buffering=0) as output:
            output.write(b"\n")
