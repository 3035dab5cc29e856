"""The names of all queues of this package on an SQS, and what each is for.

Each begins with the prefix: what follows the region in the URL, else the setting ``prefix``.

===============================  ===================================================================
``<prefix>-<queue>``             Messages of that queue that wait for a worker, with priority 0.
``<prefix>-<queue>--p5``         Those with priority 5; ``--m3`` for -3. SQS has no priorities, so
                                 each that is used has a queue of its own.
``<prefix>-<queue>--runs``       The run queue; ``<prefix>-<queue>--runs--p5`` with a priority.
``<prefix>--rejected``           Messages that were set aside: unreadable, or handed out too often.
===============================  ===================================================================
"""

import re
from dataclasses import dataclass

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.wire.queues import is_run_queue, queue_of_run_queue, run_queue

#: Priorities between these are distinct; one beyond counts as the nearer one.
LOWEST_PRIORITY, HIGHEST_PRIORITY = -10, 10
#: The longest name of a queue, in characters.
NAME_LENGTH = 80

#: What stands between the name of a queue and what is added to it. So it may not be in the name.
_MARK = "--"
_RUNS = "runs"
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_LEVEL = re.compile(r"([pm])([1-9]\d*)")

_RULE = (
    "On SQS, names have letters, digits, - and _ only, no two hyphens in a row, and none at either "
    f"end; the prefix and a queue have at most {NAME_LENGTH} characters together, with what is "
    f"added for runs and priorities ({_MARK}{_RUNS}{_MARK}p10)."
)


@dataclass(frozen=True)
class Lane:
    """A queue on the server: the messages of one queue, or run queue, with one priority."""

    #: The queue, or run queue.
    queue: str
    level: int = 0


def level_of(priority: int) -> int:
    """Return the level of a priority."""
    return min(max(priority, LOWEST_PRIORITY), HIGHEST_PRIORITY)


class Names:
    """The names under one prefix; the table above has the meaning of each."""

    def __init__(self, prefix: str) -> None:
        """Take the prefix.

        Raises:
            ConfigError: no name may begin with it.
        """
        if not _is_name(prefix):
            raise ConfigError(f"The prefix {prefix!r} cannot be used. {_RULE}")
        self.prefix = prefix

    def of(self, lane: Lane) -> str:
        """Return the name of a lane.

        Raises:
            ConfigError: the queue has a name that is not allowed.
        """
        queue = queue_of_run_queue(lane.queue)
        parts = [f"{self.prefix}-{queue}"]
        if is_run_queue(lane.queue):
            parts.append(_RUNS)
        if lane.level:
            parts.append(f"{'p' if lane.level > 0 else 'm'}{abs(lane.level)}")
        name = _MARK.join(parts)
        if not _is_name(queue) or len(name) > NAME_LENGTH:
            raise ConfigError(f"The queue {queue!r} cannot be used. {_RULE}")
        return name

    @property
    def rejected(self) -> str:
        """The queue of the messages that were set aside."""
        return f"{self.prefix}{_MARK}rejected"

    def read(self, name: str) -> Lane | None:
        """Return the lane of a name; ``None`` if it is that of no lane."""
        queue, *parts = name.removeprefix(f"{self.prefix}-").split(_MARK)
        if not name.startswith(f"{self.prefix}-") or not _is_name(queue):
            return None
        if parts and parts[0] == _RUNS:
            queue = run_queue(queue)
            del parts[0]
        if not parts:
            return Lane(queue)
        level = _LEVEL.fullmatch(parts[0])
        if level is None or len(parts) > 1:
            return None
        return Lane(queue, int(level[2]) * (1 if level[1] == "p" else -1))


def _is_name(text: str) -> bool:
    is_plain = _NAME.fullmatch(text) is not None and _MARK not in text
    return is_plain and not text.startswith("-") and not text.endswith("-")
