"""Warnings about the names of dagster-celery, at the lines of the user's that have them."""

import os
import sys
import sysconfig
from pathlib import Path
from types import FrameType

from dagster_taskiq.deprecations import (
    DagsterTaskiqDeprecationWarning,
    warn_at,
    warn_older,
    warn_shown,
)
from dagster_taskiq.settings.worker_fleet import worker_settings

#: The category of all warnings about older names, also of those of the engine, by the name that
#: filters of users have it. It is the same class, so that such a filter applies to all of them.
DagsterCeleryDeprecationWarning = DagsterTaskiqDeprecationWarning


class DagsterCeleryWarning(UserWarning):
    """Something that a project asks for is not done here; the text has what to do instead."""


#: Packages whose lines no user can change: Dagster's own, and ours.
_NOT_THE_USERS = frozenset(
    {
        "dagster",
        "dagster_celery",
        "dagster_celery_docker",
        "dagster_celery_k8s",
        "dagster_graphql",
        "dagster_shared",
        "dagster_taskiq",
        "dagster_webserver",
    }
)

#: The directory of console scripts, which import what they run.
_SCRIPTS = str(Path(sysconfig.get_path("scripts")).resolve()) + os.sep
#: The directories of Python, installed packages and console scripts; a project is not in them.
_INSTALLED = tuple(
    {
        str(Path(path).resolve()) + os.sep
        for name, path in sysconfig.get_paths().items()
        if name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")
    }
)


def warn_user(text: str) -> None:
    """Warn at the innermost line of the user's that is being executed.

    If there is none, as in a process of Dagster's, the file is called ``<configuration>``.

    Args:
        text: as for :func:`dagster_taskiq.deprecations.warn_older`.
    """
    warn_older(text, *_users_place())


def warn_of_loss(text: str, file: str | None = None, line: int = 1) -> None:
    """Warn that something which was asked for is not done here; Python shows that by default.

    Like :func:`dagster_taskiq.deprecations.warn_older`, it raises nothing: what is configured is
    read by processes that have to start. In a child of a worker, only what a task configures is
    shown: the rest is what the worker has shown, and each new child reads it again.

    Args:
        text: what is not done, and what to do instead; one or two sentences.
        file: the file that asks for it; ``None`` for the innermost line of the user's that is being
            executed.
        line: the line in the file, from 1.
    """
    if worker_settings() is not None and (file is not None or not _is_task()):
        return
    if file is None:
        file, line = _users_place()
    warn_shown(text, DagsterCeleryWarning, file, line)


def warn_importer(text: str, depth: int) -> None:
    """Warn at the line that imports or reads a name, unless it is Dagster's or ours.

    Args:
        text: as for :func:`dagster_taskiq.deprecations.warn_older`.
        depth: how many frames up the line is, as for ``warnings.warn``.

    Raises:
        DagsterCeleryDeprecationWarning: the user has turned this category into errors, and the line
            is not one of an installed package, which the user could not change.
    """
    frame = sys._getframe(depth)
    file = frame.f_code.co_filename
    if file.startswith(_SCRIPTS):
        return
    # The import system asks first whether the name is there; then the line itself reads it.
    if _package_of(frame) not in _NOT_THE_USERS | {"importlib"}:
        warn = warn_older if _is_installed(file) else warn_at
        warn(text, file, frame.f_lineno)


def _is_task() -> bool:
    """Whether this process, a child of a worker, executes a task."""
    # Imported here, as it imports taskiq, which few processes need that read a configuration. A
    # child of a worker has it.
    from dagster_taskiq.execution.task_context import current_message  # noqa: PLC0415

    return current_message() is not None


def _users_place() -> tuple[str, int]:
    """Return file and line of the user's innermost line that is being executed."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if _is_users(frame):
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    return "<configuration>", 1


def _is_users(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    if file.startswith("<") or _package_of(frame) in _NOT_THE_USERS:
        return False
    return not _is_installed(file)


def _is_installed(file: str) -> bool:
    return str(Path(file).absolute()).startswith(_INSTALLED)


def _package_of(frame: FrameType) -> str:
    name, spec = frame.f_globals.get("__name__", ""), frame.f_globals.get("__spec__")
    if name == "__main__" and spec is not None:  # `python -m` names the module __main__
        name = spec.name
    return str(name).partition(".")[0]
