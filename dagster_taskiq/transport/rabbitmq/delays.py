"""Delays on RabbitMQ, made of nothing but what every RabbitMQ has. Arithmetic only.

A queue can keep its messages for a time and then pass them on, the same time for all of them. So a
delay is made of several such queues, one for each bit of it: those of 8 s, 4 s and 1 s for 13 s. A
message passes a row of exchanges, the longest wait first. Each looks at one bit of the delay, which
is the routing key: if it is set, the message goes into a queue that keeps it for so long, and from
there to the next exchange; else it goes to the next exchange at once. The last exchange leads to
the message's own queue.

The scheme is that of NServiceBus. Here each queue has delay queues of its own, so that what is
delayed for it can be counted and searched.
"""

import hashlib
import math
from collections.abc import Iterable

from dagster_taskiq.errors import ConfigError

#: The delay of the lowest bit, in seconds: delays are rounded up to a multiple of it.
UNIT_SECONDS = 0.25
#: How many bits there are. The highest is a delay of 48 days; no queue can delay by more than 49.
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
    """Return the levels of the bits that are set in a delay, the highest first."""
    return [level for level in reversed(range(LEVELS)) if units >> level & 1]


def wait_of(level: int) -> int:
    """Return for how long the delay queues of a level keep a message, in milliseconds."""
    return int(2**level * UNIT_SECONDS * 1000)


def routing_key(units: int, queue: str) -> str:
    """Return the routing key of a message: the bits of its delay, and the queue it is for."""
    return _key((str(units >> level & 1) for level in reversed(range(LEVELS))), _word(queue))


def pattern_of_bit(level: int, bit: int, queue: str | None = None) -> str:
    """Return the pattern of the routing keys with a certain bit, for one queue or for all."""
    words = ("*" if each != level else str(bit) for each in reversed(range(LEVELS)))
    return _key(words, _word(queue) if queue is not None else "*")


def pattern_of_queue(queue: str) -> str:
    """Return the pattern of all routing keys for a queue."""
    return f"#.{_word(queue)}"


def _key(words: Iterable[str], last: str) -> str:
    return ".".join((*words, last))


def _word(queue: str) -> str:
    """Return what stands for a queue in a routing key, where dots and stars have a meaning."""
    return hashlib.sha256(queue.encode()).hexdigest()[:32]
