"""What a worker shows first of all: what it serves, on which server, and how it is stopped."""

import logging
import platform
from importlib.metadata import version

from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.settings.urls import redact
from dagster_taskiq.version import __version__
from dagster_taskiq.worker.options import LogFormat, WorkerOptions

logger = logging.getLogger("dagster_taskiq.worker")


def log_banner(settings: Settings, options: WorkerOptions) -> None:
    """Log that a worker starts: lines for people, or one sentence with fields for programs.

    Args:
        settings: broker and backend.
        options: the worker's.
    """
    broker, backend = redact(settings.broker), redact(settings.backend_url)
    pool = options.pool
    dagster, python = version("dagster"), platform.python_version()
    if pool.log_format is LogFormat.JSON:
        fields = {
            "broker": broker,
            "backend": backend,
            "queues": list(options.queues),
            "slots": pool.concurrency,
            "slots_source": options.slots_source,
            "max_runs": pool.max_runs,
            "dagster_taskiq": __version__,
            "dagster": dagster,
            "python": python,
        }
        logger.info("Worker %s starts.", options.name, extra=fields)
        return
    lines = {
        "broker": broker,
        "backend": backend if backend != broker else "",
        "queues": ", ".join(options.queues),
        "slots": f"{pool.concurrency} ({options.slots_source}); holds up to {pool.max_runs} runs",
        "release": f"{__version__}; Dagster {dagster}, Python {python}",
        "Ctrl-C": "finish and leave; again: stop",
    }
    shown = [f"    {name:<8} {text}" for name, text in lines.items() if text]
    logger.info("%s", "\n".join([f"Worker {options.name} starts.", *shown]))
