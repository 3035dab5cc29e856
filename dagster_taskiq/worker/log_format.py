"""The form of a worker's log: text for people, or JSON for what collects logs.

In JSON each line is an object with ``timestamp``, ``level``, ``logger``, ``message``, ``worker``,
and the fields of the task that it is about; and ``exception``, if there is one.
"""

import logging
import sys
from collections.abc import Mapping
from typing import Any, TypeVar

from dagster_taskiq.execution.task_context import current_message
from dagster_taskiq.wire.labels import JOB_LABEL, QUEUE_LABEL, RUN_LABEL, STEP_LABEL
from dagster_taskiq.worker.options import LogFormat

H = TypeVar("H", bound=logging.Handler)


_TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
#: What each line has of the record of Python's logging, and by which name.
_NAMES = {"levelname": "level", "name": "logger", "message": "message", "exc_info": "exception"}
#: The fields of the task, by their labels.
_FIELDS = {
    "queue": QUEUE_LABEL,
    "job": JOB_LABEL,
    "run_id": RUN_LABEL,
    "step_key": STEP_LABEL,
}


def log_to_stderr(level: str, log_format: LogFormat, worker: str) -> None:
    """Have this process, the parent of a worker, log to its stderr.

    Args:
        level: the least severe level that is logged.
        log_format: the form.
        worker: the name of the worker.
    """
    if log_format is LogFormat.TEXT:
        logging.basicConfig(level=level, format=_TEXT)
    else:
        logging.basicConfig(level=level, handlers=[_in_json(logging.StreamHandler(), worker)])


def log_in_json(worker: str) -> None:
    """Have this process, a child of a worker, log in JSON what nobody has configured otherwise.

    Args:
        worker: the name of the worker.
    """
    logging.lastResort = _in_json(_LastResort(logging.WARNING), worker)


class _LastResort(logging.Handler):
    """As Python's own handler of that name: it writes to what is ``sys.stderr`` at the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record (Python's own hook)."""
        try:
            sys.stderr.write(f"{self.format(record)}\n")
            sys.stderr.flush()
        except Exception:  # as Python's own does
            self.handleError(record)


def _in_json(handler: H, worker: str) -> H:
    # Imported here: few workers have it.
    from pythonjsonlogger.json import JsonFormatter  # noqa: PLC0415

    names = " ".join(f"%({name})s" for name in _NAMES if name != "exc_info")
    handler.setFormatter(
        JsonFormatter(names, timestamp=True, rename_fields=_NAMES, static_fields={"worker": worker})
    )
    handler.addFilter(_add_task)
    return handler


def _add_task(record: logging.LogRecord) -> bool:
    """Add the fields of the task that is executed now, or that the parent is concerned with."""
    message = current_message()
    if message is not None:
        vars(record).update(task_id=message.task_id, task=message.task_name)
        vars(record).update(_present(message.labels))
    return True


def _present(labels: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(labels[label]) for name, label in _FIELDS.items() if labels.get(label)}
