"""Delays: SQS delays a message by fifteen minutes at most.

A message with a longer delay says so in an attribute. Who receives it before it is due sends it
again, with what is left of its delay, and deletes it. If that process dies between the two, there
are two messages, of which one starts the task.
"""

import math
from dataclasses import replace

from dagster_taskiq.transport.sqs.messages import DELAY, Attributes, Received

#: The longest delay of SQS, in seconds.
LONGEST_SECONDS = 900


def server_delay(delay: float) -> int:
    """Return how long SQS is to delay a message, in seconds, rounded up."""
    return min(math.ceil(delay), LONGEST_SECONDS)


def delay_attribute(delay: float) -> Attributes:
    """Return the attribute of a delay that is too long for SQS; else nothing."""
    return {DELAY: f"{delay:.3f}"} if delay > LONGEST_SECONDS else {}


def sent_on(message: Received) -> Received:
    """Return a message as it is sent again before it is due."""
    kept = {name: value for name, value in message.attributes.items() if name != DELAY}
    return replace(message, attributes={**kept, **delay_attribute(message.due_in)})
