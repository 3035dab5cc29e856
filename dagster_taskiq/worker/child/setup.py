"""What a child does before its first task, by what its parent has sent."""

import importlib
import sys
from typing import Any

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.execution import tasks
from dagster_taskiq.execution.allowed_code import AllowedCode, set_policy
from dagster_taskiq.execution.perform import describe_failure
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.settings.worker_fleet import set_worker_settings
from dagster_taskiq.tracing import auto
from dagster_taskiq.transport import current
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.relay.relay import Relay
from dagster_taskiq.worker.log_format import log_in_json
from dagster_taskiq.worker.options import LogFormat


def set_up(setup: dict[str, Any]) -> tuple[QueueBroker, str]:
    """Give this process its worker's settings, and import what every task may need.

    Args:
        setup: ``worker_name``; ``log_format``, the form of the worker's log; ``path`` and ``argv``
            of ``sys`` in the parent; the ``settings``; ``relay``, the
            socket by which the worker's connection is shared, or nothing; ``include``, the modules
            to import; ``allow``, the only code that may be loaded, unless empty; ``app``,
            the project's own app or ``None``; ``instrumented``, the parent's ``PYTHONPATH`` if
            ``opentelemetry-instrument`` has started it, else ``None``.

    Returns:
        The broker that has the tasks; and what went wrong, for the user, else nothing.
    """
    # The fork server has its own ones.
    sys.path[:], sys.argv[:] = setup["path"], setup["argv"]
    if setup["instrumented"] is not None:
        auto.instrument(setup["instrumented"])
    if LogFormat(setup["log_format"]) is LogFormat.JSON:
        log_in_json(setup["worker_name"])
    settings = Settings.from_dict(setup["settings"])
    if setup["relay"]:
        current.use_relay(Relay(setup["relay"], settings))
    broker = _prepare(current.use(settings))
    set_worker_settings(broker.settings)
    if setup["allow"]:
        set_policy(AllowedCode.of(setup["allow"], setup["include"]))
    problem = ""
    try:
        if setup["app"]:
            broker = _prepare(current.load(setup["app"]))
    except ConfigError as wrong_app:
        problem = str(wrong_app)
    tasks.register_tasks(broker)
    problem = problem or _import_modules(setup["include"])
    own = None if setup["app"] else current.made_by_project(settings)
    if own is not None:
        broker = _prepare(own)
        tasks.register_tasks(broker)
    return broker, problem


def _prepare(broker: QueueBroker) -> QueueBroker:
    """Let a broker know that tasks are executed here; the worker's service is in the parent."""
    broker.is_worker_process, broker.make_service = True, None
    if isinstance(broker.result_backend, StateBackend):
        broker.result_backend.is_worker_process = True
    return broker


def _import_modules(names: list[str]) -> str:
    """Import the modules that the operator listed; return what went wrong, else nothing."""
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            return f"Cannot import {name}, which --include names: {describe_failure(error)}"
    return ""
