"""How old the workers' heartbeats are, without a clock that all processes share.

AMQP has no command that asks for the server's time, and the clocks of two machines may differ. So
the age of a heartbeat is measured by the process that reads it, from when it first saw it.
"""

from collections.abc import Mapping
from dataclasses import dataclass


class Heartbeats:
    """The heartbeats of all workers as this process has seen them."""

    def __init__(self) -> None:
        self._seen: dict[str, _Heartbeat] = {}

    def ages(self, written_at: Mapping[str, float], now: float, clock: float) -> dict[str, float]:
        """Note the last heartbeat of each worker, and return how many seconds ago it was.

        Args:
            written_at: when each worker wrote its last heartbeat, by its own clock (seconds since
                the epoch), by worker id. Workers that are missing are forgotten.
            now: this process's clock, in seconds since the epoch.
            clock: this process's monotonic clock, in seconds.
        """
        self._seen = {
            worker_id: _next(self._seen.get(worker_id), at, now, clock)
            for worker_id, at in written_at.items()
        }
        return {
            worker_id: each.age_when_seen + clock - each.seen_at
            for worker_id, each in self._seen.items()
        }


@dataclass(frozen=True)
class _Heartbeat:
    """One heartbeat of one worker."""

    #: When it was written, by the worker's clock: what distinguishes it from the next one.
    written_at: float
    #: How old it was when this process first saw it, in seconds, and when that was (monotonic).
    age_when_seen: float
    seen_at: float
    #: When this process last looked (monotonic).
    looked_at: float


def _next(before: _Heartbeat | None, at: float, now: float, clock: float) -> _Heartbeat:
    """Return a worker's last heartbeat, given the one that this process saw before.

    The age of the first one can only be computed from both clocks. A later one was written after
    this process last looked, whatever the clocks show: no wrong clock makes a live worker look
    lost.
    """
    if before is not None and before.written_at == at:
        return _Heartbeat(at, before.age_when_seen, before.seen_at, clock)
    age = max(0.0, now - at)
    if before is not None:
        age = min(age, clock - before.looked_at)
    return _Heartbeat(at, age, clock, clock)
