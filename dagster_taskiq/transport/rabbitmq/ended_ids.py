"""The ids of tasks whose records have been moved out of the record of their shard.

A message that comes again must not start its task again. So each id leaves a digest of a few bytes
in the record, beside its JSON, for at least as long as the task is remembered.
"""

import struct
from hashlib import blake2b

from dagster_taskiq.transport.rabbitmq.records import Record

#: How many bytes of an id are kept. That two ids have the same ones does no harm: the ended tasks
#: are searched then, for nothing.
DIGEST_BYTES = 6

#: What stands before the digests of a period: when it began, and how many there are.
_HEAD = struct.Struct("!dI")


class EndedIds:
    """The digests in one record, by the periods in which their tasks were moved out."""

    def __init__(self, record: Record) -> None:
        """Read them; changes are made in the record."""
        self._record = record
        self._periods: list[tuple[float, bytes]] = []
        rest, at = record.rest, 0
        while at < len(rest):
            begun_at, count = _HEAD.unpack_from(rest, at)
            at += _HEAD.size
            self._periods.append((begun_at, rest[at : at + count * DIGEST_BYTES]))
            at += count * DIGEST_BYTES

    def __contains__(self, task_id: str) -> bool:
        """Whether a task with this id may have been moved out."""
        return self.moved_after(task_id) is not None

    def moved_after(self, task_id: str) -> float | None:
        """Return a time after which a task was moved out; ``None`` if it has not been."""
        digest = _digest(task_id)
        for begun_at, digests in reversed(self._periods):
            if _find(digests, digest) >= 0:
                return begun_at
        return None

    def add(self, task_ids: list[str], now: float, period: float) -> None:
        """Add ids of tasks that are moved out now.

        Args:
            task_ids: theirs.
            now: seconds since the epoch.
            period: for how many seconds ids are kept together.
        """
        if not self._periods or self._periods[-1][0] < now - period:
            self._periods.append((now, b""))
        begun_at, digests = self._periods[-1]
        self._periods[-1] = (begun_at, digests + b"".join(map(_digest, task_ids)))
        self._write()

    def discard(self, task_id: str) -> None:
        """Forget an id."""
        digest = _digest(task_id)
        for number, (begun_at, digests) in enumerate(self._periods):
            at = _find(digests, digest)
            if at >= 0:
                self._periods[number] = (begun_at, digests[:at] + digests[at + DIGEST_BYTES :])
        self._write()

    def drop_before(self, time: float) -> None:
        """Forget the periods that began before a time."""
        if self._periods and self._periods[0][0] < time:
            self._periods = [each for each in self._periods if each[0] >= time]
            self._write()

    def _write(self) -> None:
        self._record.rest = b"".join(
            _HEAD.pack(begun_at, len(digests) // DIGEST_BYTES) + digests
            for begun_at, digests in self._periods
            if digests
        )


def _digest(task_id: str) -> bytes:
    return blake2b(task_id.encode(), digest_size=DIGEST_BYTES).digest()


def _find(digests: bytes, digest: bytes) -> int:
    """Return where a digest is among others; -1 if it is not there."""
    at = digests.find(digest)
    while at >= 0 and at % DIGEST_BYTES:
        at = digests.find(digest, at + 1)
    return at
