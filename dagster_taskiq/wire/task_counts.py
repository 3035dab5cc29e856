"""What a worker has run: counts and times by kind of task, and the tasks that have ended lately.

They travel in the worker's heartbeats. Names of metrics are made of them elsewhere.
"""

import json
import zlib
from base64 import b64decode, b64encode
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar, overload

from typing_extensions import Self

#: The upper bounds of the buckets of a histogram of times, in seconds; the last bucket has none.
BOUNDS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)


class Outcome(str, Enum):
    """How an execution of a task has ended, with its name in metrics, logs and lists."""

    #: It returned; as a step, it has succeeded or was skipped; as a run, it has succeeded.
    SUCCEEDED = "succeeded"
    #: It raised an error; as a step or run, it has failed.
    FAILED = "failed"
    #: Its process died.
    LOST = "lost"
    #: It was cancelled or stopped, or has expired.
    REVOKED = "revoked"
    #: It is to be tried again: by the op's ``RetryPolicy``, or by a user's own task itself.
    RETRIED = "retried"
    #: It goes on in another worker, because this one ends.
    HANDED_OVER = "handed_over"


@dataclass
class Times:
    """A histogram of times."""

    #: How many of them are in each bucket, one more than ``BOUNDS``; not cumulated.
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    #: The sum of them, in seconds.
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one; less than nothing, by two clocks that differ, counts as nothing."""
        seconds = max(0.0, seconds)
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(self.buckets)


@dataclass
class TaskCounts:
    """The counts of one kind of task in one worker, since it started."""

    #: The queue; of launched runs, the one to which their run queue belongs.
    queue: str
    #: The name of the task.
    name: str
    #: The Dagster job; empty for a user's own tasks.
    job: str = ""
    started: int = 0
    #: How many executions have ended in each way.
    ended: dict[Outcome, int] = field(default_factory=dict)
    #: From sending to the start; a delayed task begins to wait when it is due.
    wait: Times = field(default_factory=Times)
    #: From the start to the end.
    run: Times = field(default_factory=Times)

    def to_plain(self) -> dict[str, Any]:
        """Return them as JSON data."""
        return {
            "queue": self.queue,
            "name": self.name,
            "job": self.job,
            "started": self.started,
            "ended": {outcome.value: count for outcome, count in self.ended.items()},
            "wait": [*self.wait.buckets, round(self.wait.seconds, 3)],
            "run": [*self.run.buckets, round(self.run.seconds, 3)],
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "TaskCounts":
        """Return what :meth:`to_plain` has made JSON data of."""
        known = {each.value: each for each in Outcome}
        return cls(
            plain["queue"],
            plain["name"],
            plain["job"],
            plain["started"],
            {known[name]: count for name, count in plain["ended"].items() if name in known},
            Times(plain["wait"][:-1], plain["wait"][-1]),
            Times(plain["run"][:-1], plain["run"][-1]),
        )


@dataclass(frozen=True)
class EndedTask:
    """One execution of a task that has ended. Times are in seconds since the epoch."""

    id: str
    name: str
    #: As in ``TaskCounts``.
    queue: str
    outcome: Outcome
    #: By the clock of its worker.
    started_at: float
    ended_at: float
    job: str = ""
    run_id: str = ""
    step_key: str = ""
    attempt: int = 0
    #: Why it failed, was revoked or lost: one sentence, at most a few hundred characters.
    error: str = ""

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {**self.__dict__, "outcome": self.outcome.value}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "EndedTask":
        """Return what :meth:`to_plain` has made JSON data of, without fields of a newer release.

        An outcome that only a newer release has counts as a failure, which names it.
        """
        known = {name: plain[name] for name in cls.__dataclass_fields__ if name in plain}
        try:
            known["outcome"] = Outcome(plain["outcome"])
        except ValueError:
            known["outcome"] = Outcome.FAILED
            known["error"] = f"{plain['outcome']}: {plain.get('error', '')}".rstrip(": ")
        return cls(**known)


class _Row(Protocol):
    """What :func:`pack` takes."""

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON data."""

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """Return what :meth:`to_plain` has made JSON data of."""


T = TypeVar("T", bound=_Row)


def pack(rows: Iterable[_Row]) -> str:
    """Return rows as a short text; empty if there are none."""
    plain = [each.to_plain() for each in rows]
    if not plain:
        return ""
    return b64encode(zlib.compress(json.dumps(plain).encode(), level=1)).decode()


class Packed(Sequence[T], Generic[T]):
    """Rows of :func:`pack`, which are read when one of them is asked for.

    The loops of runs read the heartbeats of all workers often, and need no counts. A text that is
    none of these raises ``ValueError`` then.
    """

    def __init__(self, text: str, kind: type[T]) -> None:
        """Read nothing yet.

        Args:
            text: as :func:`pack` has made it.
            kind: the class of the rows.
        """
        self._text = text
        self._kind = kind

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process gets of it: nothing that was read."""
        return {"_text": self._text, "_kind": self._kind}

    @cached_property
    def _rows(self) -> tuple[T, ...]:
        if not self._text:
            return ()
        try:
            plain = json.loads(zlib.decompress(b64decode(self._text)))
            return tuple(map(self._kind.from_plain, plain))
        except (zlib.error, AttributeError, LookupError, TypeError) as error:
            raise ValueError(f"These are no rows: {error}") from error

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...

    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        """Return a row, or some."""
        return self._rows[index]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._rows)

    def __iter__(self) -> Iterator[T]:
        """Iterate over them."""
        return iter(self._rows)

    def __eq__(self, other: object) -> bool:
        """Return whether the other has the same rows."""
        return isinstance(other, Sequence) and list(self) == list(other)

    def __hash__(self) -> int:
        """Return that of their text."""
        return hash(self._text)
