"""Mirroring what steps print to the worker's own output, for all children in one place.

While Dagster captures the output of a step into files, it also shows it on the process's own stdout
and stderr. For that it starts two ``tail -F`` for each step and two interpreters that watch them,
which takes more CPU than a small step. Here a child only reports to its parent which files are
being written, and one thread of the parent copies them. Every byte that is captured is still
mirrored, including the last output of a child that crashed, because the files outlive it.
"""

import contextlib
import logging
import os
import queue
import threading
import time

logger = logging.getLogger(__name__)

#: How often a file that is being written is copied from, in seconds.
COPY_SECONDS = 0.25
#: How much is copied at a time, in bytes.
CHUNK_BYTES = 1 << 16
#: How long a worker that ends waits until the last output is copied, in seconds.
CLOSE_SECONDS = 5.0


class Mirror:
    """The thread that copies, in the parent."""

    def __init__(self) -> None:
        self._reports: queue.SimpleQueue[tuple[str, int] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="dagster-taskiq-mirror", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def report(self, path: str, stream: int) -> None:
        """Begin to copy a file to stdout (1) or stderr (2); 0 copies the rest of it and ends."""
        self._reports.put((path, stream))

    def close(self) -> None:
        """Copy what is left, and end."""
        self._reports.put(None)
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        files: dict[str, CopiedFile] = {}
        is_open = True
        while is_open:
            # Files are read at fixed times, so that many steps need no more reads.
            next_copy = time.monotonic() + COPY_SECONDS
            ended: list[str] = []
            while True:
                left = next_copy - time.monotonic()
                try:
                    reported = (
                        self._reports.get(timeout=max(0.0, left)) if files else self._reports.get()
                    )
                except queue.Empty:
                    break
                if reported is None:
                    is_open = False
                    break
                path, stream = reported
                if stream:
                    with contextlib.suppress(OSError):
                        files[path] = CopiedFile(os.open(path, os.O_RDONLY), stream)
                elif path in files:
                    ended.append(path)
                    break
            for copied in files.values():
                copied.go_on()
            for path in ended if is_open else list(files):
                files.pop(path).end()


class CopiedFile:
    """One file that is being copied, in whole lines.

    Several files are copied to one output, which has the worker's own log as well. A line that is
    only half written is therefore kept back, or others would be written into it. If it has not
    grown when the file is read again (a prompt, a progress bar), it is shown as it is.
    """

    def __init__(self, source: int, target: int) -> None:
        self._source = source
        self._target = target
        self._kept_back = b""

    def go_on(self) -> None:
        """Copy what has come since the last time, up to its last whole line."""
        grew = False
        try:
            while part := os.read(self._source, CHUNK_BYTES):
                grew = True
                text = self._kept_back + part
                end = text.rfind(b"\n") + 1 or (len(text) if len(text) > CHUNK_BYTES else 0)
                self._kept_back = text[end:]
                self._write(text[:end])
            if not grew:
                self._show_kept_back()
        except OSError as error:
            # The worker's output is closed or full. The files still have what was captured.
            logger.debug("Could not mirror: %s", error)

    def end(self) -> None:
        """Copy the rest, and close the file."""
        self.go_on()
        with contextlib.suppress(OSError):
            self._show_kept_back()
        os.close(self._source)

    def _show_kept_back(self) -> None:
        kept_back, self._kept_back = self._kept_back, b""
        self._write(kept_back)

    def _write(self, part: bytes) -> None:
        while part:
            part = part[os.write(self._target, part) :]
