"""The standard streams: Python's objects, and the descriptors 0, 1 and 2 below them."""

import fcntl
import os
import sys
from contextlib import suppress
from typing import Any

from dagster_taskiq.worker.child.process_state.kind import CannotRestoreError

_NAMES = ("stdin", "stdout", "stderr")
#: The lowest number of a copy of a descriptor: above those that programs use.
_LOWEST_COPY = 100


class Descriptors:
    """The descriptors 0, 1 and 2; a copy of each is kept open, so that it can be put back."""

    name = "the standard descriptors"
    of_thread = False

    def __init__(self) -> None:
        self._copies: dict[int, int] = {}
        self._files: dict[int, tuple[int, int]] = {}
        for number in range(3):
            file = _file_of(number)
            if file is not None:
                self._files[number] = file
                self._copies[number] = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _LOWEST_COPY)

    def read(self) -> None:
        """Return nothing: only the files of a new process are put back."""

    def restore(self, wanted: None) -> None:
        """Put back those that are closed, or lead to another file."""
        del wanted
        for number, copy in self._copies.items():
            if _file_of(number) != self._files[number]:
                os.dup2(copy, number)


class Streams:
    """``sys.stdin``, ``sys.stdout`` and ``sys.stderr``."""

    name = "the standard streams"
    of_thread = False

    def read(self) -> dict[str, tuple[Any, ...]]:
        """Return the streams, each with how it is configured."""
        return {name: _look_at(getattr(sys, name)) for name in _NAMES}

    def restore(self, wanted: dict[str, tuple[Any, ...]]) -> None:
        """Put back the streams, after what has been written is flushed.

        Raises:
            CannotRestoreError: one is closed, while others, such as a handler of logging, have it.
        """
        flush()
        closed = []
        for name, (stream, *config) in wanted.items():
            setattr(sys, name, stream)
            found = _look_at(stream)
            if found == (stream, *config):
                continue
            if found[1] is None:
                closed.append(f"a closed sys.{name}")
            else:
                encoding, errors, line_buffering, write_through = config
                stream.reconfigure(
                    encoding=encoding,
                    errors=errors,
                    line_buffering=line_buffering,
                    write_through=write_through,
                )
        flush()
        if closed:
            raise CannotRestoreError(" and ".join(closed))


def flush() -> None:
    """Write what is still in the buffers of the standard streams, as the end of a process does."""
    for stream in (sys.stdout, sys.stderr):
        # Whatever a task has put there; what cannot be written is lost, as there.
        with suppress(Exception):
            stream.flush()


def _file_of(number: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(number)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _look_at(stream: Any) -> tuple[Any, ...]:
    """Return a stream and its configuration, which is ``None`` for one that is closed."""
    try:
        is_closed = getattr(stream, "closed", False)
    except ValueError:  # it has been detached from what is below it
        is_closed = True
    if is_closed:
        return stream, None
    config = ("encoding", "errors", "line_buffering", "write_through")
    return (stream, *(getattr(stream, each, "") for each in config))
