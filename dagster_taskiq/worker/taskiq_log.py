"""What taskiq's receiver logs in the parent of a worker, whose tasks run in its children."""

import logging

from dagster_taskiq.errors import DagsterTaskiqError, TaskHandedOverError

#: To which the receiver writes what becomes of its messages.
receiver = logging.getLogger("taskiq.receiver.receiver")


def shorten() -> None:
    """Shorten it from now on, to what a reader of the worker's log needs."""
    for name in ("taskiq", "taskiq.receiver.receiver", "taskiq.receiver"):
        logging.getLogger(name).addFilter(_in_one_sentence)
    if not logging.getLogger().isEnabledFor(logging.DEBUG):
        # It says of each task that it begins, by the name of the function that all tasks have here.
        receiver.setLevel(logging.WARNING)


def _in_one_sentence(record: logging.LogRecord) -> bool:
    """Shorten taskiq's log of a failed task to one line if the error is one of ours.

    Its traceback would show code of this package only; the text of the error is enough. taskiq's
    warning that a task has no result is dropped: those that this package does not run have none.
    """
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    if isinstance(error, TaskHandedOverError):
        record.levelno, record.levelname = logging.INFO, "INFO"
    if isinstance(error, DagsterTaskiqError):
        record.msg, record.args, record.exc_info = "%s", (str(error),), None
    return not (record.levelno == logging.WARNING and "skipped setting result" in str(record.msg))
