"""How RabbitMQ keeps messages for a while, with nothing but what every RabbitMQ has.

A queue can keep what it has for a time and then pass it on, the same time for all that is in it.
So a delay is put together from such queues, one for each bit of it: those of 8 s, 4 s and 1 s for
13 s. A message goes through a row of exchanges, the longest wait first. Each looks at one bit of
the delay, which is the routing key: it sends the message into a queue that waits for so long, and
from there to the next exchange; or to that at once. The last one leads to the lane.

The manner is that of NServiceBus. Here each lane has queues of its own, so that what waits for it
can be counted and searched.
"""

import hashlib
import math
from collections.abc import Iterable

from dagster_taskiq.errors import ConfigError

#: What the smallest bit stands for, in seconds: delays are rounded up to it.
UNIT_SECONDS = 0.25
#: How many bits there are. The largest stands for 48 days; no queue can wait for more than 49.
LEVELS = 25
#: The longest delay, in seconds.
LONGEST_SECONDS = (2**LEVELS - 1) * UNIT_SECONDS


def units_of(delay: float) -> int:
    """Return a delay in units, rounded up.

    Args:
        delay: seconds.

    Raises:
        ConfigError: it is longer than ``LONGEST_SECONDS``.
    """
    if delay > LONGEST_SECONDS:
        raise ConfigError(
            f"A delay of {delay:.0f} s is longer than RabbitMQ can keep a message "
            f"({LONGEST_SECONDS:.0f} s, {LONGEST_SECONDS / 86400:.0f} days). Send it later, or use "
            "another broker."
        )
    return math.ceil(delay / UNIT_SECONDS)


def levels_of(units: int) -> list[int]:
    """Return the bits that a delay has, the highest first."""
    return [level for level in reversed(range(LEVELS)) if units >> level & 1]


def wait_of(level: int) -> int:
    """Return for how long the queues of a bit keep a message, in milliseconds."""
    return int(2**level * UNIT_SECONDS * 1000)


def routing_key(units: int, lane: str) -> str:
    """Return the routing key of a message: the bits of its delay, and where it goes then."""
    return _key((str(units >> level & 1) for level in reversed(range(LEVELS))), _word(lane))


def keys_with(level: int, bit: int, lane: str | None = None) -> str:
    """Return what matches the routing keys with a certain bit, of one lane or of all."""
    words = ("*" if each != level else str(bit) for each in reversed(range(LEVELS)))
    return _key(words, _word(lane) if lane is not None else "*")


def keys_to(lane: str) -> str:
    """Return what matches all routing keys of a lane."""
    return f"#.{_word(lane)}"


def _key(words: Iterable[str], last: str) -> str:
    return ".".join((*words, last))


def _word(lane: str) -> str:
    """Return what stands for a lane in a routing key, where dots and stars have a meaning."""
    return hashlib.sha256(lane.encode()).hexdigest()[:32]
