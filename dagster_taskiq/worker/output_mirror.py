"""Mirroring what steps print to the worker's own output, for all children in one place.

While Dagster captures the output of a step into files, it also shows it on the process's own
stdout and stderr; by itself it starts, for each step, two ``tail -F`` and two interpreters that
watch them, which costs more than a small step does. Here a child only tells its parent which files
are being written, and one thread of the parent copies them: every byte that is captured is still
mirrored, also the last words of a child that crashed, since the files outlive it.
"""

import contextlib
import logging
import os
import queue
import threading
import time

logger = logging.getLogger("dagster_taskiq.worker.logs")

#: How often a file that is being written is copied from, in seconds.
COPY_SECONDS = 0.25
#: How much is copied at a time, in bytes.
CHUNK_BYTES = 1 << 16
#: How long the end of a worker waits for output that nobody reads, in seconds.
CLOSE_SECONDS = 5.0


class Mirror:
    """The thread that copies, in the parent."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[tuple[str, int] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="dagster-taskiq-mirror", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def report(self, path: str, stream: int) -> None:
        """Begin to copy a file to stdout (1) or stderr (2); 0 copies the rest of it and ends."""
        self._orders.put((path, stream))

    def close(self) -> None:
        """Copy what is left, and end."""
        self._orders.put(None)
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        files: dict[str, CopiedFile] = {}
        open_for_business = True
        while open_for_business:
            # Copying is paced by the clock, not by the orders: many steps cost no more looks.
            next_copy = time.monotonic() + COPY_SECONDS
            ended: list[str] = []
            while True:
                left = next_copy - time.monotonic()
                try:
                    order = (
                        self._orders.get(timeout=max(0.0, left)) if files else self._orders.get()
                    )
                except queue.Empty:
                    break
                if order is None:
                    open_for_business = False
                    break
                path, stream = order
                if stream:
                    with contextlib.suppress(OSError):
                        files[path] = CopiedFile(os.open(path, os.O_RDONLY), stream)
                elif path in files:
                    ended.append(path)
                    break
            for copied in files.values():
                copied.go_on()
            for path in ended if open_for_business else list(files):
                files.pop(path).end()


class CopiedFile:
    """One file that is being copied, in whole lines.

    Several files go to one output, and so does the worker's own log: a line that is half written
    when its turn comes is kept back until the next turn, or others would be written into it. What
    has stood there for a whole turn (a prompt, a progress bar) is shown as it is.
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
            # The worker's output is closed or full; what was captured is in the files.
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
