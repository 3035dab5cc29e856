"""Mirroring what a step prints from a child's parent, and not from a process of each step's own."""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from typing import IO, Any

import wrapt

from dagster_taskiq.dagster_internals.part import DagsterPart

#: The function of Dagster that captures output; the cloud log managers capture through it.
_MODULE = "dagster._core.storage.local_compute_log_manager"
_FUNCTION = "mirror_stream_to_file"
#: What is used in its place: Dagster's own, without the copying to the terminal.
_REDIRECT = ("dagster._core.execution.compute_logs", "redirect_to_file")
_ENSURE = ("dagster._utils", "ensure_file")

#: Tells the parent that a file begins or ends to be written: its path, and 1 or 2 for the stream
#: it belongs to; 0 at the end.
Report = Callable[[str, int], None]


def _find(module: str, name: str) -> Any:
    return getattr(import_module(module), name)


def _check() -> str:
    for module, name in (_REDIRECT, _ENSURE):
        _find(module, name)
    parameters = list(inspect.signature(_find(_MODULE, _FUNCTION)).parameters)
    if parameters != ["stream", "filepath"]:
        return f"{_FUNCTION} has the parameters {parameters}"
    return ""


PART = DagsterPart(
    name="mirrored compute logs",
    touches=f"{_MODULE}.{_FUNCTION} (replaced)",
    why=(
        "Dagster starts two processes for each step that copy what it prints to the terminal, "
        "which takes longer than a small step. The parent of a worker's children copies it instead."
    ),
    otherwise="Dagster copies what a step prints by itself.",
    check=_check,
)


def install(report: Report) -> bool:
    """Let the parent mirror what is captured in this child, from now on.

    Args:
        report: called when a file begins or ends to be written.

    Returns:
        Whether Dagster is as expected; otherwise nothing is changed.
    """
    if PART.find_problem():
        return False
    redirect_to_file, ensure_file = _find(*_REDIRECT), _find(*_ENSURE)

    @contextmanager
    def capture(stream: IO[str], filepath: str) -> Iterator[tuple[None, None]]:
        ensure_file(filepath)
        report(filepath, 2 if stream is sys.stderr else 1)
        try:
            with redirect_to_file(stream, filepath):
                yield (None, None)
        finally:
            report(filepath, 0)

    def mirror(
        _wrapped: Any, _instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AbstractContextManager[tuple[None, None]]:
        return capture(*args, **kwargs)

    wrapt.wrap_function_wrapper(import_module(_MODULE), _FUNCTION, mirror)
    return True
