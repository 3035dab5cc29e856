"""Where ops write down what they did, so that tests count facts and not what the engine says."""

import os
from pathlib import Path
from typing import Any

from compat_tests.waiting import eventually

#: Run tag: the directory in which the run's ops leave their notes.
SCRATCH_TAG = "scratch"


class Scratch:
    """A directory of notes: one file for each name, one line for each time it happened."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def of(cls, context: Any) -> "Scratch":
        """Return the directory of the run that an op, an asset or a resource belongs to."""
        return cls(Path(context.run.tags[SCRATCH_TAG]))

    def note(self, name: str, text: str = "") -> None:
        # One write of one line in append mode: it is whole, whoever else writes.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        handle = os.open(self.directory / name, flags, 0o600)
        try:
            os.write(handle, f"{text}\n".encode())
        finally:
            os.close(handle)

    def lines(self, name: str) -> list[str]:
        path = self.directory / name
        return path.read_text().splitlines() if path.exists() else []

    def count(self, name: str) -> int:
        return len(self.lines(name))

    def total(self, prefix: str) -> int:
        """Return how often anything happened whose name begins so."""
        return sum(self.count(path.name) for path in self.directory.glob(f"{prefix}*"))

    def wait_for(self, name: str, times: int = 1) -> None:
        eventually(lambda: self.count(name) >= times, f"{times} x {name!r}")
