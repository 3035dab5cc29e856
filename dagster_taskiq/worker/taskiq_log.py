"""What taskiq's receiver logs in the parent of a worker, whose tasks run in its children."""

import logging

from dagster_taskiq.errors import DagsterTaskiqError

#: To which the receiver writes what becomes of its messages.
receiver = logging.getLogger("taskiq.receiver.receiver")


def shorten() -> None:
    """Shorten it from now on, to what a reader of the worker's log needs."""
    for name in ("taskiq", "taskiq.receiver.receiver", "taskiq.receiver"):
        logging.getLogger(name).addFilter(_shortened)
    if not logging.getLogger().isEnabledFor(logging.DEBUG):
        receiver.setLevel(logging.WARNING)


def _shortened(record: logging.LogRecord) -> bool:
    """Shorten a record, or make it one for debugging; return whether it is shown.

    The worker has lines of its own for starts and ends. For an error of ours, the traceback would
    show code of this package only; its text is enough.
    """
    if record.levelno == logging.WARNING and "skipped setting result" in str(record.msg):
        return False  # those that this package does not run have none
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    is_ours = isinstance(error, DagsterTaskiqError)
    if record.levelno == logging.INFO:
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
    if is_ours:
        record.msg, record.args, record.exc_info = "%s", (str(error),), None
    return record.levelno > logging.DEBUG or logging.getLogger().isEnabledFor(logging.DEBUG)
