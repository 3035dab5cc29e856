"""Dagster's copying of a step's output into its compute log."""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

#: The name, in Dagster's module, of what is replaced; the cloud log managers capture through it.
_NAME = "mirror_stream_to_file"


#: Tells the parent that a file begins or ends to be written: its path, and 1 or 2 for the stream
#: it belongs to; 0 at the end.
Report = Callable[[str, int], None]


def install(report: Report) -> bool:
    """Let this child's captures be mirrored by its parent, from now on.

    Returns:
        Whether that was possible. Where Dagster's inside is not as expected, nothing is changed,
        and Dagster mirrors by itself as it always has.
    """
    # Imported here: the parent, which only copies, has no use for Dagster.
    from dagster._core.storage import local_compute_log_manager  # noqa: PLC0415

    theirs = getattr(local_compute_log_manager, _NAME, None)
    redirect, ensure = _dagster_parts()
    if theirs is None or redirect is None or ensure is None:
        return False
    if list(inspect.signature(theirs).parameters) != ["stream", "filepath"]:
        return False

    @contextmanager
    def mirror_stream_to_file(stream: IO[str], filepath: str) -> Iterator[tuple[None, None]]:
        ensure(filepath)
        report(filepath, 2 if stream is sys.stderr else 1)
        try:
            with redirect(stream, filepath):
                yield (None, None)
        finally:
            report(filepath, 0)

    setattr(local_compute_log_manager, _NAME, mirror_stream_to_file)
    return True


def _dagster_parts() -> tuple[Any, Any]:
    try:
        from dagster._core.execution.compute_logs import redirect_to_file  # noqa: PLC0415
        from dagster._utils import ensure_file  # noqa: PLC0415
    except ImportError:
        return None, None
    return redirect_to_file, ensure_file
